"""Convert a network to a list of plain operations that the page's script can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.layers import Select, Standardise


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass, in evaluation mode.

    Attributes:
        kind: name of the operation in `assets/operations.js`.
        layer: name of the module that it is made from.
        settings: its settings, as plain numbers.
        tensors: its weights "w" and biases "b"; deviations and means where it standardises.
    """

    kind: str
    layer: str
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def operations(network: nn.Module) -> list[Operation]:
    """Convert an `nn.Sequential` of torch's own layers to operations, in evaluation mode.

    Raises:
        StructureError: a page cannot run a layer; the message has the first one and the reason.
    """
    found: list[Operation] = []
    with torch.no_grad():
        for path, layer in _row(network, ""):
            kind = type(layer)
            if kind in _IDENTITIES:
                continue
            if kind not in _CONVERTERS:
                what = f"layer {path!r}" if path else "it"
                raise StructureError(
                    f"{what} is a {kind.__name__}, and a page runs sequences of linear, "
                    "convolutional, pooling and batch norm layers with the usual activations"
                )
            name, settings, tensors = _CONVERTERS[kind](layer, path)
            found.append(Operation(name, path, settings, tensors))
    return found


Made = tuple[str, dict[str, Any], dict[str, Tensor]]


def _row(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested `nn.Sequential` in order, with their names."""
    if type(module) is not nn.Sequential:
        yield path, module
        return
    for name, child in module.named_children():
        yield from _row(child, f"{path}.{name}" if path else name)


def _linear(layer: Any, _: str) -> Made:
    return "linear", {}, _weights(layer)


def _convolution(layer: Any, path: str) -> Made:
    depthwise = layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1
    if layer.groups != 1 and not depthwise:
        raise StructureError(f"layer {path!r} is a grouped convolution, which a page cannot run")
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise StructureError(f"layer {path!r} has a kind of padding that a page cannot run")
    settings = {name: list(getattr(layer, name)) for name in ("stride", "padding", "dilation")}
    return "depthwise" if depthwise else "conv", settings, _weights(layer)


def _norm(layer: Any, path: str) -> Made:
    if layer.running_mean is None:
        raise StructureError(
            f"layer {path!r} has no running statistics, and a page runs one input at a time"
        )
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -layer.running_mean * scale
    return "scale", {}, {"w": scale, "b": shift if layer.bias is None else shift + layer.bias}


def _pool(layer: Any, path: str) -> Made:
    odd = getattr(layer, "dilation", 1) != 1 or getattr(layer, "divisor_override", None)
    if layer.ceil_mode or odd or not getattr(layer, "count_include_pad", True):
        raise StructureError(f"layer {path!r} has pooling options that a page cannot run")
    kind = "maxpool" if isinstance(layer, nn.MaxPool2d) else "meanpool"
    both = {"kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    return kind, {name: _pair(value) for name, value in both.items()}, {}


def _everywhere(layer: Any, path: str) -> Made:
    if _pair(layer.output_size) != [1, 1]:
        raise StructureError(f"layer {path!r} pools to more than 1 by 1, which a page cannot run")
    return "everywhere", {}, {}


def _flatten(layer: Any, path: str) -> Made:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise StructureError(f"layer {path!r} flattens only some dimensions")
    return "flatten", {}, {}


def _unflatten(layer: Any, path: str) -> Made:
    if layer.dim not in (1, -1):
        raise StructureError(f"layer {path!r} unflattens a later dimension")
    return "reshape", {"shape": list(layer.unflattened_size)}, {}


def _select(layer: Any, path: str) -> Made:
    if layer.dim != -1:
        raise StructureError(f"layer {path!r} selects channels, which a page cannot run")
    return "select", {"index": layer.index.tolist()}, {}


def _standardise(layer: Any, _: str) -> Made:
    return "standardise", {}, {"w": layer.std, "b": layer.mean}


def _softmax(layer: Any, path: str) -> Made:
    if layer.dim not in (1, -1):
        raise StructureError(f"layer {path!r} is a softmax over dimension {layer.dim}")
    return "logsoftmax" if isinstance(layer, nn.LogSoftmax) else "softmax", {}, {}


def _weights(layer: Any) -> dict[str, Tensor]:
    bias = layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
    return {"w": layer.weight, "b": bias}


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value]


def _plain(name: str, *settings: str) -> Callable[[Any, str], Made]:
    return lambda layer, _: (name, {part: getattr(layer, part) for part in settings}, {})


def _gelu(layer: Any, _: str) -> Made:
    return "gelu" if layer.approximate == "none" else "gelu-tanh", {}, {}


_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_CONVERTERS: dict[type[nn.Module], Callable[[Any, str], Made]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool2d: _everywhere,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    Select: _select,
    Standardise: _standardise,
    nn.Softmax: _softmax,
    nn.LogSoftmax: _softmax,
    nn.ReLU: _plain("relu"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.Tanh: _plain("tanh"),
    nn.GELU: _gelu,
    nn.SiLU: _plain("silu"),
    nn.LeakyReLU: _plain("leaky", "negative_slope"),
    nn.ELU: _plain("elu", "alpha"),
}
