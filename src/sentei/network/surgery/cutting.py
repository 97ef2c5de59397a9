"""Cut dead units out of a network's tensors, without a check that the result is right."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.attention import FewerHeads
from sentei.network.layers import Select, refresh_
from sentei.network.mask import Mask
from sentei.network.optimizer_state import Optimizers, forget_, states_of
from sentei.network.reindex import Place, remaining_positions
from sentei.network.surgery.counts import counting_norms_
from sentei.network.units import Neurons, tensor_of
from sentei.network.zeros import stand_in_


class WeightRecord(Protocol):
    """A record of a network's weights in training that is cut with them, such as a Trajectory."""

    def keep_(self, parameter: str, dim: int, kept: Tensor) -> None:
        """Keep the positions `kept` along a dimension of a parameter's record."""
        ...


def remove_dead_(
    model: nn.Module,
    mask: Mask,
    optimizer: Optimizers = None,
    trajectory: WeightRecord | None = None,
) -> nn.Module:
    """Remove the dead units of the mask without a certificate; also works on the meta device.

    Returns:
        The model; a new `Sequential` only if the model itself is a layer that needs a Select.
    """
    mask = mask.outside_branches
    _replace_attention_(model, mask)
    recount_ = counting_norms_(model, mask)
    owners = {layer: model.get_submodule(layer) for layer in mask.touched}
    selects = {layer: _selection(model, mask, layer) for layer in mask.wrapped}
    for (name, dim), removed in mask.gone.items():
        tensor = tensor_of(model, name)
        keep = remaining_positions(tensor.shape[dim], removed)
        for state in states_of(optimizer, tensor):
            _select_state_(state, tensor, dim, keep)
        if trajectory is not None:
            trajectory.keep_(name, dim, keep)
        kept = _selected(tensor.detach(), dim, keep)
        if isinstance(owners.get(name.rpartition(".")[0]), Select):
            kept = kept - torch.searchsorted(_absent(mask, (name, dim), tensor), kept)
        _swap_(tensor, kept)
    for module in owners.values():
        refresh_(module)
    recount_()
    _remove_branches_(model, mask, optimizer)
    return _wrap_(model, selects)


def _remove_branches_(model: nn.Module, mask: Mask, optimizer: Optimizers) -> None:
    """Put zeros into the place of what dead branches alone need, and forget its optimizer state."""
    if not mask.stand_ins:
        return
    before = [*model.parameters()]
    stand_in_(model, mask.stand_ins)
    left = {id(parameter) for parameter in model.parameters()}
    for parameter in before:
        if id(parameter) not in left:
            forget_(optimizer, parameter)


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


def _select_state_(state: dict[str, Any], parameter: Tensor, dim: int, keep: Tensor) -> None:
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
                weight = tensor_of(model, part.parameter)
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
