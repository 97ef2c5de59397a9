"""Remove dead units physically: smaller tensors, certified before the network is returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import nn
from torch.optim import Optimizer

from sentei.arguments import checked
from sentei.errors import CertificateError, StructureError, unknown
from sentei.network.copying import copied, restored
from sentei.network.example import guessed, undisturbed
from sentei.network.finished import refuse_finished
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.optimizer_state import refuse_other_shapes
from sentei.network.surgery.certificate import certified, certify, differs_by_seed, resembles
from sentei.network.surgery.cutting import WeightRecord, remove_dead_
from sentei.network.surgery.observing import observed
from sentei.network.surgery.reference import Reference, State, calibrated, first
from sentei.network.surgery.size_attributes import (
    Attributes,
    Patch,
    apply_patch_,
    attributes_read,
    copy_sizes_,
    patches,
)
from sentei.network.surgery.sparse import sparsified
from sentei.network.surgery.twin import redraw_
from sentei.network.units import Neurons, tensor_of
from sentei.running import Example, Forward

ROUND = 4  # units: kernels whose rows have to be a multiple of 16 bytes take multiples of it
_FAILURES = (CertificateError, RuntimeError, IndexError)


@checked
def shrink(
    model: nn.Module,
    mask: Mask,
    example: Example | None = None,
    sparse: str | None = None,
    *,
    forward: Forward | None = None,
) -> nn.Module:
    """Return a new, smaller network without the dead units of `mask`; `model` does not change.

    Args:
        model: any network; its weights need not be masked yet.
        mask: what is alive. Dead synapses between alive units stay, as zeros.
        example: inputs that the network can run on; a batch of real ones makes the certificate
            stronger. May be omitted for networks that begin with a linear layer.
        sparse: "auto" replaces linear layers by `SparseLinear` (CSR, for inference) where that is
            measured to be faster on `example`, whose batch size matters; None keeps all dense.
        forward: as for `find_units`.

    Raises:
        ValueError: any other value of `sparse`.
        GroupError: the mask's groups are not the model's.
        StructureError: a group would lose its last unit, and torch needs at least one there.
        CertificateError: the smaller network does not compute the same; the group is named.
    """
    if sparse not in (None, "auto"):
        raise ValueError(unknown("choice sparse=", sparse, ["auto"]) + " None keeps layers dense.")
    refuse_finished(model)
    mask.check(model)
    cut = mask.outside_branches
    _refuse_emptied(cut)
    example = with_forward(model, guessed(model) if example is None else example, forward)
    masked = copied(model)
    mask.apply_(masked)
    small = _smaller(Reference(masked, example, cut), cut)
    return small if sparse is None else _sparsified(small, example)


def _sparsified(small: nn.Module, example: Example) -> nn.Module:
    """Return the network with SparseLinear layers where faster, certified against the dense one."""
    dense = copied(small)
    with undisturbed(small):
        sparse = sparsified(small, example)
    certify(dense, sparse, example)
    return sparse


@checked
def shrink_(
    model: nn.Module,
    mask: Mask,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    trajectory: WeightRecord | None = None,
    example: Example | None = None,
    *,
    forward: Forward | None = None,
) -> Mask:
    """Shrink a network in place, also in the middle of training; certified on a copy first.

    The `Parameter` objects stay and get smaller data, so the references of the optimizer stay
    valid. The state of the optimizer is cut in the same way; gradients are dropped.

    Args:
        model: changed in place, unless an error is raised.
        mask: what is alive.
        optimizer: any whose state tensors have their parameter's shape (SGD, Adam, RMSprop, …), or
            several; what they wrap is cut too.
        trajectory: a record of training that is cut in the same way, by calling its
            `keep_(parameter, dim, kept)`.
        example: as for `shrink`.
        forward: as for `find_units`.

    Returns:
        The mask of the smaller network.

    Raises:
        StructureError: as for `shrink`; also if the network itself is a layer that needs a Select,
            or if the optimizer keeps state of other shapes than its parameters (Adafactor, LBFGS).
        CertificateError: as for `shrink`.
    """
    if any(not layer for layer in mask.wrapped):
        raise StructureError(
            "inputs of a network that is a single layer cannot be removed in place; "
            "put it in nn.Sequential(layer), or use shrink(), which returns a new module"
        )
    refuse_other_shapes(optimizer)
    proof = shrink(model, mask, example, forward=forward)
    mask.apply_(model)
    before = {name: tuple(p.shape) for name, p in model.named_parameters()}
    remove_dead_(model, mask, optimizer, trajectory)
    copy_sizes_(model, proof)
    for name, parameter in model.named_parameters():
        if before.get(name) != tuple(parameter.shape):
            parameter.grad = None
    return mask.shrunk()


def _refuse_emptied(mask: Mask) -> None:
    """Raise StructureError if a group keeps fewer units than torch's layers need."""
    for group in mask.groups:
        if isinstance(group, Neurons) and mask.count(group) < group.least:
            raise StructureError(
                f"{group.kind} group {group.name!r} must keep at least one of its {group.size} "
                "units, because torch needs at least one there; keep one alive"
            )


