"""Physical removal: smaller tensors, the same function, proven before anything is handed over."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.errors import CertificateError, StructureError, unknown
from sentei.network.attention import FewerHeads
from sentei.network.example import Example, guessed, undisturbed
from sentei.network.layers import Select, refresh_
from sentei.network.mask import Mask
from sentei.network.reindex import Place, remaining_positions
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.size_attributes import candidate_patches, copy_sizes_
from sentei.network.surgery.sparse import sparsified
from sentei.network.units import Neurons


def shrink(
    model: nn.Module, mask: Mask, example: Example | None = None, sparse: str | None = None
) -> nn.Module:
    """A new, smaller network without the dead units of `mask`; the old one is untouched.

    Args:
        model: any network; its weights need not be masked yet.
        mask: what is alive. Dead synapses between alive units stay, as zeros.
        example: inputs the network runs on; a batch of real ones makes the proof a better one. May
            be left out for networks that begin with a linear layer.
        sparse: "auto" lets linear layers become `SparseLinear` (CSR, for inference) where that is
            measured to be faster on `example`, whose batch size decides; None keeps all dense.

    Raises:
        ValueError: another word for `sparse`.
        GroupError: the mask's groups are not the model's.
        StructureError: a group would lose its last unit where torch cannot have none.
        CertificateError: the smaller network does not compute the same; the group is named.
    """
    if sparse not in (None, "auto"):
        raise ValueError(unknown("choice sparse=", sparse, ["auto"]) + " None keeps layers dense.")
    mask.check(model)
    _refuse_emptied(mask)
    example = guessed(model) if example is None else example
    masked = copy.deepcopy(model)
    mask.apply_(masked)
    small = copy.deepcopy(masked)
    try:
        small = remove_dead_(small, mask)
        certify(masked, small, example)
    except (CertificateError, RuntimeError, IndexError) as error:
        small = _with_patched_sizes(masked, mask, example, error)
    return small if sparse is None else _sparsified(small, example)


def _sparsified(small: nn.Module, example: Example) -> nn.Module:
    dense = copy.deepcopy(small)
    with undisturbed(small):
        made = sparsified(small, example)
    certify(dense, made, example)
    return made


def shrink_(
    model: nn.Module,
    mask: Mask,
    optimizer: Optimizer | None = None,
    trajectory: Any = None,
    example: Example | None = None,
) -> Mask:
    """Shrink in place, in the middle of training if need be; certified on a copy first.

    The `Parameter` objects stay, their data is swapped for smaller data, so the optimizer keeps its
    references. Its state is cut along; gradients are dropped.

    Args:
        model: changed in place, unless an error is raised.
        mask: what is alive.
        optimizer: any whose state tensors have their parameter's shape (SGD, Adam, RMSprop, …).
        trajectory: a record of training to cut along, through its `keep_(parameter, dim, kept)`.
        example: as for `shrink`.

    Returns:
        The mask of the smaller network.

    Raises:
        As `shrink`; also StructureError if the network itself is a layer that needs a Select, or
        the optimizer keeps state of other shapes than its parameters (Adafactor, LBFGS).
    """
    if any(not layer for layer in mask.wrapped):
        raise StructureError(
            "inputs of a network that is a single layer cannot be removed in place; "
            "put it in nn.Sequential(layer), or use shrink(), which returns a new module"
        )
    if optimizer is not None:
        _refuse_shapes(optimizer)
    proof = shrink(model, mask, example)
    mask.apply_(model)
    before = {name: tuple(p.shape) for name, p in model.named_parameters()}
    remove_dead_(model, mask, optimizer, trajectory)
    copy_sizes_(model, proof)
    for name, parameter in model.named_parameters():
        if before.get(name) != tuple(parameter.shape):
            parameter.grad = None
    return mask.shrunk()


def remove_dead_(
    model: nn.Module, mask: Mask, optimizer: Optimizer | None = None, trajectory: Any = None
) -> nn.Module:
    """Remove what the mask says is dead, without proof; also on the meta device.

    Returns:
        The model; a new `Sequential` only if the model itself is a layer that needs a Select.
    """
    _replace_attention_(model, mask)
    owners = {layer: model.get_submodule(layer) for layer in mask.touched}
    selects = {layer: _selection(model, mask, layer) for layer in mask.wrapped}
    for (name, dim), gone in mask.gone.items():
        tensor = _tensor(model, name)
        keep = remaining_positions(tensor.shape[dim], gone)
        if optimizer is not None:
            _select_state_(optimizer, tensor, dim, keep)
        if trajectory is not None:
            trajectory.keep_(name, dim, keep)
        _swap_(tensor, _selected(tensor.detach(), dim, keep))
    for module in owners.values():
        refresh_(module)
    return _wrap_(model, selects)


def _refuse_emptied(mask: Mask) -> None:
    for group in mask.groups:
        if isinstance(group, Neurons) and mask.count(group) < group.least:
            raise StructureError(
                f"{group.kind} group {group.name!r} must keep at least one of its {group.size} "
                "units: torch has no such layer without any; leave one alive"
            )


def _refuse_shapes(optimizer: Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            single = not isinstance(value, Tensor) or value.numel() == 1
            if isinstance(value, list) or not (single or value.shape == parameter.shape):
                raise StructureError(
                    f"{type(optimizer).__name__} keeps {name!r}, which is not of its weight's "
                    "shape and cannot be cut along; take SGD, Adam, RMSprop, Adadelta or their "
                    "like, or mask without deleting"
                )


def _tensor(model: nn.Module, name: str) -> Tensor:
    layer, _, short = name.rpartition(".")
    return getattr(model.get_submodule(layer), short)


def _selected(tensor: Tensor, dim: int, keep: Tensor) -> Tensor:
    """These positions, laid out in memory as all of them were: selection forgets channels-last."""
    found = tensor.index_select(dim, keep.to(tensor.device))
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    if layout is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=layout):
        return found
    return found.contiguous(memory_format=layout)


def _swap_(tensor: Tensor, data: Tensor) -> None:
    # Data of another dtype in between makes autograd forget the accumulator it keeps for this
    # parameter, which remembers the old shape and would fail the next backward pass.
    odd = torch.float16 if tensor.dtype != torch.float16 else torch.float32
    if tensor.is_floating_point():
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=odd, device=tensor.device)
    tensor.data = data


def _select_state_(optimizer: Optimizer, parameter: Tensor, dim: int, keep: Tensor) -> None:
    state = optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            state[name] = _selected(value, dim, keep)


def _replace_attention_(model: nn.Module, mask: Mask) -> None:
    """Put `FewerHeads` where torch's own attention is about to lose some."""
    for name, _ in mask.gone:
        path = name.rpartition(".")[0].removesuffix(".out_proj")
        module = model.get_submodule(path)
        if isinstance(module, nn.MultiheadAttention):
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, FewerHeads(module))


