"""What the columns of a layer's weight read in one call: inputs, or patches of a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from sentei.network.calls import Call
from sentei.network.layout import Layout


def columns_read(call: Call, layout: Layout) -> Tensor:
    """Return what each column of the weight's matrices reads in a call.

    Args:
        call: a call that multiplies by the weight.
        layout: the layout of its weight.

    Returns:
        (groups, columns, n) float64, over samples and positions; zeros of a padding count. Where
        the call is for one group, zeros for the others.
    """
    if len(layout.shape) == 2:
        read = call.input.double().movedim(call.axis, 0).flatten(1)
        if call.third is None:
            return read[None]
        alone = read.new_zeros(layout.groups, *read.shape)
        alone[call.third] = read
        return alone
    return _rows(call, layout, _batched(call, layout))


def products_read(call: Call, layout: Layout) -> tuple[Tensor, float]:
    """Return the sums of products of any two of `columns_read`, and how many each sum has.

    Returns:
        (groups, columns, columns) float64, and a count.
    """
    rows = columns_read(call, layout)
    return rows @ rows.mT, places_read(call, layout, rows)


def places_read(call: Call, layout: Layout, rows: Tensor) -> float:
    """Return over how many places the call adds up; as a share where it is for one group."""
    return rows.shape[2] if call.third is None else rows.shape[2] / layout.groups


def squares_read(call: Call, layout: Layout) -> tuple[Tensor, float]:
    """Return the sums of the squares of `columns_read`, and how many squares each sum has.

    Squares are added over the samples before patches are taken, which holds far less.

    Returns:
        (groups, columns) float64, and a count.
    """
    if len(layout.shape) == 2:
        rows = columns_read(call, layout)
        return rows.square().sum(2), places_read(call, layout, rows)
    x = _batched(call, layout)
    rows = _rows(call, layout, x.square().sum(0, keepdim=True))
    return rows.sum(2), len(x) * rows.shape[2]


def _batched(call: Call, layout: Layout) -> Tensor:
    """Return a convolution's input with a dimension of samples, float64."""
    x = call.input.double()
    return x if x.ndim == len(layout.shape) else x[None]


def _rows(call: Call, layout: Layout, x: Tensor) -> Tensor:
    """Rearrange a convolution's input to (groups, columns, samples times positions)."""
    each = len(layout.shape) - 2
    split = _patches(call, layout, x).unflatten(1, (layout.groups, -1))
    # From samples, groups, channels, positions, kernel to groups, kernel, channels and the rest.
    order = (1, *range(3 + each, 3 + 2 * each), 2, 0, *range(3, 3 + each))
    return split.permute(order).reshape(layout.groups, layout.width, -1)


def _patches(call: Call, layout: Layout, x: Tensor) -> Tensor:
    """Return a view of x, (samples, channels, size…), as (samples, channels, positions…, kernel…).

    A transposed convolution is one over its input with zeros between the entries, by the kernel
    turned round.
    """
    given, kernel = call.given, layout.shape[2:]
    each = len(kernel)
    stride, dilation = (_each(given.get(name, 1), each) for name in ("stride", "dilation"))
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if layout.columns == 0:
        padding = _each(given.get("padding", 0), each)
        more = _each(given.get("output_padding", 0), each)
        x, sides = _spread(x, stride), []
        for span, before, after in zip(spans, padding, more, strict=True):
            sides.append((span - before, span - before + after))
        stride = [1] * each
    else:
        sides = _sides(given.get("padding", 0), spans)
    x = F.pad(x, [amount for side in reversed(sides) for amount in side])
    for i, (span, step, apart) in enumerate(zip(spans, stride, dilation, strict=True)):
        x = x.unfold(2 + i, span + 1, step)[..., ::apart]
    return x.flip([*range(-each, 0)]) if layout.columns == 0 else x


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Put stride - 1 zeros between the entries of each dimension of a layer's input."""
    sizes = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    spread[(..., *(slice(None, None, step) for step in stride))] = x
    return spread


def _sides(padding: Any, spans: Sequence[int]) -> list[tuple[int, int]]:
    """Return how many zeros lie before and after the input in each dimension."""
    if padding == "same":
        return [(span // 2, span - span // 2) for span in spans]
    return [(n, n) for n in _each(0 if padding == "valid" else padding, len(spans))]


def _each(value: int | Sequence[int], count: int) -> list[int]:
    """Return one number for each dimension; an integer, or a single one, stands for all."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * count if len(numbers) == 1 else numbers