def _smaller(reference: Reference, mask: Mask) -> nn.Module:
    """Return the smaller network, with integer attributes changed where that is needed.

    Raises:
        CertificateError: no change of attributes makes it compute the same; the groups that cannot
            be cut are named.
    """
    try:
        return _proved(reference, mask)
    except _FAILURES as error:
        first = error
    read = attributes_read(reference.masked, reference.quick.example)
    for patch in _plausible(reference.masked, mask, reference.quick, lambda: read):
        try:
            return _proved(reference, mask, patch)
        except _FAILURES:
            continue
    patch, at_fault = _patch_by_group(reference, mask, read)
    error = first
    if not at_fault:
        try:
            return _proved(reference, mask, patch)
        except _FAILURES as together:
            error = together
    names = ", ".join(repr(group.name) for group in at_fault) or "these together"
    raise CertificateError(
        f"cutting group {names} does not reproduce the masked network: {error} "
        "Leave the group out of the mask, or make forward() read sizes from its tensors instead of "
        "constants."
    ) from error


def _proved(reference: Reference, mask: Mask, patch: Patch = ()) -> nn.Module:
    """Cut a copy, change its integer attributes as `patch` says, certify it and return it."""
    small = apply_patch_(remove_dead_(_copied_for(reference.masked, mask), mask), patch)
    certified(reference, small, mask)
    return small


def _copied_for(masked: nn.Module, mask: Mask) -> nn.Module:
    """Return a copy of a network that a cut follows: what it cuts is not copied before."""
    cut = {id(tensor_of(masked, name)): tensor_of(masked, name) for name, _ in mask.gone}
    instead = {
        key: nn.Parameter(tensor.data, tensor.requires_grad)
        for key, tensor in cut.items()
        if type(tensor) is nn.Parameter
    }
    return copied(masked, instead)


def _patch_by_group(
    reference: Reference, mask: Mask, read: set[tuple[str, str]]
) -> tuple[Patch, list[Neurons]]:
    """Return a patch that lets each group be cut alone, and the groups without one.

    Integers that several layers share (a configuration) can only change for all of them at once:
    groups that cannot be cut alone are tried together.
    """
    cut = [g for g in mask.groups if isinstance(g, Neurons) and mask.dead(g).numel()]
    found = {group: _fitting(reference, mask, [group], read) for group in cut}
    at_fault = [group for group, patch in found.items() if patch is None]
    if len(at_fault) > 1 and (shared := _fitting(reference, mask, at_fault, read)):
        found[at_fault[0]], at_fault = shared, []
    whole = {(path, name): value for patch in found.values() for path, name, value in patch or ()}
    return tuple((*place, value) for place, value in whole.items()), at_fault


def _fitting(
    reference: Reference, mask: Mask, groups: Sequence[Neurons], read: set[tuple[str, str]]
) -> Patch | None:
    """Return the first patch with which some groups can be cut, without the others."""
    alone = Mask.full(mask.groups).without({group: mask.dead(group) for group in groups})
    for patch in _plausible(reference.masked, alone, reference.quick, lambda: read):
        try:
            _proved(reference, alone, patch)
        except _FAILURES:
            continue
        return patch
    return None