def _selection(model: nn.Module, mask: Mask, layer: str) -> Select:
    """The Select that `layer` needs: removed inputs still arrive, other removed units do not."""
    for group in mask.groups:
        if not isinstance(group, Neurons) or group.kind != "input":
            continue
        for part in group.listeners:
            if part.layer == layer:
                place: Place = part.parameter, part.dim
                weight = _tensor(model, part.parameter)
                arriving = mask.without_kind("input").gone.get(place, torch.empty(0).long())
                keep = remaining_positions(weight.shape[part.dim], mask.gone[place])
                index = keep - torch.searchsorted(arriving, keep)
                return Select(index.to(weight.device), dim=1 - weight.ndim)
    raise StructureError(f"layer {layer!r} does not listen to inputs")


def _wrap_(model: nn.Module, selects: dict[str, Select]) -> nn.Module:
    for layer, select in selects.items():
        if not layer:
            return nn.Sequential(select, model)
        parent, _, child = layer.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, nn.Sequential(select, owner.get_submodule(child)))
    return model


def _with_patched_sizes(
    masked: nn.Module, mask: Mask, example: Example, error: Exception
) -> nn.Module:
    for patch in candidate_patches(masked, mask):
        small = remove_dead_(copy.deepcopy(masked), mask)
        for path, attribute, value in patch:
            setattr(small.get_submodule(path), attribute, value)
        try:
            certify(masked, small, example)
        except CertificateError:
            continue
        return small
    raise _name_groups_at_fault(masked, mask, example, error) from error


def _name_groups_at_fault(
    masked: nn.Module, mask: Mask, example: Example, error: Exception
) -> CertificateError:
    """The error that names the groups which cannot be cut, each tried by itself."""
    guilty = []
    for group in mask.groups:
        dead = mask.dead(group)
        if isinstance(group, Neurons) and dead.numel():
            alone = Mask.full(mask.groups).without({group: dead})
            lone = copy.deepcopy(masked)
            try:
                certify(lone, remove_dead_(copy.deepcopy(lone), alone), example)
            except (CertificateError, RuntimeError, IndexError):
                guilty.append(group.name)
    names = ", ".join(repr(name) for name in guilty) or "these together"
    return CertificateError(
        f"cutting group {names} does not reproduce the masked network: {error} "
        "Leave the group out, or make forward() take sizes from its tensors, not from constants."
    )
