"""Quantise a network to integers alone, and compute in torch exactly what its C file computes.

A value v is stored as an integer number of steps, v / step, from -top to top. A layer sums products
of integers in 32 bits, adds its bias, and rescales the sum to steps of its output: times a 32-bit
factor of the row, shifted right. Functions that are not limits are curves: a table of 257 values,
with straight lines between them. There is no rounding that depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.network.encoding.blocks import Block, last_linear
from sentei.network.encoding.evaluating import (
    finite,
    plain,
    points_applied,
    pooled,
    products,
    rounded,
)
from sentei.network.encoding.plans import CURVE, Plan, is_curve
from sentei.network.encoding.stages import (
    Chosen,
    Joined,
    Pointwise,
    Pool,
    Standardised,
    Sum,
    Transposed,
    Weighted,
)

WEIGHT = 127  # largest stored weight
WIDE = 32767  # largest number of steps before a curve, and of an output
TOPS = {1: 127, 2: WIDE}  # largest activation, by its bytes
_SUM = 2**31 - 1  # largest sum of products
# From here on a function is as good as constant, or straight: finer steps serve the rest better.
_RANGES = {"tanh": 5.0, "sigmoid": 10.0, "hard_sigmoid": 3.0}


@dataclass(frozen=True)
class Scale:
    """How activations are stored: the real value of one step, and the largest number of steps."""

    step: float
    top: int


@dataclass(frozen=True)
class Layer:
    """The stored integers of a layer with weights.

    Attributes:
        weights: (rows, columns) from -127 to 127; dead ones are zero.
        bias: (rows,) in units of the row's sums.
        factors: (rows,) below 2^31; times a sum, shifted right by `shift`, it gives steps.
        shift: from 1 to 62.
        low: least number of steps after the shift.
        high: largest number of steps after the shift.
        curve: (257,) outputs at inputs of -32768, -32512, ..., 32768 steps; None without one.
    """

    weights: Tensor
    bias: Tensor
    factors: Tensor
    shift: int
    low: int
    high: int
    curve: Tensor | None


@dataclass(frozen=True)
class Rescaling:
    """The stored integers of a sum, or of values that are joined, whose steps differ.

    Attributes:
        factors: of each value; times its steps and shifted right by `shift`, it gives steps of the
            output. No sum of such products leaves 32 bits.
        shift: from 1 to 30.
        low: least number of steps after the shift.
        high: largest number of steps after the shift.
        curve: as in `Layer`.
    """

    factors: tuple[int, ...]
    shift: int
    low: int
    high: int
    curve: Tensor | None


Quantised = Layer | Rescaling
# Stages whose outputs have the steps of what they read.
_PASSING_ON = (Chosen, Pool, Transposed)


def quantise(x: Tensor, scale: Scale) -> Tensor:
    """Return x as integer numbers of steps, in floats; halves are rounded away from zero."""
    scaled = x.float() * torch.tensor(1.0 / scale.step, dtype=torch.float32)
    return rounded(scaled).clamp(-scale.top, scale.top)


def quantised(
    plan: Plan, samples: Tensor, activation: int
) -> tuple[list[Quantised | None], list[Scale]]:
    """Return the integers of each block, and the scale of the input and of each block's output.

    Args:
        plan: of a network with weights in memory.
        samples: (N, ...) inputs. The largest absolute activation of a block on them becomes the
            largest number of its steps.
        activation: bytes of an activation.

    Raises:
        StructureError: a weight that is not finite; the layer is named.
    """
    last, top = last_linear(plan.blocks), TOPS[activation]
    readers = [block.head for block in plan.blocks if -1 in block.sources]
    read = samples
    if len(readers) == 1 and isinstance(readers[0], Chosen):
        read = samples.index_select(1, readers[0].index.cpu())
    # Here and below, the input comes first: the output of block n is entry n + 1.
    largest, found, rows = [_largest(read)], [samples], []
    for index, block in enumerate(plan.blocks):
        given = [found[source + 1] for source in block.sources]
        entering = largest[block.sources[0] + 1]
        before, here, weights = _real(block, given, entering, top)
        found.append(here)
        rows.append((weights, _largest(before)))
        # Outputs have room for twice what was seen: a limit there would make classes equal.
        own = 2 * before if index == last else here
        largest.append(entering if isinstance(block.head, _PASSING_ON) else _largest(own))
    tops = _tops(plan, rows, largest, top)
    scales = [Scale(most / top, top) for most, top in zip(largest, tops, strict=True)]
    layers: list[Quantised | None] = []
    for index, block in enumerate(plan.blocks):
        weights, most = rows[index]
        given = [scales[source + 1] for source in block.sources]
        layer, leaving = None, scales[index + 1]
        if weights is not None and isinstance(block.head, Weighted):
            points = () if index == last else block.before
            layer, leaving = _layer(weights, block.head, points, given[0], leaving, most)
        elif isinstance(block.head, (Sum, Joined)):
            layer, leaving = _rescaling(block.before, given, leaving, most)
        elif isinstance(block.head, _PASSING_ON):
            (leaving,) = given
        layers.append(layer)
        scales[index + 1] = leaving
    return layers, scales


@torch.no_grad()
def steps_out(
    plan: Plan, layers: Sequence[Quantised | None], scales: Sequence[Scale], x: Tensor
) -> Tensor:
    """Compute the outputs of the last linear layer, (N, rows) in steps, exactly as in C.

    Args:
        plan: of the network.
        layers: integers of each block.
        scales: of the input and of each block's output.
        x: (N, ...) in steps; real where the network standardises its inputs.
    """
    found = [x.double()]
    for index in range(last_linear(plan.blocks) + 1):
        block, layer = plan.blocks[index], layers[index]
        given = [found[source + 1] for source in block.sources]
        if isinstance(layer, Layer) and isinstance(block.head, Weighted):
            sums = products(block.head, layer.weights, given[0]).long()
            shape = (-1, *(1,) * (sums.ndim - 2))
            total = (sums + layer.bias.reshape(shape)) * layer.factors.reshape(shape)
            here = _settled(layer, total).double()
            if block.pool is not None:
                here = pooled(block.pool, here, rounding=True)
        elif isinstance(layer, Rescaling):
            scaled = [x.long() * factor for x, factor in zip(given, layer.factors, strict=True)]
            here = _settled(layer, plain(block.head, scaled, rounding=False)).double()
        else:
            here = plain(block.head, given, rounding=True)
            if isinstance(block.head, Standardised):
                here = quantise(here, scales[index + 1]).double()
        found.append(here)
    return found[-1].flatten(1)


def _settled(layer: Quantised, total: Tensor) -> Tensor:
    """Return totals shifted, limited, and passed through the curve."""
    steps = ((total + (1 << (layer.shift - 1))) >> layer.shift).clamp(layer.low, layer.high)
    if layer.curve is None:
        return steps
    at, curve = steps + 32768, layer.curve.long()
    low, high = curve[at >> 8], curve[(at >> 8) + 1]
    return low + (((high - low) * (at & 255) + 128) >> 8)


# Calibration.


def _real(
    block: Block, given: Sequence[Tensor], most: float, top: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Compute one block in floats with rounded weights.

    Returns:
        Its values before element-wise functions, its outputs, and its weights: integers, and the
        real value of one of each row.
    """
    head = block.head
    if not isinstance(head, Weighted):
        out = plain(head, given, rounding=False)
        return out, points_applied(out, block.before), None
    weight, bias = finite(head)
    # A bias is at most 2^30 units of its row's sums.
    least = bias.abs() * (top / (most * 2.0**30))
    scale = torch.maximum(weight.abs().amax(1) / WEIGHT, least).clamp_min(1e-30).double()
    whole = (weight / scale[:, None]).round().clamp(-WEIGHT, WEIGHT)
    shape = (-1, *(1,) * (len(head.leaving) - 1))
    sums = products(head, whole, given[0].double())
    before = (sums * scale.reshape(shape) + bias.double().reshape(shape)).float()
    out = points_applied(before, block.before)
    if block.pool is not None:
        out = pooled(block.pool, out, rounding=False)
    return before, out, (whole, scale)


