"""Convert a sequential network to stages with known shapes, from which C and ONNX are written.

Batch norm is folded into the layer before it, dropout is omitted, and one-dimensional signals
become images of height one. Only nn.Sequential of torch's own layers can be converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.alive_weights import AliveWeights
from sentei.network.encoding.called_layers import called_layers
from sentei.network.encoding.sliding import Window, convolution_window, pooling_window
from sentei.network.layers import Select, Standardise
from sentei.network.mask import Mask
from sentei.running import Forward

Shape = tuple[int, ...]

# Largest |mean| in deviations that is folded into weights. In float32, w (x - mean) / std as the
# difference of w x / std and w mean / std loses as many digits as this number has.
FOLDED = 128.0


@dataclass(frozen=True)
class Stage:
    """One operation on one sample; this base class itself stands for flattening.

    Attributes:
        name: qualified name of the layer.
        entering: shape of the sample before; images are (channels, height, width).
        leaving: shape of the sample after.
    """

    name: str
    entering: Shape
    leaving: Shape


@dataclass(frozen=True)
class Weighted(Stage):
    """A linear layer, or a convolution if it has a window.

    Attributes:
        weight: (rows, columns) float; the columns of a convolution run over the input channels of
            the row's group, then over the kernel's rows and columns.
        bias: (rows,).
        alive: which weights are alive, with the same rows and columns; dead ones are zero.
        window: None for a linear layer.
        groups: number of channel groups of a convolution.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    alive: AliveWeights = field(repr=False)
    window: Window | None = None
    groups: int = 1

    @property
    def masked(self) -> Tensor:
        """The weight, with dead ones zero; on the meta device it has no values to set."""
        if self.weight.is_meta or self.alive.count == self.alive.size:
            return self.weight
        return self.weight * torch.from_numpy(self.alive.matrix()).to(self.weight.device)


@dataclass(frozen=True)
class Pool(Stage):
    """Pooling: the maximum or the mean of each window; `how` is "max" or "mean"."""

    how: str
    window: Window
    count_padding: bool = True


@dataclass(frozen=True)
class Pointwise(Stage):
    """An element-wise function and its settings."""

    function: str
    settings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scaled(Stage):
    """Each channel times its scale plus its shift: a batch norm without a layer to fold it into."""

    scale: Tensor = field(repr=False)
    shift: Tensor = field(repr=False)


@dataclass(frozen=True)
class Standardised(Stage):
    """Each value minus a mean, divided by a standard deviation: raw inputs, made comparable.

    Attributes:
        mean: (entries,) float; as many values after one another have the same entry.
        std: (entries,) float.
        folds: whether every mean is small enough beside its deviation to be folded into weights.
        index: positions along the first dimension of `entering` that are standardised and passed
            on; None for all.
    """

    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)
    folds: bool
    index: Tensor | None = field(default=None, repr=False)

    @property
    def each(self) -> int:
        """Number of values after one another that have the same entry."""
        return _size(self.leaving) // len(self.mean)


@dataclass(frozen=True)
class Softmax(Stage):
    """Softmax over all values of a flat sample, or its logarithm if `log`."""

    log: bool


@dataclass(frozen=True)
class Chosen(Stage):
    """Selection of the positions in `index` along the first dimension of the sample."""

    index: Tensor = field(repr=False)


def stages(
    model: nn.Module,
    shape: Sequence[int],
    mask: Mask | None = None,
    forward: Forward | None = None,
) -> list[Stage]:
    """Convert a network to stages, in the order in which they are computed.

    Args:
        model: torch's own layers in `nn.Sequential`; may be on the meta device.
        shape: of one sample, without the batch dimension.
        mask: of this network; which weights are dead.
        forward: runs the layers to convert, of any network, one after another; if None, all of an
            `nn.Sequential`.

    Raises:
        StructureError: a layer that is not supported, or that has no input left; it is named.
        GroupError: the mask is not the model's.
    """
    if mask is not None:
        mask.check(model)
    found: list[Stage] = []
    entering = _image(tuple(shape))
    layers = _leaves(model, "") if forward is None else called_layers(model, shape, forward)
    for path, layer in layers:
        for stage in _stages_of(layer, path, entering, mask):
            _append(found, stage)
            entering = found[-1].leaving
    if not any(isinstance(stage, Weighted) for stage in found):
        raise StructureError("the network has no linear or convolutional layer: nothing to write")
    return found


