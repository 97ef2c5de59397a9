"""Declare a group of units by hand, where tracing cannot follow an operator: `declare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import CertificateError, GroupError, unknown
from sentei.network.example import check, undisturbed
from sentei.network.finished import refuse_finished
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.units import KINDS, Listener, Neurons
from sentei.running import Example, Forward

LAYOUTS = 16  # ways to lay out positions that are tried

Places = Annotated[
    Mapping[str, Any], "a dict of names of parameters with dimensions, such as {'fc.weight': 1}"
]


@checked
def declare(
    model: nn.Module,
    example: Example,
    producers: Places,
    listeners: Places,
    followers: Places | None = None,
    name: str | None = None,
    kind: str = "neuron",
    units: int | None = None,
    forward: Forward | None = None,
) -> Neurons:
    """Make a group of units of what the caller knows, and check that its units can be removed.

    For example, where a layer passes its outputs to an operator that tracing cannot follow:

        group = declare(model, x, producers={"fc1.weight": 0, "fc1.bias": 0},
                        listeners={"fc2.weight": 1})

    The group is then used like those of `find_units`. Each of `producers`, `followers` and
    `listeners` names parameters (followers also buffers), each with the dimension that its units
    index, or with a pair (dimension, index). The index, (units,) or (units, positions per unit),
    lists the positions of each unit. Without one, a unit has one position, or as many as divide the
    dimension: consecutive ones, as where a convolution is flattened, or every n-th, as where halves
    are gated. Which of the two is found by trying; parameters with as many positions have them laid
    out alike.

    Cuts are made and certified as by `shrink`, so many that each two units are told apart: about
    ten for a group of a thousand. The model does not change.

    Args:
        model: any network that runs on `example`.
        example: as for `find_units`.
        producers: tensors whose rows compute the units: weights and biases. Empty for inputs.
        listeners: tensors whose columns read the units.
        followers: tensors that pass the units on one by one, such as the weight, bias,
            running_mean and running_var of a batch norm.
        name: name of the group; that of the layer of the first producer if None.
        kind: "neuron", "channel", "head", "input" or "stream".
        units: number of units; the smallest number of positions if None.
        forward: as for `find_units`.

    Raises:
        StructureError: the network was quantised, exported or scripted, or is in shards.
        GroupError: a name, dimension or index that the model does not have, positions that do not
            fit the number of units or belong to two of them, or a part that is missing.
        CertificateError: without some of the units the smaller network computes something else than
            the masked one; the message says what.
        DataError: the example does not run.
    """
    refuse_finished(model)
    given = {"producers": producers, "followers": followers or {}, "listeners": listeners}
    parts = [part for role, places in given.items() for part in _parts(model, role, places)]
    _check_roles(given, kind)
    size = _number_of_units(parts, units)
    example = with_forward(model, example, forward)
    with undisturbed(model):
        check(model, example)
    wrong: list[tuple[Neurons, str]] = []
    for layout in _layouts(parts, size):
        group = _group(parts, layout, name, kind, size)
        why = _why_not(model, group, example)
        if why is None:
            return group
        wrong.append((group, why))
    group, why = wrong[0]
    raise CertificateError(
        f"the declared group {group.name!r} cannot be cut: {why}. Name every parameter whose rows "
        "compute these units (producers), that passes them on one by one (followers, such as a "
        "batch norm) and whose columns read them (listeners). Where the positions of a unit are "
        "neither consecutive nor every n-th, pass (dimension, index)."
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """A place that was declared: positions along a dimension of a tensor; without index, all."""

    role: str
    name: str
    tensor: Tensor
    dim: int
    index: Tensor | None

    @property
    def positions(self) -> int:
        return self.tensor.shape[self.dim]

    def __str__(self) -> str:
        return f"dimension {self.dim} of {self.name!r}, of shape {tuple(self.tensor.shape)},"


# What was declared.


def _parts(model: nn.Module, role: str, places: Mapping[str, Any]) -> Iterator[_Part]:
    """Read the places of one role.

    Raises:
        GroupError: a place that the model does not have, or that is named twice.
    """
    held = dict(model.named_parameters(remove_duplicate=False))
    if role == "followers":
        held |= dict(model.named_buffers())
    seen: dict[tuple[int, int], str] = {}
    for name, where in places.items():
        tensor = _tensor(model, role, name, held)
        dim, index = (
            where if isinstance(where, (tuple, list)) and len(where) == 2 else (where, None)
        )
        part = _Part(role, name, tensor, _dimension(name, tensor, dim), None)
        if index is not None:
            part = _Part(role, name, tensor, part.dim, _index(part, index))
        other = seen.setdefault((id(tensor), part.dim), name)
        if other != name:
            raise GroupError(
                f"{role} name each tensor once; {other!r} and {name!r} are the same tensor. Leave "
                "one of them out."
            )
        yield part


def _tensor(model: nn.Module, role: str, name: Any, held: Mapping[str, Tensor]) -> Tensor:
    if name in held:
        return held[name]
    if name in dict(model.named_buffers()):
        raise GroupError(
            f"{role} are parameters; {name!r} is a buffer, which can only be among followers="
        )
    near = get_close_matches(str(name), held, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise GroupError(f"{role} are named as in model.named_parameters(); it has no {name!r}.{hint}")


def _dimension(name: str, tensor: Tensor, dim: Any) -> int:
    is_whole = isinstance(dim, int) and not isinstance(dim, bool)
    if not is_whole or not -tensor.ndim <= dim < tensor.ndim:
        raise GroupError(
            f"{name!r}, of shape {tuple(tensor.shape)}, is declared with one of its dimensions, "
            f"0 to {tensor.ndim - 1}, or a pair (dimension, index); got {dim!r}"
        )
    return dim % tensor.ndim


def _index(part: _Part, given: Any) -> Tensor:
    """Return the index of a place as (units, positions per unit), int64.

    Raises:
        GroupError: it is not such a table of positions, or a position belongs to two units.
    """
    try:
        index = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise GroupError(f"the index of {part} has to be a table of positions: {error}") from error
    kind = index.dtype
    if (
        index.ndim not in (1, 2)
        or not index.numel()
        or kind.is_floating_point
        or kind == torch.bool
    ):
        raise GroupError(
            f"the index of {part} has to be of whole numbers, (units,) or (units, positions per "
            f"unit); got {kind} of shape {tuple(index.shape)}"
        )
    index = index.long().reshape(len(index), -1)
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= part.positions:
        raise GroupError(
            f"the index of {part} has to lie within 0 to {part.positions - 1}; it has "
            f"{low if low < 0 else high}"
        )
    values, count = index.unique(return_counts=True)
    if (count > 1).any():
        raise GroupError(
            f"each position belongs to one unit; the index of {part} has position "
            f"{int(values[count > 1][0])} twice"
        )
    return index


def _check_roles(given: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    if kind not in KINDS:
        raise GroupError(unknown("kind", kind, KINDS))
    if not given["listeners"]:
        raise GroupError(
            "a unit is removed by setting the columns that read it to zero; listeners= is empty. "
            "Name the weights that read the units."
        )
    if kind == "input" and given["producers"]:
        raise GroupError(
            "nothing computes the network's inputs; leave producers= empty, or give another kind="
        )
    if kind != "input" and not given["producers"]:
        raise GroupError(
            "producers= has to name the tensors whose rows compute the units, such as a weight and "
            'its bias; it is empty. Only units of kind="input" have none.'
        )


def _number_of_units(parts: Sequence[_Part], units: int | None) -> int:
    """Return the number of units.

    Raises:
        GroupError: it does not fit a place.
    """
    rows = [part.positions if part.index is None else len(part.index) for part in parts]
    size = min(rows) if units is None else units
    for part, positions in zip(parts, rows, strict=True):
        if size < 1 or (positions % size if part.index is None else positions != size):
            have = "positions" if part.index is None else "rows in its index"
            raise GroupError(
                f"each unit has as many positions in a place as every other; with {size} units, "
                f"{part} has {positions} {have}. Pass units=, or (dimension, index)."
            )
    return size


# The group, and its trial.


def _layouts(parts: Sequence[_Part], size: int) -> Iterator[dict[int, bool]]:
    """Yield for each number of positions whether those of a unit are consecutive.

    Raises:
        GroupError: there are too many ways.
    """
    open_ = sorted({p.positions for p in parts if p.index is None and p.positions > size > 1})
    if 2 ** len(open_) > LAYOUTS:
        raise GroupError(
            f"positions of a unit, consecutive or every n-th ones, are laid out in {LAYOUTS} ways "
            f"at most; dimensions of {open_} positions make more. Pass (dimension, index)."
        )
    for consecutive in product((True, False), repeat=len(open_)):
        yield dict(zip(open_, consecutive, strict=True))


def _group(
    parts: Sequence[_Part], layout: Mapping[int, bool], name: str | None, kind: str, size: int
) -> Neurons:
    by_role: dict[str, list[Listener]] = {"producers": [], "followers": [], "listeners": []}
    for part in parts:
        index = part.index
        if index is None:
            every = torch.arange(part.positions)
            consecutive = layout.get(part.positions, True)
            index = (
                every.reshape(size, -1) if consecutive else every.reshape(-1, size).T.contiguous()
            )
        layer = part.name.rpartition(".")[0]
        by_role[part.role].append(Listener(layer, part.name, part.dim, index))
    first = (by_role["producers"] or by_role["listeners"])[0]
    named = name or first.layer or first.parameter
    group = Neurons(named, kind, size, **{role: tuple(own) for role, own in by_role.items()})
    if size <= group.least:
        raise GroupError(
            f"a group needs more units than may remain, so that removing some can be tried; "
            f"{named!r} has {size}, and {group.least} may remain"
        )
    return group


def _why_not(model: nn.Module, group: Neurons, example: Example) -> str | None:
    """Return what the certificate of a cut says against it; None if all cuts are certified.

    Each two units are told apart by a cut that removes only one of them: cut b removes the units
    whose number, counted from 1, has bit b.
    """
    for bit in range(group.size.bit_length()):
        doomed = [unit for unit in range(group.size) if (unit + 1) >> bit & 1]
        try:
            shrink(model, Mask.full([group]).without({group: doomed}), example)
        except CertificateError as error:
            return str(error.__cause__ or error).rstrip(".")
    return None
