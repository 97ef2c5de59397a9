"""Convert the layers of a network to stages with known shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.alive_weights import AliveWeights
from sentei.network.encoding.called_functions import (
    Addition,
    Concatenation,
    LastStep,
    Reshape,
    Selection,
    Transposition,
)
from sentei.network.encoding.called_layers import RECURRENT, called_layers
from sentei.network.encoding.merging import merged
from sentei.network.encoding.recurrent_stages import recurrent_stages
from sentei.network.encoding.sliding import convolution_window, pooling_window
from sentei.network.encoding.stages import (
    Chosen,
    Joined,
    Pointwise,
    Pool,
    Scaled,
    Shape,
    Softmax,
    Stage,
    Standardised,
    Sum,
    Transposed,
    Weighted,
    size_of,
)
from sentei.network.layers import Select, Standardise
from sentei.network.mask import Mask
from sentei.running import Forward

# Largest |mean| in deviations that is folded into weights. In float32, w (x - mean) / std as the
# difference of w x / std and w mean / std loses as many digits as this number has.
FOLDED = 128.0


def stages(
    model: nn.Module,
    shape: Sequence[int],
    mask: Mask | None = None,
    forward: Forward | None = None,
) -> list[Stage]:
    """Convert a network to stages, in the order in which they are computed.

    Args:
        model: torch's own layers, in `nn.Sequential` or called by the network's own
            `forward`, which may add values, join them along the first dimension and reshape them;
            may be on the meta device.
        shape: of one sample, without the batch dimension.
        mask: of this network; which weights are dead.
        forward: runs the layers to convert; if None, the network itself.

    Raises:
        StructureError: a layer or a function that is not supported, or a layer that has no input
            left; it is named.
        GroupError: the mask is not the model's.
    """
    if mask is not None:
        mask.check(model)
    calls = called_layers(model, shape, forward)
    found: list[Stage] = []
    shapes: dict[int, Shape] = {0: image(tuple(shape))}
    given = {0: 0}  # the value in which the result of a call is: layers that do nothing have none
    numbers = count(1 + max((call.value for call in calls), default=0))
    for call in calls:
        reads = tuple(given[value] for value in call.reads)
        value = reads[0]
        made = _stages_of(call.layer, call.path, [shapes[each] for each in reads], mask)
        for place, stage in enumerate(made):
            value = call.value if place == len(made) - 1 else next(numbers)
            found.append(replace(stage, reads=reads, value=value))
            shapes[value], reads = stage.leaving, (value,)
        given[call.value] = value
    if not any(stage.matrices for stage in found):
        raise StructureError(
            "the network has no linear, convolutional or recurrent layer: nothing to write"
        )
    return merged(found)


def _stages_of(  # noqa: PLR0911 - a table of types
    layer: object, path: str, shapes: Sequence[Shape], mask: Mask | None
) -> list[Stage]:
    """Return the stages of one layer: several, or none if it does not change its input.

    Args:
        layer: a layer or one of the functions of `called_functions`.
        path: of the layer.
        shapes: of the values that it reads.
        mask: which weights are dead.
    """
    entering = shapes[0]
    if not isinstance(layer, nn.Module):
        return _of_function(layer, path, shapes)
    if isinstance(layer, RECURRENT):
        return recurrent_stages(layer, path, entering, mask)
    if isinstance(layer, _IDENTITIES):
        return []
    if isinstance(layer, nn.Flatten):
        return [] if len(entering) == 1 else [Stage(path, entering, (size_of(entering),))]
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


def _of_function(layer: object, path: str, shapes: Sequence[Shape]) -> list[Stage]:
    """Return the stages of one of the functions of `called_functions`."""
    entering = shapes[0]
    if isinstance(layer, Addition):
        return [Sum(path, entering, entering)]
    if isinstance(layer, Concatenation):
        leaving = (sum(shape[0] for shape in shapes), *entering[1:])
        return [Joined(path, entering, leaving, tuple(shapes))]
    if isinstance(layer, Transposition):
        return [Transposed(path, entering, entering[::-1])]
    if isinstance(layer, Selection):
        index = torch.arange(layer.begin, layer.end)
        return [Chosen(path, entering, (len(index), *entering[1:]), index)]
    if isinstance(layer, LastStep):
        last = Chosen(path, entering, (1, *entering[1:]), torch.tensor([entering[0] - 1]))
        return [last, Stage(path, last.leaving, (size_of(last.leaving),))]
    assert isinstance(layer, Reshape)
    leaving = image(layer.shape)
    return [] if leaving == entering else [Stage(path, entering, leaving)]


WORDS = (
    "nn.Linear, nn.Conv1d, nn.Conv2d, nn.GRU, nn.LSTM, nn.RNN, max and average pooling, batch "
    "norm, common activations, softmax, nn.Flatten and nn.Dropout, with sums and concatenations,"
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


def _refused(layer: nn.Module, path: str, rule: str) -> StructureError:
    return StructureError(
        f"layer {path!r} is a {type(layer).__name__} that files in C and planned sizes in ONNX do "
        f"not support: {rule}. Save it as safetensors instead; export to ONNX takes any network."
    )


def image(shape: Shape) -> Shape:
    """Return the shape of a sample; (channels, length) becomes an image of height one."""
    if len(shape) not in (1, 2, 3) or not all(shape):
        raise StructureError(
            f"samples must be flat, (channels, length) or (channels, height, width); the example's "
            f"are {shape}. Pass an example with a batch of such samples."
        )
    return shape if len(shape) != 2 else (shape[0], 1, shape[1])
