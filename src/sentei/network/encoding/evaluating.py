"""Compute in torch what each stage of a network computes: products, pooling, functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.errors import StructureError
from sentei.nests import tensors
from sentei.network.encoding.stages import (
    Chosen,
    Joined,
    Pointwise,
    Pool,
    Recurrent,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Sum,
    Transposed,
    Weighted,
)
from sentei.network.example import undisturbed
from sentei.running import Example, ForwardCall, forward_of, own_inputs, run

_COMPARED = 4  # samples on which stages are compared with the network


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


def evaluated(stages: Sequence[Stage], x: Tensor) -> Tensor:
    """Compute what stages compute for a batch of samples, (N, ...), in float32.

    All weights count, as in the network itself: those that a mask calls dead may not be zero yet.
    """
    values = {0: x.reshape(len(x), *stages[0].entering)}
    for stage in stages:
        given = [values[number] for number in stage.reads]
        if isinstance(stage, Weighted):
            out = products(stage, stage.weight.cpu(), given[0])
            bias = stage.bias.cpu().float()
            values[stage.value] = out + bias.reshape(-1, *(1,) * (out.ndim - 2))
        elif isinstance(stage, Recurrent):
            matrices = [(each.weight.cpu(), each.bias.cpu()) for each in stage.matrices]
            values[stage.value] = states(stage, matrices, given[0])
        else:
            values[stage.value] = plain(stage, given, rounding=False)
    return values[stages[-1].value]


@torch.no_grad()
def check_stages(model: nn.Module, example: Example, stages: Sequence[Stage]) -> tuple[int, ...]:
    """Compare what stages compute with what the network itself computes on a few samples.

    Args:
        model: the network, with weights in memory.
        example: (N, ...) inputs, with the function that runs the network on them if it has one.
        stages: of the network.

    Returns:
        The shape of one output of the network.

    Raises:
        StructureError: the outputs differ in number, or by more than 1e-3 of the largest.
    """
    inputs, forward = own_inputs(example), forward_of(example)
    assert isinstance(inputs, Tensor)
    first = next(model.parameters())
    x = inputs[:_COMPARED].to(first.device, first.dtype)
    with undisturbed(model):
        wanted = tensors(run(model, x if forward is None else ForwardCall(x, forward)))
    got = evaluated(stages, x.float().cpu())
    real = wanted[0].float().cpu()
    if len(wanted) == 1 and real.numel() == got.numel():
        most = float(real.abs().max())
        off = float((got.reshape(real.shape) - real).abs().max())
        if off <= 1e-3 * max(1.0, most) or not math.isfinite(most):
            return tuple(real.shape[1:])
    raise StructureError(
        "the layers that were found do not compute what the network computes, as where its code "
        "depends on values or on the number of samples. Save it as safetensors instead; export to "
        "ONNX takes any network."
    )


def plain(head: Stage, given: Sequence[Tensor], *, rounding: bool) -> Tensor:  # noqa: PLR0911
    """Compute a stage without weights from the values that it reads.

    With `rounding`, means of integers are integers.
    """
    if isinstance(head, Joined):
        parts = zip(given, head.parts, strict=True)
        return torch.cat([x.reshape(len(x), *shape) for x, shape in parts], 1)
    if isinstance(head, Sum):
        return torch.stack([x.reshape(len(x), *head.entering) for x in given]).sum(0)
    x = given[0].reshape(len(given[0]), *head.entering)
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
    if isinstance(head, Transposed):
        return x.transpose(1, 3)
    if isinstance(head, Scaled):
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * head.scale.float().reshape(shape) + head.shift.float().reshape(shape)
    return x.reshape(len(x), *head.leaving)


def states(head: Recurrent, matrices: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Compute a recurrent layer: its states after all steps, or after the last one.

    Args:
        head: the layer.
        matrices: weights and bias of what reads the inputs, and of what reads the state.
        x: (N, steps, 1, numbers).
    """
    (weight, bias), (hidden, hidden_bias) = matrices
    x = x.reshape(len(x), *head.entering)
    h = x.new_zeros(len(x), head.units)
    c, found = h, []
    for step in x.unbind(1):
        from_input = F.linear(step.flatten(1), weight, bias)
        from_state = F.linear(h, hidden, hidden_bias)
        h, c = _next_state(head.kind, from_input, from_state, h, c)
        found.append(h)
    kept = found if head.leaving[0] == len(found) else found[-1:]
    return torch.stack(kept, 1)[:, :, None]


def _next_state(
    kind: str, from_input: Tensor, from_state: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the state after a step, and the cell of an LSTM."""
    if kind == "gru":
        (reset, update, new), (reset_h, update_h, new_h) = (
            products.chunk(3, 1) for products in (from_input, from_state)
        )
        candidate = (new + (reset + reset_h).sigmoid() * new_h).tanh()
        return candidate + (update + update_h).sigmoid() * (h - candidate), c
    gates = from_input + from_state
    if kind == "lstm":
        enter, forget, cell, out = gates.chunk(4, 1)
        c = forget.sigmoid() * c + enter.sigmoid() * cell.tanh()
        return out.sigmoid() * c.tanh(), c
    return (gates.tanh() if kind == "rnn_tanh" else gates.relu()), c


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