def _plausible(masked: nn.Module, mask: Mask, quick: State, read: Attributes) -> Iterator[Patch]:
    """Yield the patches with which a cut passes a quick test.

    Args:
        masked: the network.
        mask: what is cut of it.
        quick: the network, and inputs on which it runs fast.
        read: as for `patches`.
    """
    for patch in patches(masked, mask, read):
        with restored(masked):
            try:
                cut = apply_patch_(remove_dead_(masked, mask), patch)
                got = observed(cut, quick.example, leaking=quick.leaking)
            except Exception:  # forward may raise anything where a size is wrong
                continue
        if resembles(quick, got):
            yield patch


_OTHER = "without some of its units the network computes something else, or does not run"
_STREAM = (
    f"{_OTHER}: units of a stream can go where each norm over them is a module with a scale of its "
    "own that divides by the mean square or by the variance (nn.RMSNorm, nn.LayerNorm, or alike)"
)


class Trial:
    """Tries whether groups can be cut, by a quick test on a twin of the network.

    Args:
        model: the network.
        example: inputs.
        most: how many trials are made; what is tried after them counts as refused.
    """

    def __init__(self, model: nn.Module, example: Example, most: int = 256):
        own = State(lambda: nullcontext(model), example)
        try:
            self._model = redraw_(copied(model))
            # Only evaluation is tried: statistics of a batch are not needed.
            self._example, _ = calibrated(self._model, first(example, least=1), own)
        except Exception:  # a network that does not run with other weights
            self._model, self._example = model, example
        self._left = most

    @cached_property
    def _is_random(self) -> bool:
        """Whether the network draws random numbers, so that no trial shows anything."""
        return differs_by_seed(self._state())

    def _state(self) -> State:
        return State(lambda: nullcontext(self._model), self._example, leaking=True)

    def why_not(self, groups: Sequence[Neurons]) -> str | None:
        """Return why units of each group cannot be removed, all at once; None if they can.

        Another share is removed of each, about a third, so that shapes that fit only in certain
        numbers are found. A group that is tried alone may keep a multiple of `ROUND` units instead:
        some kernels take such widths only. A network that draws random numbers shows nothing.
        """
        why = self._why_not({group: _left(group, turn) for turn, group in enumerate(groups)})
        if why is not None and self._is_random:
            return None
        if why is not None and len(groups) == 1 and groups[0].size > ROUND:
            return self._why_not({groups[0]: groups[0].size * 3 // 4 // ROUND * ROUND})
        return why

    def _why_not(self, left: Mapping[Neurons, int]) -> str | None:
        """Return why all groups cannot be left with these numbers of units."""
        if not self._left:
            return "the network has so many groups in doubt that it was not tried"
        self._left -= 1
        mask = Mask.full(left).without({group: _removed(group, left[group]) for group in left})
        with restored(self._model) as masked:
            for name, _ in mask.silent:
                weight = tensor_of(masked, name)
                weight.data = weight.data.clone()
            mask.apply_(masked)
            found = _plausible(masked, mask, self._state(), self._attributes_read)
            try:
                if next(found, None) is not None:
                    return None
            except Exception as error:  # the masked twin does not run
                return str(error)
        return _STREAM if any(group.kind == "stream" for group in left) else _OTHER

    @cached_property
    def _read(self) -> set[tuple[str, str]]:
        return attributes_read(self._model, self._example)

    def _attributes_read(self) -> set[tuple[str, str]]:
        return self._read


def _left(group: Neurons, turn: int) -> int:
    """Return how many units of a group stay in a trial: about two thirds, others at each turn.

    The number has no divisor 2 or 3 where that is possible: shapes that need an even number of
    units are found.
    """
    stays = range(1 if group.size > 1 else group.least, group.size)
    nearest = sorted(
        stays, key=lambda left: (left % 2 == 0 or left % 3 == 0, abs(3 * left - 2 * group.size))
    )
    return nearest[turn % min(len(nearest), 3 + group.size // 8)] if nearest else group.size


def _removed(group: Neurons, left: int) -> list[int]:
    random = torch.Generator().manual_seed(left)
    return sorted(torch.randperm(group.size, generator=random)[left:].tolist())
