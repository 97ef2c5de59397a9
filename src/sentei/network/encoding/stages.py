"""A network as a row of plain stages with known sizes: what formats without torch are written from.

Batch norm is folded into the layer before it, dropout and flattening disappear, one-dimensional
signals become images of height one. Only networks that are torch's own layers in a row have stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.encoding.sliding import Window, convolution_window, pooling_window
from sentei.network.layers import Select
from sentei.network.mask import Mask

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One thing that is done to one sample.

    Attributes:
        name: the layer, qualified.
        entering: shape of a sample before; images are (channels, height, width).
        leaving: shape of a sample after.
    """

    name: str
    entering: Shape
    leaving: Shape


@dataclass(frozen=True)
class Weighted(Stage):
    """A linear layer, or a convolution if it has a window.

    Attributes:
        weight: (rows, columns) float; a convolution's columns run over input channels of the row's
            group, then over the kernel's rows and columns.
        bias: (rows,).
        alive: (rows, columns) bool; the others are zero for good.
        window: None for a linear layer.
        groups: of channels.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    alive: Tensor = field(repr=False)
    window: Window | None = None
    groups: int = 1


@dataclass(frozen=True)
class Pool(Stage):
    """The largest, or the mean, of every window; `how` is "max" or "mean"."""

    how: str
    window: Window
    count_padding: bool = True


@dataclass(frozen=True)
class Pointwise(Stage):
    """A function of every number by itself, and its settings."""

    function: str
    settings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scaled(Stage):
    """Every channel times its scale plus its shift: batch norm with nothing to be folded into."""

    scale: Tensor = field(repr=False)
    shift: Tensor = field(repr=False)


@dataclass(frozen=True)
class Softmax(Stage):
    """Over the whole of a flat sample; its logarithm if `log`."""

    log: bool


@dataclass(frozen=True)
class Chosen(Stage):
    """Of the first dimension, only the positions in `index`."""

    index: Tensor = field(repr=False)


def stages(model: nn.Module, shape: Sequence[int], mask: Mask | None = None) -> list[Stage]:
    """What a network does to a sample, in order.

    Args:
        model: torch's own layers in a row; on the meta device too.
        shape: of one sample, without the batch.
        mask: of this network; says which weights are dead for good.

    Raises:
        StructureError: a layer that has no stage, or that has no input left; it is named.
        GroupError: the mask is not the model's.
    """
    if mask is not None:
        mask.check(model)
    found: list[Stage] = []
    here = _image(tuple(shape))
    for path, layer in _leaves(model, ""):
        for stage in _stages_of(layer, path, here, mask):
            _append(found, stage)
            here = found[-1].leaving
    if not any(isinstance(stage, Weighted) for stage in found):
        raise StructureError("the network has no linear or convolutional layer: nothing to write")
    return found


def _append(found: list[Stage], stage: Stage) -> None:
    """Add a stage; a scale after a layer with weights becomes part of it."""
    last = found[-1] if found else None
    if isinstance(stage, Scaled) and isinstance(last, Weighted):
        scale, shift = stage.scale.to(last.weight), stage.shift.to(last.weight)
        found[-1] = replace(
            last, weight=last.weight * scale[:, None], bias=last.bias * scale + shift
        )
    else:
        found.append(stage)


def _leaves(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        return [(path, module)]
    # Not named_children: a layer that is used twice does something twice.
    parts = ((name, child) for name, child in module._modules.items() if child is not None)
    return [
        leaf for name, child in parts for leaf in _leaves(child, f"{path}.{name}" if path else name)
    ]


def _stages_of(  # noqa: PLR0911 - a table of types
    layer: nn.Module, path: str, here: Shape, mask: Mask | None
) -> list[Stage]:
    if isinstance(layer, _NOTHING):
        return []
    if isinstance(layer, nn.Flatten):
        return [] if len(here) == 1 else [Stage(path, here, (_size(here),))]
    if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return [_weighted(layer, path, here, mask)]
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return [_normed(layer, path, here)]
    if isinstance(layer, Select):
        return [_chosen(layer, path, here)]
    if isinstance(layer, (nn.Softmax, nn.LogSoftmax)):
        if len(here) != 1 or layer.dim not in (1, -1, None):
            raise _refused(layer, path, "only a softmax over all outputs has a stage")
        return [Softmax(path, here, here, isinstance(layer, nn.LogSoftmax))]
    if isinstance(layer, _POOLS):
        window, leaving, counting = pooling_window(layer, path, here)
        how = "max" if "Max" in type(layer).__name__ else "mean"
        return [Pool(path, here, leaving, how, window, counting)]
    known = pointwise(layer)
    if known is None:
        raise _refused(layer, path, "networks of " + WORDS + " have stages")
    return [Pointwise(path, here, here, *known)]


WORDS = (
    "nn.Linear, nn.Conv1d, nn.Conv2d, max and average pooling, batch norm, common activations, "
    "softmax, nn.Flatten and nn.Dropout in nn.Sequential"
)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)


def pointwise(layer: nn.Module) -> tuple[str, tuple[float, ...]] | None:
    """The name and the settings of a function of every number by itself; None if it is none."""
    kind = type(layer)
    if kind in _PLAIN:
        return _PLAIN[kind], ()
    if isinstance(layer, nn.LeakyReLU):
        return "leaky_relu", (float(layer.negative_slope),)
    if isinstance(layer, nn.ELU):
        return "elu", (float(layer.alpha),)
    if isinstance(layer, nn.Hardtanh):  # ReLU6 is one
        return "clip", (float(layer.min_val), float(layer.max_val))
    if isinstance(layer, nn.GELU) and layer.approximate == "none":
        return "gelu", ()
    return None


_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.Softsign: "softsign",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Hardswish: "hard_swish",
}


def _weighted(
    layer: nn.Linear | nn.Conv1d | nn.Conv2d, path: str, here: Shape, mask: Mask | None
) -> Weighted:
    weight: Tensor = layer.weight.detach().float()
    name = f"{path}.weight" if path else "weight"
    alive = torch.ones(weight.shape, dtype=torch.bool)
    if mask is not None:
        alive = mask.living(name, weight.shape)
    window, groups = None, 1
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        window, leaving = convolution_window(layer, path, here)
        groups = layer.groups
    else:
        if here != (weight.shape[1],):
            raise StructureError(
                f"layer {path!r} reads {weight.shape[1]} numbers and is given samples of shape "
                f"{here}; put nn.Flatten() before it, or pass an example of the right shape"
            )
        leaving = (weight.shape[0],)
    if not weight.numel() or not bool(alive.any()):
        raise StructureError(
            f"layer {path!r} has no input left: the network's outputs do not depend on its inputs. "
            "Prune less."
        )
    bias = layer.bias
    bias = weight.new_zeros(len(weight)) if not isinstance(bias, Tensor) else bias.detach().float()
    flat = weight.reshape(len(weight), -1)
    alive = alive.reshape(flat.shape)
    return Weighted(path, here, leaving, flat, bias, alive, window, groups)


def _normed(layer: nn.BatchNorm1d | nn.BatchNorm2d, path: str, here: Shape) -> Scaled:
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        raise _refused(layer, path, "batch norm has a stage if it tracks its running statistics")
    if len(mean) != here[0]:
        raise StructureError(f"layer {path!r} norms {len(mean)} channels and is given {here}")
    scale = (variance.double() + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight.detach().double()
    shift = -mean.double() * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double()
    return Scaled(path, here, here, scale, shift)


def _chosen(layer: Select, path: str, here: Shape) -> Chosen:
    first = -len(here) if len(here) == 1 or here[1] > 1 else -2
    if layer.dim != first and not (len(here) == 3 and layer.dim == -3):
        raise _refused(layer, path, "a selection has a stage along features or channels only")
    return Chosen(path, here, (layer.index.numel(), *here[1:]), layer.index)


def _refused(layer: nn.Module, path: str, rule: str) -> StructureError:
    return StructureError(
        f"layer {path!r} is a {type(layer).__name__}, which has no stage: {rule}. Save it as "
        "safetensors instead."
    )


def _image(shape: Shape) -> Shape:
    """(channels, length) as an image of height one."""
    if len(shape) not in (1, 2, 3) or not all(shape):
        raise StructureError(
            f"samples must be flat, (channels, length) or (channels, height, width); the example's "
            f"are {shape}. Pass an example with a batch of such samples."
        )
    return shape if len(shape) != 2 else (shape[0], 1, shape[1])


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
