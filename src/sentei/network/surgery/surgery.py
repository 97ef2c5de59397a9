"""Remove dead units physically: smaller tensors, certified before the network is returned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.arguments import checked
from sentei.errors import CertificateError, StructureError, unknown
from sentei.network.copying import copied
from sentei.network.example import Example, Forward, guessed, undisturbed
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.certificate import alike, certify, few
from sentei.network.surgery.cutting import WeightRecord, remove_dead_
from sentei.network.surgery.size_attributes import (
    Patch,
    apply_patch_,
    attributes_read,
    copy_sizes_,
    patches,
)
from sentei.network.surgery.sparse import sparsified
from sentei.network.surgery.twin import calibrate_, redraw_
from sentei.network.units import Neurons

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
    mask.check(model)
    _refuse_emptied(mask)
    example = with_forward(model, guessed(model) if example is None else example, forward)
    masked = copied(model)
    mask.apply_(masked)
    small = _certified(masked, mask, example)
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
    optimizer: Optimizer | None = None,
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
        optimizer: any whose state tensors have their parameter's shape (SGD, Adam, RMSprop, …).
        trajectory: a record of training that is cut in the same way, by calling its
            `keep_(parameter, dim, kept)`.
        example: as for `shrink`.
        forward: as for `find_units`.

    Returns:
        The mask of the smaller network.

    Raises:
        As `shrink`; also StructureError if the network itself is a layer that needs a Select, or if
        the optimizer keeps state of other shapes than its parameters (Adafactor, LBFGS).
    """
    if any(not layer for layer in mask.wrapped):
        raise StructureError(
            "inputs of a network that is a single layer cannot be removed in place; "
            "put it in nn.Sequential(layer), or use shrink(), which returns a new module"
        )
    if optimizer is not None:
        _refuse_shapes(optimizer)
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


def _refuse_shapes(optimizer: Optimizer) -> None:
    """Raise StructureError if the optimizer has state that is not shaped like its parameter."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            single = not isinstance(value, Tensor) or value.numel() == 1
            if isinstance(value, list) or not (single or value.shape == parameter.shape):
                raise StructureError(
                    f"{type(optimizer).__name__} keeps {name!r}, which does not have the shape of "
                    "its parameter and cannot be cut with it; use SGD, Adam, RMSprop, Adadelta or "
                    "a similar optimizer, or mask without shrinking"
                )


def _certified(masked: nn.Module, mask: Mask, example: Example) -> nn.Module:
    """Return the smaller network, with integer attributes changed where that is needed.

    Raises:
        CertificateError: no change of attributes makes it compute the same; the groups that cannot
            be cut are named.
    """
    try:
        return _proved(masked, mask, example)
    except _FAILURES as error:
        first = error
    patch, at_fault = _patch_by_group(masked, mask, example)
    error = first
    if not at_fault:
        try:
            return _proved(masked, mask, example, patch)
        except _FAILURES as together:
            error = together
    names = ", ".join(repr(group.name) for group in at_fault) or "these together"
    raise CertificateError(
        f"cutting group {names} does not reproduce the masked network: {error} "
        "Leave the group out of the mask, or make forward() read sizes from its tensors instead of "
        "constants."
    ) from error


def _proved(masked: nn.Module, mask: Mask, example: Example, patch: Patch = ()) -> nn.Module:
    """Cut a copy, change its integer attributes as `patch` says, certify it and return it."""
    small = apply_patch_(remove_dead_(copied(masked), mask), patch)
    certify(masked, small, example, mask=mask)
    return small


def _patch_by_group(masked: nn.Module, mask: Mask, example: Example) -> tuple[Patch, list[Neurons]]:
    """Return a patch that lets each group be cut alone, and the groups without one.

    Integers that several layers share (a configuration) can only change for all of them at once:
    groups that cannot be cut alone are tried together.
    """
    read = attributes_read(masked, example)
    cut = [g for g in mask.groups if isinstance(g, Neurons) and mask.dead(g).numel()]
    found = {group: _fitting(masked, mask, [group], example, read) for group in cut}
    at_fault = [group for group, patch in found.items() if patch is None]
    if len(at_fault) > 1 and (shared := _fitting(masked, mask, at_fault, example, read)):
        found[at_fault[0]], at_fault = shared, []
    whole = {(path, name): value for patch in found.values() for path, name, value in patch or ()}
    return tuple((*place, value) for place, value in whole.items()), at_fault


def _fitting(
    masked: nn.Module,
    mask: Mask,
    groups: Sequence[Neurons],
    example: Example,
    read: set[tuple[str, str]],
) -> Patch | None:
    """Return the first patch with which some groups can be cut, without the others."""
    alone = Mask.full(mask.groups).without({group: mask.dead(group) for group in groups})
    for patch in _plausible(masked, alone, example, read):
        try:
            _proved(masked, alone, example, patch)
        except _FAILURES:
            continue
        return patch
    return None


def _plausible(
    masked: nn.Module, mask: Mask, example: Example, read: set[tuple[str, str]], **options: bool
) -> Iterator[Patch]:
    """Yield the patches with which a cut passes a quick test."""
    fits = alike(masked, example, mask, **options)
    for patch in patches(masked, mask, read):
        try:
            if fits(apply_patch_(remove_dead_(copied(masked), mask), patch)):
                yield patch
        except _FAILURES:
            continue


class Trial:
    """Tries whether groups can be cut, by a quick test on a twin of the network."""

    def __init__(self, model: nn.Module, example: Example):
        self._example = few(model, example)
        try:
            self._model = calibrate_(redraw_(copied(model)), self._example)
        except Exception:  # a network that does not run with other weights
            self._model = model
        self._read: set[tuple[str, str]] | None = None

    def why_not(self, groups: Sequence[Neurons]) -> str | None:
        """Return why a third of each group cannot be removed; None if it can."""
        mask = Mask.full(groups)
        doomed = {g: range(g.size)[1::3] for g in groups if g.size > 1}
        mask = mask.without({group: list(units) for group, units in doomed.items()})
        masked = copied(self._model)
        mask.apply_(masked)
        if self._read is None:
            self._read = attributes_read(self._model, self._example)
        found = _plausible(masked, mask, self._example, self._read, leaking=True)
        try:
            if next(found, None) is not None:
                return None
        except _FAILURES as error:
            return str(error)
        return "without some of its units the network computes something else, or does not run"
