"""Quantise the numbers of a C file, and compute in torch what the file computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.errors import StructureError
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.plans import Block, Plan
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

TOP = 127  # largest int8 value; the range is symmetric, -127 to 127


@dataclass(frozen=True)
class Values:
    """The stored weights, scales and biases of one block.

    Attributes:
        weights: (rows, columns) as stored; dead ones are zero.
        scale: (rows,) real value of one step of a stored int8 weight; None if weights are floats.
        bias: (rows,).
    """

    weights: Tensor
    scale: Tensor | None
    bias: Tensor


@dataclass(frozen=True)
class Stored:
    """A plan together with its stored numbers.

    Attributes:
        plan: sizes and codes.
        values: of each block; None for blocks without weights.
        steps: real value of one int8 step of the network's input, then of each block's output;
            empty if activations are floats.
    """

    plan: Plan
    values: tuple[Values | None, ...]
    steps: tuple[float, ...]

    @property
    def input_step(self) -> float | None:
        """Real value of one step of an int8 input; None if the file takes floats.

        A network that standardises its inputs takes floats in every format.
        """
        takes_floats = not self.steps or isinstance(self.plan.blocks[0].head, Standardised)
        return None if takes_floats else self.steps[0]


def stored(plan: Plan, samples: Tensor) -> Stored:
    """Quantise weights per row and symmetrically; calibrate int8 activations on samples.

    Args:
        plan: of a network with weights in memory.
        samples: (N, ...) inputs; the largest absolute activation that they produce in a block
            becomes 127 there.

    Raises:
        StructureError: a weight that is not finite; the layer is named.
    """
    numbers = c_numbers(plan.format)
    values = tuple(_values(block.head, numbers.weight == 1) for block in plan.blocks)
    if numbers.activation == 4:
        return Stored(plan, values, ())
    first = plan.blocks[0].head  # inputs that no layer reads do not count
    read = samples.index_select(1, first.index.cpu()) if isinstance(first, Chosen) else samples
    as_floats, steps, here = Stored(plan, values, ()), [_step(read)], samples
    for index in range(len(plan.blocks)):
        here = _block(as_floats, index, here)
        passes_on = isinstance(plan.blocks[index].head, (Chosen, Pool))
        steps.append(steps[-1] if passes_on else _step(here))
    return Stored(plan, values, tuple(steps))


def outputs(net: Stored, samples: Tensor) -> Tensor:
    """Compute the outputs of the C file in torch: (N, outputs) in real units.

    int8 activations are exactly those of the C code.
    """
    here = samples if net.input_step is None else quantise(samples, net.input_step)
    for index in range(len(net.plan.blocks)):
        here = _block(net, index, here)
    return here.flatten(1)


def quantise(x: Tensor, step: float) -> Tensor:
    """Return x as integer numbers of steps, in floats; halves are rounded away from zero."""
    scaled = x.float() * torch.tensor(1.0 / step, dtype=torch.float32)
    return torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled)).clamp(-TOP, TOP)


def last_whole(plan: Plan) -> int:
    """Return the index of the last linear layer, which turns int8 activations into floats."""
    heads = [block.head for block in plan.blocks]
    return max(i for i, head in enumerate(heads) if isinstance(head, Weighted) and not head.window)


def _step(x: Tensor) -> float:
    """Return the real value of one int8 step, so that the largest absolute value is 127 steps."""
    return max(float(x.abs().max()), 1e-12) / TOP


def _values(head: Stage, is_int8: bool) -> Values | None:
    """Return the stored numbers of a block, as floats or int8; None without weights."""
    if not isinstance(head, Weighted):
        return None
    weight = head.masked.detach().cpu().float()
    bias = head.bias.detach().cpu().float()
    if not bool(weight.isfinite().all()) or not bool(bias.isfinite().all()):
        raise StructureError(
            f"weights must be finite; layer {head.name!r} has one that is not (NaN or infinity). "
            "Train it again."
        )
    if not is_int8:
        return Values(weight, None, bias)
    scale = (weight.abs().amax(1) / TOP).clamp_min(1e-30)
    return Values((weight / scale[:, None]).round().clamp(-TOP, TOP), scale, bias)


@torch.no_grad()
def _block(net: Stored, index: int, x: Tensor) -> Tensor:
    """Compute the output of one block for a batch."""
    block, values = net.plan.blocks[index], net.values[index]
    is_int8 = bool(net.steps)
    if values is None:
        out = _plain(block.head, x, is_int8)
        rounds = is_int8 and isinstance(block.head, Standardised)
        return quantise(out, net.steps[index + 1]) if rounds else out
    total = _products(block, values, x.double() if is_int8 else x)
    scale = values.scale
    if is_int8 and scale is not None:
        scale = (scale.double() * net.steps[index]).float()
    shape = (-1, *(1,) * (total.ndim - 2))
    out = total.float() * (1 if scale is None else scale.reshape(shape))
    out = _points(out + values.bias.reshape(shape), block.before)
    if is_int8 and index < last_whole(net.plan):
        out = quantise(out, net.steps[index + 1])
    if block.pool is not None:
        out = _pooled(block.pool, out, is_int8)
    return _points(out, block.after)


def _products(block: Block, values: Values, x: Tensor) -> Tensor:
    """Return the sums of weights times inputs, without scale and bias."""
    head = block.head
    assert isinstance(head, Weighted)
    weights = values.weights.to(x.dtype)
    if head.window is None:
        return F.linear(x.reshape(len(x), -1), weights)
    window = head.window
    kernels = weights.reshape(len(weights), -1, *window.kernel)
    image = x.reshape(len(x), *head.entering)
    settings = window.stride, window.padding, window.dilation, head.groups
    return F.conv2d(image, kernels, None, *settings)


def _plain(head: Stage, x: Tensor, is_int8: bool) -> Tensor:
    """Compute a stage without weights."""
    x = x.reshape(len(x), *head.entering)
    if isinstance(head, Pool):
        return _pooled(head, x, is_int8)
    if isinstance(head, Pointwise):
        return _points(x, [head])
    if isinstance(head, Chosen):
        return x.index_select(1, head.index.cpu())
    if isinstance(head, Softmax):
        return x.log_softmax(1) if head.log else x.softmax(1)
    if isinstance(head, Standardised):
        mean, scale = (v.repeat_interleave(head.each) for v in standardising(head))
        x = x if head.index is None else x.index_select(1, head.index.cpu())
        return ((x.flatten(1) - mean) * scale).reshape(len(x), *head.leaving)
    assert isinstance(head, Scaled)
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * head.scale.float().reshape(shape) + head.shift.float().reshape(shape)


def standardising(head: Standardised) -> tuple[Tensor, Tensor]:
    """Return the float32 tables of a standardising block: what is subtracted, and the factor."""
    return head.mean.cpu().float(), head.std.cpu().double().reciprocal().float()


def _pooled(stage: Pool, x: Tensor, is_int8: bool) -> Tensor:
    """Pool; means of int8 values are rounded, halves away from zero."""
    window = stage.window
    if stage.how == "max":
        return F.max_pool2d(x, window.kernel, window.stride, window.padding)
    settings = window.kernel, window.stride, window.padding
    out = F.avg_pool2d(x, *settings, count_include_pad=stage.count_padding)
    return torch.trunc(out + torch.copysign(torch.tensor(0.5), out)) if is_int8 else out


def _points(x: Tensor, points: Sequence[Pointwise]) -> Tensor:
    for point in points:
        x = FUNCTIONS[point.function](x, *point.settings)
    return x


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
