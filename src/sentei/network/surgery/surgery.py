"""Remove dead units physically: smaller tensors, certified before the network is returned."""

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
    """Return a new, smaller network without the dead units of `mask`; `model` does not change.

    Args:
        model: any network; its weights need not be masked yet.
        mask: what is alive. Dead synapses between alive units stay, as zeros.
        example: inputs that the network can run on; a batch of real ones makes the certificate
            stronger. May be omitted for networks that begin with a linear layer.
        sparse: "auto" replaces linear layers by `SparseLinear` (CSR, for inference) where that is
            measured to be faster on `example`, whose batch size matters; None keeps all dense.

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
    """Return the network with SparseLinear layers where faster, certified against the dense one."""
    dense = copy.deepcopy(small)
    with undisturbed(small):
        sparse = sparsified(small, example)
    certify(dense, sparse, example)
    return sparse


def shrink_(
    model: nn.Module,
    mask: Mask,
    optimizer: Optimizer | None = None,
    trajectory: Any = None,
    example: Example | None = None,
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
    """Remove the dead units of the mask without a certificate; also works on the meta device.

    Returns:
        The model; a new `Sequential` only if the model itself is a layer that needs a Select.
    """
    _replace_attention_(model, mask)
    owners = {layer: model.get_submodule(layer) for layer in mask.touched}
    selects = {layer: _selection(model, mask, layer) for layer in mask.wrapped}
    for (name, dim), removed in mask.gone.items():
        tensor = _tensor(model, name)
        keep = remaining_positions(tensor.shape[dim], removed)
        if optimizer is not None:
            _select_state_(optimizer, tensor, dim, keep)
        if trajectory is not None:
            trajectory.keep_(name, dim, keep)
        kept = _selected(tensor.detach(), dim, keep)
        if isinstance(owners.get(name.rpartition(".")[0]), Select):
            kept = kept - torch.searchsorted(_absent(mask, (name, dim), tensor), kept)
        _swap_(tensor, kept)
    for module in owners.values():
        refresh_(module)
    return _wrap_(model, selects)


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


def _tensor(model: nn.Module, name: str) -> Tensor:
    layer, _, short = name.rpartition(".")
    return getattr(model.get_submodule(layer), short)


def _selected(tensor: Tensor, dim: int, keep: Tensor) -> Tensor:
    """Select positions `keep` along `dim`, keeping the memory format.

    `index_select` returns a contiguous tensor even where the input is channels-last.
    """
    selected = tensor.index_select(dim, keep.to(tensor.device))
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    if layout is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=layout):
        return selected
    return selected.contiguous(memory_format=layout)


def _swap_(tensor: Tensor, data: Tensor) -> None:
    # Autograd keeps a gradient accumulator with the old shape for this parameter, which would fail
    # in the next backward pass. Assigning data of another dtype in between makes it drop that.
    other_dtype = torch.float16 if tensor.dtype != torch.float16 else torch.float32
    if tensor.is_floating_point():
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=other_dtype, device=tensor.device)
    tensor.data = data


def _select_state_(optimizer: Optimizer, parameter: Tensor, dim: int, keep: Tensor) -> None:
    state = optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            state[name] = _selected(value, dim, keep)


def _replace_attention_(model: nn.Module, mask: Mask) -> None:
    """Replace each `nn.MultiheadAttention` that loses units by `FewerHeads`, in place."""
    for name, _ in mask.gone:
        path = name.rpartition(".")[0].removesuffix(".out_proj")
        module = model.get_submodule(path)
        if isinstance(module, nn.MultiheadAttention):
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, FewerHeads(module))


def _selection(model: nn.Module, mask: Mask, layer: str) -> Select:
    """Return the Select that drops the removed network inputs before `layer`.

    The caller still passes removed inputs. Other removed units are no longer computed, so they do
    not count in the positions.
    """
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
    raise StructureError(f"layer {layer!r} does not read the network's inputs")


def _absent(mask: Mask, place: Place, index: Tensor) -> Tensor:
    """Return the positions of a Select's `index` at which nothing arrives any more, ascending.

    Removed units are no longer computed; removed network inputs still arrive.
    """
    removed = mask.without_kind("input").gone.get(place, torch.empty(0).long())
    return index[removed.to(index.device)].sort().values


def _wrap_(model: nn.Module, selects: dict[str, Select]) -> nn.Module:
    """Replace each layer in `selects` by a Sequential of its Select and itself."""
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
    """Return the smaller network with integer attributes changed so that the certificate passes.

    Raises:
        CertificateError: no patch helps; names the groups that cannot be cut.
    """
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
    """Return the error that names the groups which cannot be cut; each is tried by itself."""
    at_fault = []
    for group in mask.groups:
        dead = mask.dead(group)
        if isinstance(group, Neurons) and dead.numel():
            group_mask = Mask.full(mask.groups).without({group: dead})
            whole = copy.deepcopy(masked)
            try:
                certify(whole, remove_dead_(copy.deepcopy(whole), group_mask), example)
            except (CertificateError, RuntimeError, IndexError):
                at_fault.append(group.name)
    names = ", ".join(repr(name) for name in at_fault) or "these together"
    return CertificateError(
        f"cutting group {names} does not reproduce the masked network: {error} "
        "Leave the group out of the mask, or make forward() read sizes from its tensors instead of "
        "constants."
    )
