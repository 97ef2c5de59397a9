"""Batch norms made part of the layer before: in evaluation mode they are a scale and a shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sentei.network.calls import Call, Calls
from sentei.network.example import Example, as_found, run

_BEFORE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def fold_norms_(model: nn.Module, example: Example) -> tuple[str, ...]:
    """Fold each batch norm that hears exactly what one layer puts out; identities take its place.

    Equal in evaluation mode, up to rounding; a network in training has its norms no longer.

    Args:
        model: changed in place.
        example: inputs it runs on.

    Returns:
        The names of the norms that went.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found = _pairs(model, example, modules)
    for norm_name, layer_name in found.items():
        norm, layer = modules[norm_name], modules[layer_name]
        assert isinstance(norm, _NORMS)
        assert isinstance(layer, _BEFORE)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is None:
            layer.bias = nn.Parameter(shift.clone())
        else:
            layer.bias.mul_(scale).add_(shift)
        owner, _, name = norm_name.rpartition(".")
        setattr(model.get_submodule(owner), name, nn.Identity())
    return tuple(found)


def _pairs(model: nn.Module, example: Example, modules: dict[str, nn.Module]) -> dict[str, str]:
    """Norms and the layers before them, each used once and by each other alone."""
    made: dict[int, tuple[str, Tensor]] = {}
    hears: dict[str, str] = {}
    used: dict[str, int] = {}

    def answer(call: Call) -> Tensor:
        name = call.weight.rpartition(".")[0]
        used[name] = used.get(name, 0) + 1
        before = made.get(id(call.input))
        if before is not None and isinstance(modules.get(name), _NORMS):
            hears[name] = before[0]
        result = call()
        if isinstance(modules.get(name), _BEFORE):
            made[id(result)] = name, result  # held, so that no other tensor gets its id
        return result

    with as_found(model), Calls(model.eval(), answer), _UseCounter() as uses:
        run(model, example)
    found = {}
    for norm, layer in hears.items():
        (result,) = [tensor for name, tensor in made.values() if name == layer][:1]
        alone = used[norm] == used[layer] == 1 and uses.count(result) == 1
        tracked = getattr(modules[norm], "running_mean", None) is not None
        if alone and tracked and not _has_other_names(model, modules, layer, norm):
            found[norm] = layer
    return found


def _has_other_names(model: nn.Module, modules: dict[str, nn.Module], *names: str) -> bool:
    """Whether a parameter of these modules, or a module itself, goes by another name as well."""
    for name in names:
        twins = [other for other, module in modules.items() if module is modules[name]]
        own = {id(p) for p in modules[name].parameters(recurse=False)}
        named = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in own]
        if len(twins) > 1 or len(named) > len(own):
            return True
    return False


class _UseCounter(TorchFunctionMode):
    """Counts how often each tensor is given to a function that computes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, int] = {}
        self.held: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            asks = getattr(func, "__name__", "") in ("__get__", "dim", "size")
            if isinstance(value, Tensor) and not asks:
                self.seen[id(value)] = self.seen.get(id(value), 0) + 1
                self.held.append(value)
        return func(*args, **kwargs)

    def count(self, tensor: Tensor) -> int:
        """How often this very tensor was used."""
        return self.seen.get(id(tensor), 0)
