"""A network as a row of plain operations that a page can run without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.layers import Select


@dataclass(frozen=True)
class Operation:
    """One step of a forward pass.

    Attributes:
        kind: what it does, as `assets/operations.js` names it.
        layer: the module it comes from.
        settings: plain numbers.
        tensors: weights, by short names.
    """

    kind: str
    layer: str
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def operations(network: nn.Module) -> list[Operation]:
    """The operations of a network of torch's own layers in a row, in evaluation mode.

    Raises:
        StructureError: with the first layer that a page cannot run, and why.
    """
    found: list[Operation] = []
    with torch.no_grad():
        for path, layer in _row(network, ""):
            kind = type(layer)
            if kind in _NOTHING:
                continue
            if kind not in _MADE:
                raise StructureError(
                    f"layer {path!r} is a {kind.__name__}, and a page runs plain rows of linear, "
                    "convolutional, pooling and batch norm layers with the usual activations"
                )
            name, settings, tensors = _MADE[kind](layer, path)
            found.append(Operation(name, path, settings, tensors))
    return found


Made = tuple[str, dict[str, Any], dict[str, Tensor]]


def _row(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
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
        raise StructureError(f"layer {path!r} is a grouped convolution, which a page does not run")
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise StructureError(f"layer {path!r} pads in a way that a page does not run")
    settings = {name: list(getattr(layer, name)) for name in ("stride", "padding", "dilation")}
    return "depthwise" if depthwise else "conv", settings, _weights(layer)


def _norm(layer: Any, path: str) -> Made:
    if layer.running_mean is None:
        raise StructureError(f"layer {path!r} measures its batch, and a page runs one input")
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -layer.running_mean * scale
    return "scale", {}, {"w": scale, "b": shift if layer.bias is None else shift + layer.bias}


def _pool(layer: Any, path: str) -> Made:
    odd = getattr(layer, "dilation", 1) != 1 or getattr(layer, "divisor_override", None)
    if layer.ceil_mode or odd or not getattr(layer, "count_include_pad", True):
        raise StructureError(f"layer {path!r} pools in a way that a page does not run")
    kind = "maxpool" if isinstance(layer, nn.MaxPool2d) else "meanpool"
    both = {"kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    return kind, {name: _pair(value) for name, value in both.items()}, {}


def _everywhere(layer: Any, path: str) -> Made:
    if _pair(layer.output_size) != [1, 1]:
        raise StructureError(f"layer {path!r} pools to a size that a page does not")
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
        raise StructureError(f"layer {path!r} selects channels, which a page does not")
    return "select", {"index": layer.index.tolist()}, {}


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


_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_MADE: dict[type[nn.Module], Callable[[Any, str], Made]] = {
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
