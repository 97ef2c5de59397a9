"""Quantise the numbers of a C file, and compute in torch what the file computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sentei.formats.c.integers import Quantised, Scale, quantise, quantised, steps_out
from sentei.network.encoding.blocks import last_linear
from sentei.network.encoding.evaluating import (
    finite,
    plain,
    points_applied,
    pooled,
    products,
    states,
)
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.plans import Plan
from sentei.network.encoding.stages import Recurrent, Standardised, Weighted
from sentei.network.encoding.streaming import streamed

TOP = 127  # largest int8 weight; the range is symmetric, -127 to 127


@dataclass(frozen=True)
class Values:
    """The stored weights, scales and biases of one matrix, where activations are floats.

    Attributes:
        weights: (rows, columns) as stored; dead ones are zero.
        scale: (rows,) real value of one step of a stored int8 weight; None if weights are floats.
        bias: (rows,).
    """

    weights: Tensor
    scale: Tensor | None
    bias: Tensor

    @property
    def real(self) -> Tensor:
        """The weights in real units."""
        return self.weights if self.scale is None else self.weights * self.scale[:, None]


@dataclass(frozen=True)
class Stored:
    """A plan together with its stored numbers.

    Attributes:
        plan: sizes and codes.
        values: of the matrices of each block, where activations are floats.
        layers: of each block, where activations are integers; None for blocks that rescale
            nothing.
        scales: of the network's input, then of each block's output; empty if activations are
            floats.
    """

    plan: Plan
    values: tuple[tuple[Values, ...], ...]
    layers: tuple[Quantised | None, ...] = ()
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
        return self.scales[last_linear(self.plan.blocks) + 1].step if self.scales else 1.0


def streaming(net: Stored, hop: int) -> Stored:
    """Return the numbers of a network that is given `hop` new steps at each call; see `streamed`.

    Raises:
        StructureError: the network does not allow it; the layer is named.
    """
    plan, origins = streamed(net.plan, hop)
    if not net.scales:
        return Stored(plan, tuple(() if n < 0 else net.values[n] for n in origins))
    scales = [net.scales[0]]
    for origin in origins:
        scales.append(scales[-1] if origin < 0 else net.scales[origin + 1])
    layers = (None if n < 0 else net.layers[n] for n in origins)
    return Stored(plan, (), tuple(layers), tuple(scales))


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
        values = (
            tuple(_values(matrix, numbers.weight == 1) for matrix in block.head.matrices)
            for block in plan.blocks
        )
        return Stored(plan, tuple(values))
    with torch.no_grad():
        layers, scales = quantised(plan, samples, numbers.activation)
    return Stored(plan, (), tuple(layers), tuple(scales))


@torch.no_grad()
def outputs(net: Stored, samples: Tensor) -> Tensor:
    """Compute the outputs of the C file in torch: (N, outputs) in real units."""
    if not net.scales:
        found = {-1: samples}
        for index, block in enumerate(net.plan.blocks):
            found[index] = _block(net, index, [found[source] for source in block.sources])
        return found[len(found) - 2].flatten(1)
    last = last_linear(net.plan.blocks)
    steps = output_steps(net, samples)
    here = points_applied(steps.float() * net.output_step, net.plan.blocks[last].before)
    for block in net.plan.blocks[last + 1 :]:
        here = plain(block.head, [here], rounding=False)
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


def _values(matrix: Weighted, is_int8: bool) -> Values:
    """Return the stored numbers of a matrix, as floats or int8."""
    weight, bias = finite(matrix)
    if not is_int8:
        return Values(weight, None, bias)
    scale = (weight.abs().amax(1) / TOP).clamp_min(1e-30)
    return Values((weight / scale[:, None]).round().clamp(-TOP, TOP), scale, bias)


def _block(net: Stored, index: int, given: Sequence[Tensor]) -> Tensor:
    """Compute the output of one block with float activations for a batch."""
    block, values = net.plan.blocks[index], net.values[index]
    if isinstance(block.head, Recurrent):
        return states(block.head, [(each.real, each.bias) for each in values], given[0])
    if not isinstance(block.head, Weighted):
        return points_applied(plain(block.head, given, rounding=False), block.before)
    (own,) = values
    total = products(block.head, own.weights, given[0])
    shape = (-1, *(1,) * (total.ndim - 2))
    out = total * (1 if own.scale is None else own.scale.reshape(shape))
    out = points_applied(out + own.bias.reshape(shape), block.before)
    if block.pool is not None:
        out = pooled(block.pool, out, rounding=False)
    return points_applied(out, block.after)
