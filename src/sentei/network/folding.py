"""Handing over a removed unit's work, and finding what has died as a result.

A unit whose output is an affine mix of surviving units can go without any change: its column is
added to theirs, the constant to the listener's bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sentei.errors import GroupError, StructureError
from sentei.network.calls import Call, Calls
from sentei.network.example import Example, as_found, run
from sentei.network.mask import Mask
from sentei.network.units import Listener, Neurons

CONSTANT = 1e-6  # largest spread of an output that counts as constant, as a part of its size


@torch.no_grad()
def fold_(model: nn.Module, group: Neurons, units: Tensor, mix: Mapping[Listener, Tensor]) -> None:
    """Hand the work of `units` over to the survivors, in the weights of their listeners.

    Args:
        model: changed in place, unless an error is raised.
        group: whose units go.
        units: (k,) positions that go; their columns are zero afterwards.
        mix: for each listener (k, size + 1): each unit as a mix of all units (zero for those that
            go) and, last, a constant.

    Raises:
        GroupError: a mix of the wrong shape, or one that leans on a unit that goes.
        StructureError: a constant meets a listener without a bias.
    """
    listeners = {part: part for part in group.listeners}
    for part, weights in mix.items():
        if part not in listeners or weights.shape != (len(units), group.size + 1):
            raise GroupError(
                f"a mix for {group.name!r} needs shape {(len(units), group.size + 1)} for one "
                f"of its listeners; got {tuple(weights.shape)} for {part.parameter!r}"
            )
        if weights[:, units].count_nonzero():
            raise GroupError(f"a mix for group {group.name!r} leans on units that go themselves")
        if weights[:, -1].count_nonzero() and _bias(model, part) is None:
            raise StructureError(
                f"listener {part.layer!r} has no bias to hold a constant; give it one (bias=True)"
            )
    for part, weights in mix.items():
        _fold_into_(model, part, units, weights)


def _fold_into_(model: nn.Module, part: Listener, units: Tensor, weights: Tensor) -> None:
    weight = model.get_parameter(part.parameter)
    index = part.index.to(weight.device)
    moved = weight.movedim(part.dim, 0)  # a view: columns first
    leaving = moved[index[units]]  # (k, columns per unit, ...)
    shares = weights.to(weight)
    moved[index] += torch.einsum("ks,kc...->sc...", shares[:, :-1], leaving)
    constant = _bias(model, part)
    if constant is not None:
        total = torch.einsum("k,kc...->c...", shares[:, -1], leaving).sum(0)
        constant += total.reshape(constant.shape[0], -1).sum(1)
    moved[index[units].flatten()] = 0


def _bias(model: nn.Module, part: Listener) -> Tensor | None:
    """The bias of a listener whose rows are the first of its other dimensions."""
    bias = getattr(model.get_submodule(part.layer), "bias", None)
    return bias if isinstance(bias, Tensor) else None


def sweep_(model: nn.Module, mask: Mask, example: Example) -> Mask:
    """Find what has become dead or constant as a result of what is dead, to a fixpoint.

    A unit whose columns are all dead is unread: it dies. A unit whose incoming weights are all dead
    is deaf: it puts out a constant, which is folded into its listeners' biases, and it dies; where
    the constant cannot be folded exactly (zero padding, no bias) it stays. Inputs die unread like
    units, if the mask holds them.

    Args:
        model: already masked; biases and columns of deaf units change in place.
        mask: what is alive.
        example: inputs on which constants are read off.

    Returns:
        The mask with the swept units dead as well.
    """
    while True:
        unread = {
            g: u for g in mask.groups if isinstance(g, Neurons) for u in [_unread(model, mask, g)]
        }
        found = {group: units for group, units in unread.items() if units.numel()}
        if not found:
            found = dict(_constant_units(model, mask, example))
        if not found:
            return mask
        mask = mask.without(found)
        mask.apply_(model)


def _unread(model: nn.Module, mask: Mask, group: Neurons) -> Tensor:
    """Alive units all of whose outgoing weights are dead."""
    heard = torch.zeros(group.size, dtype=torch.bool)
    for part in group.listeners:
        heard |= _connected(model, mask, part)
    return _allowed(mask, group, mask.alive(group) & ~heard)


def _allowed(mask: Mask, group: Neurons, units: Tensor) -> Tensor:
    """Positions of `units`, fewer if the group would be left with less than it must keep."""
    spare = mask.count(group) - group.least
    return units.nonzero().flatten()[: max(spare, 0)]


def _connected(model: nn.Module, mask: Mask, part: Listener) -> Tensor:
    """(size,) whether any weight at a unit's positions is alive."""
    weight = model.get_parameter(part.parameter)
    alive = mask.living(part.parameter, weight.shape).movedim(part.dim, 0).flatten(1).any(1)
    return alive[part.index].any(1)


