"""Compute recurrent layers from their definition, as rows of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 16  # of a sequence that are computed; every unit has read every other after two of them

State = tuple[Tensor, ...]  # h, and c of an LSTM


class Weights(NamedTuple):
    """The weights of one layer in one direction, named as in torch."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None


Cell = Callable[[Tensor, State, Weights], State]

GATES: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.LSTM, nn.LSTMCell), 4),
    **dict.fromkeys((nn.GRU, nn.GRUCell), 3),
    **dict.fromkeys((nn.RNN, nn.RNNCell), 1),
}


def _lstm(x: Tensor, state: State, weights: Weights) -> State:
    h, c = state
    i, f, g, o = _summed(x, h, weights).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if weights.hr is None else F.linear(h, weights.hr)), c


def _gru(x: Tensor, state: State, weights: Weights) -> State:
    (h,) = state
    r_x, z_x, n_x = F.linear(x, weights.ih, weights.bias_ih).chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, weights.hh, weights.bias_hh).chunk(3, -1)
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return (n + (z_x + z_h).sigmoid() * (h - n),)


def _simple(activation: Callable[[Tensor], Tensor]) -> Cell:
    return lambda x, state, weights: (activation(_summed(x, state[0], weights)),)


def _summed(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    return F.linear(x, weights.ih, weights.bias_ih) + F.linear(h, weights.hh, weights.bias_hh)


_KINDS: dict[str, Cell] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _simple(torch.tanh),
    "rnn_relu": _simple(torch.relu),
}
_LAYERS = {getattr(torch._VF, name): cell for name, cell in _KINDS.items()}
_CELLS = {getattr(torch._VF, f"{name}_cell"): cell for name, cell in _KINDS.items()}


def plain_recurrence(function: Any) -> Callable[..., Any] | None:
    """Return the plain form of a recurrent layer or cell; None for other functions.

    Of a long sequence only the first steps are computed, and their last state stands for the rest:
    the form shows which units read which, and computes no results.
    """
    if function in _CELLS:
        return _plain_cell(_CELLS[function])
    return _plain_layers(_LAYERS[function]) if function in _LAYERS else None


def _plain_cell(cell: Cell) -> Callable[..., Any]:
    def plain(x: Tensor, state: Any, *weights: Any) -> Any:
        several = isinstance(state, (tuple, list))
        found = cell(x, tuple(state) if several else (state,), Weights(*weights))
        return found if several else found[0]

    return plain


def _plain_layers(cell: Cell) -> Callable[..., Any]:
    def plain(x: Tensor, *given: Any) -> tuple[Tensor, ...]:
        packed = not isinstance(given[1], list)  # then the sizes of the steps come before the state
        sizes, (state, weights, bias, layers, _, _, both, *rest) = (
            (given[0].tolist(), given[1:]) if packed else (None, given)
        )
        first = bool(rest and rest[0])  # the dimension of the batch is the first
        x = x.transpose(0, 1) if first else x
        steps = list(x.unbind(0)) if sizes is None else list(x.split(sizes))
        states = state if isinstance(state, (tuple, list)) else (state,)
        parts = _parts(weights, bias=bias, projected=len(states) == 2)
        last = []
        for layer in range(layers):
            ways = []
            for way in range(2 if both else 1):
                at = layer * (2 if both else 1) + way
                begin = tuple(each[at] for each in states)
                found, end = _run(cell, steps[:: -1 if way else 1], begin, parts[at])
                ways.append(found[:: -1 if way else 1])
                last.append(end)
            steps = [torch.cat(each, -1) for each in zip(*ways, strict=True)]
        out = torch.stack(steps) if sizes is None else torch.cat(steps)
        ends = (torch.stack(each) for each in zip(*last, strict=True))
        return (out.transpose(0, 1) if first else out, *ends)

    return plain


def _parts(weights: Sequence[Tensor], *, bias: bool, projected: bool) -> list[Weights]:
    """Return the weights of each layer and direction.

    A projection is told by its size: w_hh reads what it returns, and is not square for the gates.
    """
    count = 4 if bias else 2
    has_projection = projected and weights[0].shape[0] // GATES[nn.LSTM] != weights[1].shape[1]
    found = []
    for start in range(0, len(weights), count + has_projection):
        own = Weights(*weights[start : start + count])
        found.append(own._replace(hr=weights[start + count]) if has_projection else own)
    return found


def _run(
    cell: Cell, steps: Sequence[Tensor], state: State, weights: Weights
) -> tuple[list[Tensor], State]:
    """Return what a layer outputs at each step, and its last state."""
    found = []
    for number, x in enumerate(steps):
        size = len(x)
        if number < STEPS:
            new = cell(x, tuple(each[:size] for each in state), weights)
            state = tuple(
                torch.cat([own, each[size:]]) for own, each in zip(new, state, strict=True)
            )
        found.append(state[0][:size])
    return found, state
