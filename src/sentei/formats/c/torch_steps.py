"""Compute in torch what each step of a C file computes: products, pooling, functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.errors import StructureError
from sentei.network.encoding.stages import (
    Chosen,
    Pointwise,
    Pool,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Weighted,
)


def finite(head: Weighted) -> tuple[Tensor, Tensor]:
    """Return the weights and the bias of a layer in float32.

    Raises:
        StructureError: one is not finite; the layer is named.
    """
    weight = head.masked.detach().cpu().float()
    bias = head.bias.detach().cpu().float()
    if not bool(weight.isfinite().all()) or not bool(bias.isfinite().all()):
        raise StructureError(
            f"weights must be finite; layer {head.name!r} has one that is not (NaN or infinity). "
            "Train it again."
        )
    return weight, bias


def products(head: Weighted, weights: Tensor, x: Tensor) -> Tensor:
    """Return the sums of weights times inputs, without scale and bias."""
    weights = weights.to(x.dtype)
    if head.window is None:
        return F.linear(x.reshape(len(x), -1), weights)
    window = head.window
    kernels = weights.reshape(len(weights), -1, *window.kernel)
    image = x.reshape(len(x), *head.entering)
    settings = window.stride, window.padding, window.dilation, head.groups
    return F.conv2d(image, kernels, None, *settings)


def plain(head: Stage, x: Tensor, *, rounding: bool) -> Tensor:
    """Compute a stage without weights; with `rounding`, means of integers are integers."""
    x = x.reshape(len(x), *head.entering)
    if isinstance(head, Pool):
        return pooled(head, x, rounding=rounding)
    if isinstance(head, Pointwise):
        return points_applied(x, [head])
    if isinstance(head, Chosen):
        return x.index_select(1, head.index.cpu())
    if isinstance(head, Softmax):
        return x.log_softmax(1) if head.log else x.softmax(1)
    if isinstance(head, Standardised):
        mean, scale = (v.repeat_interleave(head.each) for v in standardising(head))
        x = x if head.index is None else x.index_select(1, head.index.cpu())
        return ((x.float().flatten(1) - mean) * scale).reshape(len(x), *head.leaving)
    assert isinstance(head, Scaled)
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * head.scale.float().reshape(shape) + head.shift.float().reshape(shape)


def standardising(head: Standardised) -> tuple[Tensor, Tensor]:
    """Return the float32 tables of a standardising block: what is subtracted, and the factor."""
    return head.mean.cpu().float(), head.std.cpu().double().reciprocal().float()


def pooled(stage: Pool, x: Tensor, *, rounding: bool) -> Tensor:
    """Pool; with `rounding`, means are rounded, halves away from zero."""
    window = stage.window
    if stage.how == "max":
        return F.max_pool2d(x, window.kernel, window.stride, window.padding)
    settings = window.kernel, window.stride, window.padding
    out = F.avg_pool2d(x, *settings, count_include_pad=stage.count_padding)
    return rounded(out) if rounding else out


def points_applied(x: Tensor, points: Sequence[Pointwise]) -> Tensor:
    """Apply element-wise functions, the first one first."""
    for point in points:
        x = FUNCTIONS[point.function](x, *point.settings)
    return x


def rounded(x: Tensor) -> Tensor:
    """Return the nearest whole numbers; halves are rounded away from zero."""
    return torch.trunc(x + torch.copysign(torch.tensor(0.5), x))


FUNCTIONS = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "softsign": F.softsign,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "clip": torch.clamp,
    "gelu": F.gelu,
}