def _tops(
    plan: Plan,
    rows: Sequence[tuple[tuple[Tensor, Tensor] | None, float]],
    largest: Sequence[float],
    top: int,
) -> list[int]:
    """Return the largest steps of the input and of each output: no sum leaves 32 bits."""
    tops = [top] * len(largest)
    last = last_linear(plan.blocks)
    tops[last + 1] = WIDE
    for index in reversed(range(last + 1)):
        block, weights = plan.blocks[index], rows[index][0]
        entering = block.sources[0] + 1
        if isinstance(block.head, _PASSING_ON):
            tops[entering] = min(tops[entering], tops[index + 1])
        if weights is None or not isinstance(block.head, Weighted):
            continue
        whole, scale = weights
        bias = block.head.bias.detach().cpu().double().abs() / (scale * largest[entering])
        each = whole.double().abs().sum(1) + bias
        tops[entering] = min(tops[entering], int((_SUM - 1) / float(each.max().clamp_min(1))))
    return tops


def _layer(
    weights: tuple[Tensor, Tensor],
    head: Weighted,
    points: Sequence[Pointwise],
    entering: Scale,
    leaving: Scale,
    most: float,
) -> tuple[Layer, Scale]:
    """Return the integers of a layer, and the scale of its output."""
    whole, scale = weights
    units = scale * entering.step  # (rows,) real value of one unit of a sum
    # Steps finer than this would say nothing about sums of whole units.
    least = float(units.max()) / 256
    leaving = Scale(max(leaving.step, least), leaving.top)
    inner = _before(points, leaving, most, least)
    ratios = units / inner.step
    shift = min(31 - math.frexp(float(ratios.max()))[1], 62)
    factors = (ratios * 2.0**shift).round().clamp(0, _SUM).long()
    bias = (head.bias.detach().cpu().double() / units).round().clamp(-_SUM, _SUM).long()
    low, high, curve, leaving = _ends(points, inner, leaving)
    return Layer(whole, bias, factors, shift, low, high, curve), leaving


