"""Norms over a width of which entries were removed: they count these as zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function


def counted_layer_norm(
    input: Tensor,
    count: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    axis: int = -1,
) -> Tensor:
    """Compute the layer norm of `count` entries along an axis, of which all missing ones are 0.

    It equals `F.layer_norm` of the input with `count - width` zeros more, without their results.

    Args:
        input: (..., width) if `axis` is -1.
        count: number of entries by which the sums are divided; at least `width`.
        weight: (width,) scales; None for 1.
        bias: (width,) shifts; None for 0.
        eps: added to the variance.
        axis: the dimension of the entries, counted from the end.
    """
    given = [tensor for tensor in (input, weight, bias) if tensor is not None]
    if has_torch_function(given):
        return handle_torch_function(
            counted_layer_norm, given, input, count, weight, bias, eps, axis
        )
    # Measured: padding costs 2 to 8 times a layer norm of the width, arithmetic 11 to 25 times.
    missing, last = count - input.shape[axis], input.ndim - 1
    dim = input.ndim + axis  # torch's older ONNX exporter writes -3 as it is, and ONNX has no such
    whole = F.pad(input.movedim(dim, last), (0, missing))
    scales, shifts = (None if t is None else F.pad(t, (0, missing)) for t in (weight, bias))
    normed = F.layer_norm(whole, (count,), scales, shifts, eps)
    return normed.narrow(last, 0, input.shape[axis]).movedim(last, dim)


def plain_counted_norm(
    input: Tensor,
    count: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    axis: int = -1,
) -> Tensor:
    """Compute `counted_layer_norm` by statistics and elementwise functions."""
    share = input.shape[axis] / count
    # Mean and variance of the entries that are there; both sums below are of positive terms.
    mean = torch.mean(input, axis, keepdim=True)
    spread = torch.var(input, dim=axis, unbiased=False, keepdim=True)
    whole = share * (spread + mean.square() * (1 - share))
    normed = (input - share * mean) * (whole + eps).rsqrt()
    return _scaled(normed, weight, bias, axis)


def counted_rms_norm(
    input: Tensor,
    count: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    axis: int = -1,
) -> Tensor:
    """Compute the root mean square norm of `count` entries, of which all missing ones are 0.

    Arguments as for `counted_layer_norm`.
    """
    share = input.shape[axis] / count
    square = torch.mean(input.square(), axis, keepdim=True) * share
    return _scaled(input * (square + eps).rsqrt(), weight, bias, axis)


def _scaled(normed: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
    """Multiply by a scale and add a shift for each entry along an axis."""
    form = [-1] + [1] * (-axis - 1)
    if weight is not None:
        normed = normed * (weight if axis == -1 else weight.reshape(form))
    if bias is not None:
        normed = normed + (bias if axis == -1 else bias.reshape(form))
    return normed


class CountedLayerNorm(nn.Module):
    """A layer norm that counts the entries that `shrink` removed before it, as zeros.

    So mean and variance are those of the masked network. Parameters have the names of
    `nn.LayerNorm`.

    Args:
        width: number of entries that are left.
        count: number of entries that are counted: the width before the first cut.
        eps: added to the variance.
        axis: the dimension of the entries, counted from the end.
        elementwise_affine: whether there is a scale for each entry.
        bias: whether there is a shift, too.
        centred: 1 to subtract the mean and divide by the deviation, as layer norm; 0 to divide by
            the root mean square alone, as RMS norm.

    Raises:
        ValueError: fewer entries are counted than are left, or an axis from the beginning.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        count: int,
        eps: float = 1e-5,
        axis: int = -1,
        elementwise_affine: bool = True,
        bias: bool = True,
        centred: int = 1,
    ):
        super().__init__()
        if not 0 <= width <= count or axis >= 0:
            raise ValueError(
                "a counted norm counts at least the entries that are left, along an axis counted "
                f"from the end; got width {width}, count {count} and axis {axis}"
            )
        self.width, self.count, self.eps, self.axis = width, count, eps, axis
        self.elementwise_affine, self.centred = elementwise_affine, int(centred)
        weight = nn.Parameter(torch.ones(width)) if elementwise_affine else None
        shift = nn.Parameter(torch.zeros(width)) if elementwise_affine and bias else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", shift)

    @classmethod
    def of(
        cls, norm: nn.Module, width: int, eps: float, axis: int = -1, centred: int = 1
    ) -> CountedLayerNorm:
        """Return the norm with the parameters `weight` and `bias` of another, where it has them."""
        own: dict[str, Any] = dict(norm._parameters)
        counted = cls(width, width, eps, axis, elementwise_affine=False, centred=centred)
        counted.elementwise_affine = own.get("weight") is not None
        counted.weight, counted.bias = own.get("weight"), own.get("bias")
        return counted.train(norm.training)

    def refresh_(self) -> None:
        """Update the width after a cut of the weights; the count stays."""
        if self.weight is not None:
            self.width = self.weight.shape[0]

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (..., width); along another axis, if the norm has one."""
        norm = counted_layer_norm if self.centred else counted_rms_norm
        return norm(input, self.count, self.weight, self.bias, self.eps, self.axis)

    def extra_repr(self) -> str:
        """Return the width and what is counted, for `print(model)`."""
        kind = "" if self.centred else ", root mean square"
        return f"{self.width} of {self.count}, eps={self.eps}{kind}"
