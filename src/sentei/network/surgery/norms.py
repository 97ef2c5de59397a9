"""Fold batch norms into the layer before them; in evaluation mode they are a scale and a shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sentei.network.calls import Call, Calls
from sentei.network.example import as_found
from sentei.running import Example, run

_BEFORE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def fold_norms_(model: nn.Module, example: Example) -> tuple[str, ...]:
    """Fold each batch norm whose input is exactly one layer's output; replace it by nn.Identity.

    The function is the same in evaluation mode, up to rounding. In training mode it is not: the
    folded norms no longer normalise.

    Args:
        model: changed in place.
        example: inputs that the model can run on.

    Returns:
        The qualified names of the norms that were folded.
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
    """Map each norm that can be folded to the layer before it.

    Both are called once, and only the norm uses the layer's output.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}
    layer_before: dict[str, str] = {}
    calls: dict[str, int] = {}

    def record(call: Call) -> Tensor:
        name = call.weight.rpartition(".")[0]
        calls[name] = calls.get(name, 0) + 1
        source = outputs.get(id(call.input))
        if source is not None and isinstance(modules.get(name), _NORMS):
            layer_before[name] = source[0]
        result = call()
        if isinstance(modules.get(name), _BEFORE):
            outputs[id(result)] = name, result  # kept alive, so that its id is not reused
        return result

    with as_found(model), Calls(model.eval(), record), _UseCounter() as uses:
        run(model, example)
    found = {}
    for norm, layer in layer_before.items():
        (result,) = [tensor for name, tensor in outputs.values() if name == layer][:1]
        alone = calls[norm] == calls[layer] == 1 and uses.count(result) == 1
        tracked = getattr(modules[norm], "running_mean", None) is not None
        if alone and tracked and not _has_other_names(model, modules, layer, norm):
            found[norm] = layer
    return found


def _has_other_names(model: nn.Module, modules: dict[str, nn.Module], *names: str) -> bool:
    """Return whether one of these modules, or a parameter of one, has a second qualified name."""
    for name in names:
        aliases = [other for other, module in modules.items() if module is modules[name]]
        own = {id(p) for p in modules[name].parameters(recurse=False)}
        own_names = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in own]
        if len(aliases) > 1 or len(own_names) > len(own):
            return True
    return False


class _UseCounter(TorchFunctionMode):
    """Count how often each tensor is an argument of a torch function that computes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[int, int] = {}
        self.kept_alive: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            is_query = getattr(func, "__name__", "") in ("__get__", "dim", "size")
            if isinstance(value, Tensor) and not is_query:
                self.uses[id(value)] = self.uses.get(id(value), 0) + 1
                self.kept_alive.append(value)
        return func(*args, **kwargs)

    def count(self, tensor: Tensor) -> int:
        """Return how often this tensor object was used."""
        return self.uses.get(id(tensor), 0)