def _rescaling(
    points: Sequence[Pointwise], entering: Sequence[Scale], leaving: Scale, most: float
) -> tuple[Rescaling, Scale]:
    """Return the integers of a sum or of joined values, and the scale of the output."""
    # Steps finer than this would not leave the factors enough bits.
    least = max(scale.step * scale.top for scale in entering) / 2**20
    leaving = Scale(max(leaving.step, least), leaving.top)
    inner = _before(points, leaving, most, least)
    ratios = [scale.step / inner.step for scale in entering]
    shift = 30
    while True:
        factors = tuple(round(ratio * 2**shift) for ratio in ratios)
        total = sum(scale.top * factor for scale, factor in zip(entering, factors, strict=True))
        if total + 2**shift < _SUM:
            break
        shift -= 1
    low, high, curve, leaving = _ends(points, inner, leaving)
    return Rescaling(factors, shift, low, high, curve), leaving


def _before(points: Sequence[Pointwise], leaving: Scale, most: float, least: float) -> Scale:
    """Return the scale of sums before functions: that of the output, unless there is a curve."""
    if not is_curve(points):
        return leaving
    ranges = [_RANGES[point.function] for point in points[:1] if point.function in _RANGES]
    return Scale(max(min([most, *ranges]) / WIDE, least), WIDE)


def _ends(
    points: Sequence[Pointwise], inner: Scale, leaving: Scale
) -> tuple[int, int, Tensor | None, Scale]:
    """Return the limits of sums in steps, the curve behind them, and the scale of the output."""
    if is_curve(points):
        return -WIDE - 1, WIDE, *_curve(points, inner, leaving)
    return *_limits(points, leaving), None, leaving


def _limits(points: Sequence[Pointwise], scale: Scale) -> tuple[int, int]:
    """Return the least and the largest step that these limits leave."""
    ends = torch.tensor([-scale.top, scale.top]).float() * scale.step
    low, high = quantise(points_applied(ends, points), scale).int().tolist()
    return low, high


def _curve(points: Sequence[Pointwise], inner: Scale, leaving: Scale) -> tuple[Tensor, Scale]:
    """Return the table of a curve, and the scale of its output.

    The line that reaches the largest output ends at the next entry of the table, which has to be
    within the scale.
    """
    at = torch.arange(-WIDE - 1, WIDE + 2, (WIDE + 1) * 2 // (CURVE - 1)).double() * inner.step
    real = points_applied(at, points)
    beyond = real.abs()[real.abs() >= leaving.step * leaving.top]
    most = float(beyond.min()) if len(beyond) else leaving.step * leaving.top
    leaving = Scale(most / leaving.top, leaving.top)
    return quantise(real, leaving), leaving


def _largest(x: Tensor) -> float:
    """Return the largest absolute value, above 0."""
    return max(float(x.abs().max()), 1e-12)
