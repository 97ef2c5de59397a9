"""Quantise the numbers of a C file, and compute in torch what the file computes with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sentei.formats.c.integers import Layer, Scale, last_linear, quantise, quantised, steps_out
from sentei.formats.c.torch_steps import finite, plain, points_applied, pooled, products
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.plans import Plan
from sentei.network.encoding.stages import Stage, Standardised, Weighted

TOP = 127  # largest int8 weight; the range is symmetric, -127 to 127


@dataclass(frozen=True)
class Values:
    """The stored weights, scales and biases of one block with float activations.

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
        values: of each block, where activations are floats; None for blocks without weights.
        layers: of each block, where activations are integers; None for blocks without weights.
        scales: of the network's input, then of each block's output; empty if activations are
            floats.
    """

    plan: Plan
    values: tuple[Values | None, ...]
    layers: tuple[Layer | None, ...] = ()
    scales: tuple[Scale, ...] = field(default=())

    @property
    def input_scale(self) -> Scale | None:
        """How inputs are stored; None if the file takes floats.

        A network that standardises its inputs takes floats in every format.
        """
        takes_floats = not self.scales or isinstance(self.plan.blocks[0].head, Standardised)
        return None if takes_floats else self.scales[0]

    @property
    def output_step(self) -> float:
        """Real value of one step of the last linear layer's outputs; 1.0 if they are floats."""
        return self.scales[last_linear(self.plan) + 1].step if self.scales else 1.0


def stored(plan: Plan, samples: Tensor) -> Stored:
    """Quantise weights per row and symmetrically; calibrate integer activations on samples.

    Args:
        plan: of a network with weights in memory.
        samples: (N, ...) inputs.

    Raises:
        StructureError: a weight that is not finite; the layer is named.
    """
    numbers = c_numbers(plan.format)
    if numbers.activation == 4:
        return Stored(
            plan, tuple(_values(block.head, numbers.weight == 1) for block in plan.blocks)
        )
    with torch.no_grad():
        layers, scales = quantised(plan, samples, numbers.activation)
    return Stored(plan, (), tuple(layers), tuple(scales))


@torch.no_grad()
def outputs(net: Stored, samples: Tensor) -> Tensor:
    """Compute the outputs of the C file in torch: (N, outputs) in real units."""
    if not net.scales:
        here = samples
        for index in range(len(net.plan.blocks)):
            here = _block(net, index, here)
        return here.flatten(1)
    last = last_linear(net.plan)
    steps = output_steps(net, samples)
    here = points_applied(steps.float() * net.output_step, net.plan.blocks[last].before)
    for block in net.plan.blocks[last + 1 :]:
        here = plain(block.head, here, rounding=False)
    return here.flatten(1)


def output_steps(net: Stored, samples: Tensor) -> Tensor:
    """Compute the outputs of the last linear layer in steps, exactly as the C file does.

    Args:
        net: of a format whose activations are integers.
        samples: (N, ...) inputs in real units.
    """
    scale = net.input_scale
    x = samples if scale is None else quantise(samples, scale)
    return steps_out(net.plan, net.layers, net.scales, x)


def _values(head: Stage, is_int8: bool) -> Values | None:
    """Return the stored numbers of a block, as floats or int8; None without weights."""
    if not isinstance(head, Weighted):
        return None
    weight, bias = finite(head)
    if not is_int8:
        return Values(weight, None, bias)
    scale = (weight.abs().amax(1) / TOP).clamp_min(1e-30)
    return Values((weight / scale[:, None]).round().clamp(-TOP, TOP), scale, bias)


def _block(net: Stored, index: int, x: Tensor) -> Tensor:
    """Compute the output of one block with float activations for a batch."""
    block, values = net.plan.blocks[index], net.values[index]
    if values is None or not isinstance(block.head, Weighted):
        return plain(block.head, x, rounding=False)
    total = products(block.head, values.weights, x)
    shape = (-1, *(1,) * (total.ndim - 2))
    out = total * (1 if values.scale is None else values.scale.reshape(shape))
    out = points_applied(out + values.bias.reshape(shape), block.before)
    if block.pool is not None:
        out = pooled(block.pool, out, rounding=False)
    return points_applied(out, block.after)