def _constant_units(
    model: nn.Module, mask: Mask, example: Example
) -> Iterator[tuple[Neurons, Tensor]]:
    """The first group with deaf units whose constants could be folded, after folding them."""
    for group in mask.groups:
        if not isinstance(group, Neurons) or not group.producers or not mask.count(group):
            continue
        weights = [p for p in group.producers if model.get_parameter(p.parameter).ndim > 1]
        hears = torch.zeros(group.size, dtype=torch.bool)
        for part in weights:
            hears |= _connected(model, mask, part)
        units = _allowed(mask, group, mask.alive(group) & ~hears)
        if not units.numel() or not all(_foldable(model, part) for part in group.listeners):
            continue
        values = {part: _constants(model, part, units, example) for part in group.listeners}
        steady = torch.stack([value.isfinite() for value in values.values()]).all(0)
        if steady.any():
            mix = {}
            for part, value in values.items():
                mix[part] = torch.zeros(int(steady.sum()), group.size + 1, dtype=value.dtype)
                mix[part][:, -1] = value[steady]
            fold_(model, group, units[steady], mix)
            yield group, units[steady]
            return


def _foldable(model: nn.Module, part: Listener) -> bool:
    """Whether a constant at this listener's input is a constant in its bias."""
    layer = model.get_submodule(part.layer)
    shared = getattr(layer, "groups", 1) > 1 or getattr(layer, "transposed", False)
    return _bias(model, part) is not None and not is_padded(model, part) and not shared


def is_padded(model: nn.Module, part: Listener) -> bool:
    """Whether a listener hears zeros around its input, where a unit's constant is not."""
    padding = getattr(model.get_submodule(part.layer), "padding", 0)
    return padding not in (0, "valid", (0,), (0, 0), (0, 0, 0))


def _constants(model: nn.Module, part: Listener, units: Tensor, example: Example) -> Tensor:
    """(k,) what each unit puts out wherever `part` reads it; NaN where that is not one number."""
    seen: list[Tensor] = []

    def answer(call: Call) -> Tensor:
        if call.weight == part.parameter:
            columns = call.input.movedim(call.axis, 0)[part.index[units]]
            seen.append(columns.flatten(1).double().cpu())
        return call()

    with torch.no_grad(), as_found(model), Calls(model.eval(), answer):
        run(model, example)
    if not seen:
        return torch.full((len(units),), torch.nan)
    values = torch.cat(seen, 1)
    low, high = values.min(1).values, values.max(1).values
    steady = high - low <= CONSTANT * (1 + values.abs().max(1).values)
    return torch.where(steady, (low + high) / 2, torch.nan)


class FoldedCalls:
    """Calls of a group's listeners with one unit handed over to the others.

    Args:
        model: whose weights they are.
        listeners: by the names under which calls use them.
    """

    def __init__(self, model: nn.Module, listeners: Mapping[str, Listener]):
        self.listeners = listeners
        self.owner: dict[str, Tensor] = {}
        self.place: dict[str, Tensor] = {}
        for name, part in listeners.items():
            weight = model.get_parameter(name)
            size, each = part.index.shape
            index = part.index.flatten().to(weight.device)
            blank = torch.full((weight.shape[part.dim],), size, device=weight.device)
            units = torch.arange(size, device=weight.device).repeat_interleave(each)
            places = torch.arange(each, device=weight.device).repeat(size)
            self.owner[name] = blank.scatter(0, index, units)  # (columns,), size where nobody's
            self.place[name] = torch.zeros_like(blank).scatter(0, index, places)

    def __call__(self, call: Call, hit: Tensor, row: Tensor) -> Tensor:
        """The call's result.

        Args:
            call: of one of the listeners.
            hit: (columns,) 1 at the columns of the unit that goes, 0 elsewhere.
            row: (size + 1,) who takes over: a share for each unit, and a constant.
        """
        part = self.listeners[call.weight]
        weight = call.given[call.use.weight].movedim(part.dim, 0)
        each = part.index.shape[1]
        place = self.place[call.weight]
        # (places, ...): the leaving unit's columns, picked by a sum: its position may be wrapped.
        at_place = (place == torch.arange(each, device=place.device)[:, None]).to(weight) * hit
        leaving = torch.tensordot(at_place, weight, 1)
        nobody = torch.cat([row[:-1], row.new_zeros(1)])
        shares = nobody[self.owner[call.weight]]
        along = (-1, *[1] * (weight.ndim - 1))
        folded = weight * (1 - hit).reshape(along) + shares.reshape(along) * leaving[place]
        given = {**call.given, call.use.weight: folded.movedim(0, part.dim)}
        out = call.function(*given.values()) if call.by_position else call.function(**given)
        total = (leaving.sum(0) * row[-1]).flatten(1).sum(1) if weight.ndim > 2 else None
        constant = leaving.sum(0) * row[-1] if total is None else total
        return out + constant.reshape(-1, *[1] * (-1 - call.axis))
