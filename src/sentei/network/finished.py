"""Recognise networks that cannot be cut: quantised, exported, scripted, or kept in shards."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sentei.errors import StructureError
from sentei.shards import class_beginning, refuse_sharded

# What a class's full name begins with. Observers and fake quantisers count: they hold scales of the
# units that are there.
_EXPORTED = ("torch.export.",)
_QUANTISED = (
    *(f"torch.ao.nn.{part}." for part in ("quantized", "qat", "sparse.quantized")),
    *(f"torch.ao.nn.intrinsic.{part}." for part in ("quantized", "qat")),
    *(f"torch.ao.quantization.{part}." for part in ("observer", "fake_quantize")),
    "torchao.quantization.",
)
# Stand-ins for additions and the like in networks that may be quantised later; not quantised yet.
_IN_FLOAT = ("FloatFunctional", "FXFloatFunctional")
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)


def refuse_finished(model: nn.Module) -> None:
    """Refuse a network that was quantised, exported or scripted, or whose tensors are in shards.

    A scripted part of a network may stay: it is not cut.

    Raises:
        StructureError: names the module and what it is.
    """
    refuse_sharded(model)
    for name, module in model.named_modules():
        found = _finished(module, is_part=module is not model)
        if found:
            where = f"module {name!r}, a {type(module).__name__}," if name else "this network"
            raise StructureError(
                f"prune before you quantise, export or script; {where} {found}. Pass the network "
                "that it was made from, and quantise, export or script what shrink returns."
            )


def _finished(module: nn.Module, *, is_part: bool) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        runs_in_both_modes = hasattr(module, "training")  # a frozen one does not
        stays = is_part and runs_in_both_modes
        return None if stays else f"is scripted or traced: a {_class(module)}"
    found = exported(module)
    return quantised(module) if found is None else f"is exported: a {found}"


def exported(module: nn.Module) -> str | None:
    """Return what a module is that `torch.export` made; None if something else made it."""
    if (name := class_beginning(module, _EXPORTED)) is not None:
        return name
    calls = (
        (node.target for node in module.graph.nodes) if isinstance(module, fx.GraphModule) else ()
    )
    made = any(isinstance(target, torch._ops.OpOverload) for target in calls)
    return "GraphModule of exported operators" if made else None


def quantised(module: nn.Module) -> str | None:
    """Return what makes a module quantised, or prepared for it; None if it is neither."""
    if (kind := of_quantised_class(module)) is not None:
        return f"is quantised: a {kind}"
    held = (*module._parameters.items(), *module._buffers.items())
    for name, tensor in held:
        if tensor is not None and _is_quantised(tensor):
            return f"is quantised: its {name!r} is no plain tensor but {type(tensor).__name__}"
    weight = module._parameters.get("weight")
    if isinstance(module, _LAYERS) and weight is not None and _is_whole(weight):
        return f"is quantised: its 'weight' holds whole numbers ({weight.dtype})"
    return None


def of_quantised_class(module: nn.Module) -> str | None:
    """Return the full name of a module's class if only quantisers make such modules."""
    return None if type(module).__name__ in _IN_FLOAT else class_beginning(module, _QUANTISED)


def _is_quantised(tensor: Tensor) -> bool:
    """Return whether the numbers of a tensor follow from others that it holds."""
    wraps = is_traceable_wrapper_subclass(tensor) and type(tensor).__name__ != "DTensor"
    return tensor.is_quantized or wraps


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
