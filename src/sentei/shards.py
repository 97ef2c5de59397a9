"""Recognise networks of which each device holds a part of every tensor only."""

from __future__ import annotations

from torch import nn

from sentei.errors import StructureError

# What a class's full name begins with.
_SHARDED = ("torch.distributed.fsdp.", "torch.distributed._composable.")


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a network of which a device holds a part of each tensor only.

    Raises:
        StructureError: names the module and what shards it.
    """
    for name, module in model.named_modules():
        if (found := sharded(module)) is not None:
            where = f"module {name!r}, a {type(module).__name__}," if name else "this network"
            raise StructureError(
                f"a network is measured and cut as a whole; {where} is in shards ({found}). Gather "
                "its weights into a plain network (torch.distributed.checkpoint.state_dict with "
                "full_state_dict=True), and use that, or train under DistributedDataParallel."
            )


def sharded(module: nn.Module) -> str | None:
    """Return what keeps a module's own tensors in shards: a tensor by name, or a class; or None."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__):
            return f"{name!r} is a DTensor"
    return class_beginning(module, _SHARDED)


def class_beginning(module: nn.Module, beginnings: tuple[str, ...]) -> str | None:
    """Return the full name of a class of the module, or of one above it, that begins so."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return next((name for name in names if name.startswith(beginnings)), None)