def _append(found: list[Stage], stage: Stage) -> None:
    """Append a stage, or join it with the last one.

    A scale directly after a layer with weights is folded into that layer. Standardisation moves
    behind flattening, and a selection before or after it becomes a part of it.
    """
    last = found[-1] if found else None
    if isinstance(last, Standardised) and last.index is None and type(stage) is Stage:
        found[-1:] = [stage, replace(last, entering=stage.leaving, leaving=stage.leaving)]
        return
    if isinstance(last, Standardised) and isinstance(stage, Chosen):
        found[-1] = _chosen_of(last, stage)
        return
    if isinstance(last, Chosen) and isinstance(stage, Standardised):
        found[-1] = replace(stage, entering=last.entering, index=last.index)
        return
    if isinstance(stage, Scaled) and isinstance(last, Weighted):
        scale, shift = stage.scale.to(last.weight), stage.shift.to(last.weight)
        found[-1] = replace(
            last, weight=last.weight * scale[:, None], bias=last.bias * scale + shift
        )
    else:
        found.append(stage)


def _leaves(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Return the layers inside nested nn.Sequential with their paths, in order."""
    if type(module) is not nn.Sequential:
        return [(path, module)]
    # named_children would skip the second use of a layer that is used twice.
    parts = ((name, child) for name, child in module._modules.items() if child is not None)
    return [
        leaf for name, child in parts for leaf in _leaves(child, f"{path}.{name}" if path else name)
    ]


def _stages_of(  # noqa: PLR0911 - a table of types
    layer: nn.Module, path: str, entering: Shape, mask: Mask | None
) -> list[Stage]:
    """Return the stages of one layer: one, or none if it does not change its input."""
    if isinstance(layer, _IDENTITIES):
        return []
    if isinstance(layer, nn.Flatten):
        return [] if len(entering) == 1 else [Stage(path, entering, (_size(entering),))]
    if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return [_weighted(layer, path, entering, mask)]
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return [_batch_norm(layer, path, entering)]
    if isinstance(layer, Select):
        return [_chosen(layer, path, entering)]
    if isinstance(layer, Standardise):
        return [_standardised(layer, path, entering)]
    if isinstance(layer, (nn.Softmax, nn.LogSoftmax)):
        if len(entering) != 1 or layer.dim not in (1, -1, None):
            raise _refused(layer, path, "only a softmax over all outputs is supported")
        return [Softmax(path, entering, entering, isinstance(layer, nn.LogSoftmax))]
    if isinstance(layer, _POOLS):
        window, leaving, counting = pooling_window(layer, path, entering)
        how = "max" if "Max" in type(layer).__name__ else "mean"
        return [Pool(path, entering, leaving, how, window, counting)]
    function = pointwise(layer)
    if function is None:
        raise _refused(layer, path, "networks of " + WORDS + " are supported")
    return [Pointwise(path, entering, entering, *function)]


WORDS = (
    "nn.Linear, nn.Conv1d, nn.Conv2d, max and average pooling, batch norm, common activations, "
    "softmax, nn.Flatten and nn.Dropout in nn.Sequential"
)
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)


def pointwise(layer: nn.Module) -> tuple[str, tuple[float, ...]] | None:
    """Return name and settings of an element-wise layer; None if the layer is no such function."""
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
    layer: nn.Linear | nn.Conv1d | nn.Conv2d, path: str, entering: Shape, mask: Mask | None
) -> Weighted:
    """Return the stage of a linear layer or a convolution; check that it accepts its input."""
    weight: Tensor = layer.weight.detach().float()
    name = f"{path}.weight" if path else "weight"
    shape = tuple(weight.shape)
    alive = AliveWeights(shape) if mask is None else mask.weights(name, shape)
    window, groups = None, 1
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        window, leaving = convolution_window(layer, path, entering)
        groups = layer.groups
    else:
        if entering != (weight.shape[1],):
            raise StructureError(
                f"layer {path!r} reads {weight.shape[1]} numbers and gets samples of shape "
                f"{entering}; put nn.Flatten() before it, or pass an example of the right shape"
            )
        leaving = (weight.shape[0],)
    if not alive.count:
        raise StructureError(
            f"layer {path!r} has no input left: the network's outputs do not depend on its inputs. "
            "Prune less."
        )
    bias = layer.bias
    bias = weight.new_zeros(len(weight)) if not isinstance(bias, Tensor) else bias.detach().float()
    flat = weight.reshape(len(weight), -1)
    return Weighted(path, entering, leaving, flat, bias, alive, window, groups)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, path: str, entering: Shape) -> Scaled:
    """Return a batch norm in evaluation mode as a scale and a shift of each channel."""
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        raise _refused(layer, path, "only batch norm with running statistics is supported")
    if len(mean) != entering[0]:
        raise StructureError(
            f"layer {path!r} normalises {len(mean)} channels and gets samples of shape {entering}"
        )
    scale = (variance.double() + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight.detach().double()
    shift = -mean.double() * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double()
    return Scaled(path, entering, entering, scale, shift)


def _chosen(layer: Select, path: str, entering: Shape) -> Chosen:
    """Return the stage of a Select along the first dimension of a sample."""
    first = -len(entering) if len(entering) == 1 or entering[1] > 1 else -2
    if layer.dim != first and not (len(entering) == 3 and layer.dim == -3):
        raise _refused(layer, path, "only a selection of features or channels is supported")
    return Chosen(path, entering, (layer.index.numel(), *entering[1:]), layer.index)


def _standardised(layer: Standardise, path: str, entering: Shape) -> Standardised:
    """Return the stage of a Standardise, with one entry for each value or for each channel."""
    own = tuple(layer.mean.shape)
    shape = (entering[0], entering[2]) if len(entering) == 3 and len(own) == 2 else entering
    try:
        mean, std = (values.double().expand(shape) for values in (layer.mean, layer.std))
    except RuntimeError as error:
        raise StructureError(
            f"layer {path!r} standardises samples of shape {own} and gets samples of shape "
            f"{shape}; pass an example of the right shape"
        ) from error
    if not mean.is_meta and not bool((mean.isfinite() & std.isfinite() & (std > 0)).all()):
        raise StructureError(
            f"means must be finite and deviations above 0; layer {path!r} has others. Fit it again."
        )
    # Sizes are planned on the meta device, but there too these have values; see `size.skeleton`.
    folds = mean.is_meta or bool((mean.abs() <= FOLDED * std).all())
    if len(own) == len(shape) and set(own[1:]) == {1}:
        mean, std = (values.flatten(1)[:, 0] for values in (mean, std))  # one for each channel
    return Standardised(path, entering, entering, mean.flatten(), std.flatten(), folds)


def _chosen_of(stage: Standardised, chosen: Chosen) -> Standardised:
    """Return standardisation of the chosen positions alone."""
    index, positions = chosen.index, chosen.entering[0]
    mean, std = (
        values.repeat_interleave(max(positions // len(values), 1))
        .reshape(positions, -1)
        .to(index.device)[index]
        .flatten()
        for values in (stage.mean, stage.std)
    )
    index = index if stage.index is None else stage.index.to(index.device)[index]
    return replace(stage, leaving=chosen.leaving, mean=mean, std=std, index=index)


def folded(found: Sequence[Stage]) -> list[Stage]:
    """Fold standardisation into the weights that read it, where that is exact enough.

    Then it takes no room and no time. It stays a step of its own before padding, which has to be
    zero after standardisation, before channels whose values have entries of their own, and where a
    mean is so large that the difference of weighted inputs and bias would lose digits.
    """
    result: list[Stage] = []
    for stage in found:
        before = result[-1] if result else None
        if isinstance(before, Standardised) and isinstance(stage, Weighted) and before.folds:
            result[-1:] = _folded(before, stage) or [before, stage]
        else:
            result.append(stage)
    return result


def _folded(before: Standardised, stage: Weighted) -> list[Stage] | None:
    """Return a layer with weights that reads raw values, after a selection; None if none can."""
    channels, area = stage.entering[0], 1
    if stage.window is not None:
        area = _size(stage.window.kernel)
        if any(stage.window.padding) or len(before.mean) != channels:
            return None
    rows = len(stage.weight)
    device = stage.weight.device
    mean, std = (
        values.to(device)
        .repeat_interleave(channels // len(values))
        .reshape(stage.groups, -1)
        .repeat_interleave(area, 1)
        .repeat_interleave(rows // stage.groups, 0)
        for values in (before.mean, before.std)
    )  # (rows, columns) what each weight reads
    weight = stage.masked.double() / std
    bias = stage.bias.double() - (weight * mean).sum(1)
    raw = replace(stage, weight=weight.float(), bias=bias.float())
    if before.index is None:
        return [raw]
    return [Chosen(before.name, before.entering, before.leaving, before.index), raw]


def _refused(layer: nn.Module, path: str, rule: str) -> StructureError:
    return StructureError(
        f"layer {path!r} is a {type(layer).__name__} that files in C and planned sizes in ONNX do "
        f"not support: {rule}. Save it as safetensors instead; export to ONNX takes any network."
    )


def _image(shape: Shape) -> Shape:
    """Return the shape of a sample; (channels, length) becomes an image of height one."""
    if len(shape) not in (1, 2, 3) or not all(shape):
        raise StructureError(
            f"samples must be flat, (channels, length) or (channels, height, width); the example's "
            f"are {shape}. Pass an example with a batch of such samples."
        )
    return shape if len(shape) != 2 else (shape[0], 1, shape[1])


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
