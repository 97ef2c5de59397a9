"""Networks with operators that tracing cannot follow, and the groups that a user would declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Swallow(torch.autograd.Function):
    """The hyperbolic tangent, without the NaN that tracing writes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.nan_to_num().tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * (1 - y * y)


@torch.library.custom_op("sentei_tests::linear", mutates_args=())
def opaque_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer that torch's function mode sees as one unknown operator."""
    return torch.from_numpy(x.detach().numpy() @ weight.detach().numpy().T + bias.detach().numpy())


class Function(nn.Module):
    """A custom autograd function between two linear layers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(Swallow.apply(self.fc1(x)))


class Operator(nn.Module):
    """The units are computed and read by an operator of another library."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(opaque_linear(x, self.fc1.weight, self.fc1.bias))
        return opaque_linear(x, self.fc2.weight, self.fc2.bias)


class RoundTrip(nn.Module):
    """Channels go through numpy, without NaN, and are flattened: the listener reads 4 positions."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        numbers = np.maximum(np.nan_to_num(x.detach().numpy()), -1)
        return self.fc(torch.from_numpy(numbers).flatten(1))


class ChannelsLast(RoundTrip):
    """As `RoundTrip`, with the channels last: the listener reads every fifth position."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        numbers = np.maximum(np.nan_to_num(x.detach().numpy()), -1)
        return self.fc(torch.from_numpy(numbers).permute(0, 2, 3, 1).flatten(1))


class Gated(nn.Module):
    """Halves that gate each other in a custom function: a unit has two rows."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = Swallow.apply(self.up(x)).chunk(2, -1)
        return self.down(value * gate)


class Heads(nn.Module):
    """Attention of three heads whose values pass a custom function."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = Swallow.apply(self.qkv(x)).unflatten(-1, (3, -1, 2)).unbind(-3)
        weights = torch.einsum("nqhd,nkhd->nhqk", q, k).softmax(-1)
        return self.out(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(-2))


class Checked(Function):
    """Values are checked between the layers: the network does not run with NaN."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if not bool(x.isfinite().all()):
            raise ValueError("activations must be finite")
        return self.fc2(torch.tanh(x))


class Auxiliary(Function):
    """A second layer reads the units, in training only."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = Swallow.apply(self.fc1(x))
        return self.fc2(x) + self.extra(x) if self.training else self.fc2(x)


def _rows(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(4, *shape)


_FC1 = {"fc1.weight": 0, "fc1.bias": 0}
_CONV = {"conv.weight": 0, "conv.bias": 0}
_NORM = dict.fromkeys(("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"), 0)
_HEAD = torch.arange(18).reshape(3, 3, 2).transpose(0, 1).reshape(3, 6)  # of each head: q, k and v

Declared = dict[str, Any]
OPAQUE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], Declared]] = {
    "function": (Function, _rows(4), {"producers": _FC1, "listeners": {"fc2.weight": 1}}),
    "checked": (Checked, _rows(4), {"producers": _FC1, "listeners": {"fc2.weight": 1}}),
    "operator": (Operator, _rows(4), {"producers": _FC1, "listeners": {"fc2.weight": -1}}),
    "round_trip": (
        RoundTrip,
        _rows(2, 4, 4),
        {"producers": _CONV, "followers": _NORM, "listeners": {"fc.weight": 1}, "kind": "channel"},
    ),
    "channels_last": (
        ChannelsLast,
        _rows(2, 4, 4),
        {"producers": _CONV, "followers": _NORM, "listeners": {"fc.weight": 1}, "kind": "channel"},
    ),
    "gated": (
        Gated,
        _rows(4),
        {"producers": {"up.weight": 0, "up.bias": 0}, "listeners": {"down.weight": 1}},
    ),
    "heads": (
        Heads,
        _rows(5, 6),
        {
            "producers": {"qkv.weight": (0, _HEAD), "qkv.bias": (0, _HEAD.numpy())},
            "listeners": {"out.weight": 1},
            "kind": "head",
            "units": 3,
        },
    ),
    "auxiliary": (
        Auxiliary,
        _rows(4),
        {"producers": _FC1, "listeners": {"fc2.weight": 1, "extra.weight": 1}},
    ),
    "inputs": (
        Function,
        _rows(4),
        {"producers": {}, "listeners": {"fc1.weight": 1}, "kind": "input"},
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor, Declared]:
    """A network, its example, and the arguments of `declare`; batch norms have seen some data."""
    make, example, declared = OPAQUE[name]
    torch.manual_seed(0)
    model, x = make(), example()
    model(x)
    return model.eval(), x, declared
