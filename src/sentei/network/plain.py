"""Compute functions that hide what they mix from their definition, in terms of linear layers.

Fused attention, recurrent layers, `einsum`, batched products and `bilinear` contain layers that
tracing cannot see. Here each is a row of calls of `F.linear` and elementwise functions, in which
every unit has a place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.network.attention import plain_attention
from sentei.network.counted_norm import counted_layer_norm, plain_counted_norm
from sentei.network.recurrent import plain_recurrence
from sentei.network.statistics import PLAIN_NORMS

MOST = 64  # matrices in a batched product that are multiplied one by one

IsWeight = Callable[[Any], bool]


def plain_form(
    function: Any, args: Sequence[Any], is_weight: IsWeight | None = None
) -> Callable[..., Any] | None:
    """Return a function with the same arguments and results in plain operations.

    None if the function is plain already, or no plain form is known.

    Args:
        function: a torch function.
        args: its arguments by position.
        is_weight: whether a value is a weight of the network, or computed from weights; functions
            whose plain form depends on this have none if it is None.
    """
    if function is F.scaled_dot_product_attention:
        return plain_attention
    if is_weight is None or function in NORMS:
        return None if is_weight is None else NORMS[function]
    if function in _PRODUCTS and len(args) == 2:
        return _plain_product(args[0], args[1], is_weight)
    if function is torch.einsum:
        return _plain_einsum(args, is_weight)
    if function in _GROUPED and len(args) == 2 and not _is_grouped(*args):
        return None
    return _row_by_row if function in _GROUPED and len(args) == 2 else plain_recurrence(function)


def _is_grouped(x: Tensor, weight: Tensor) -> bool:
    return weight.ndim == 3 and x.ndim == 2 and _few(weight)


NORMS = {**PLAIN_NORMS, counted_layer_norm: plain_counted_norm}
_PRODUCTS = (torch.matmul, torch.bmm, torch.mm, torch.mv)
# In newer releases of torch only.
_GROUPED = {getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)} - {None}


def _plain_product(one: Any, other: Any, is_weight: IsWeight) -> Callable[..., Tensor] | None:
    """Return the plain form of a product of which one factor is a weight of another form."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return None
    if is_weight(one) and not is_weight(other):
        return _weight_first if one.ndim <= 2 or _few(one) else None
    if not is_weight(other) or is_weight(one):
        return None
    if other.ndim == 1:
        return lambda x, w: F.linear(x, w[None]).squeeze(-1)
    if other.ndim > 2 and _few(other) and one.ndim > 1:
        return _one_by_one
    return None


def _few(weight: Tensor) -> bool:
    return prod(weight.shape[:-2]) <= MOST


def _weight_first(weight: Tensor, x: Tensor) -> Tensor:
    """Compute `weight @ x` with the weight second."""
    if weight.ndim == 1:
        return F.linear(x.transpose(-1, -2), weight[None]).squeeze(-1)
    if x.ndim == 1:
        return (
            F.linear(x, weight) if weight.ndim == 2 else _one_by_one(x[None], weight.mT)[..., 0, :]
        )
    if weight.ndim == 2:
        return F.linear(x.transpose(-1, -2), weight).transpose(-1, -2)
    return _one_by_one(x.transpose(-1, -2), weight.transpose(-1, -2)).transpose(-1, -2)


def _one_by_one(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `x @ weight` for a weight of several matrices, (..., columns, rows), one by one."""
    if weight.ndim == 2:
        return F.linear(x, weight.t())
    at = -weight.ndim  # the dimension of x that pairs with the weight's first, if x has it
    if weight.shape[0] == 1:
        found = _one_by_one(x, weight[0])
        return found if x.ndim >= weight.ndim else found.unsqueeze(at)
    parts = []
    for number in range(weight.shape[0]):
        own = x
        if x.ndim >= weight.ndim:
            own = x.select(at, number if x.shape[at] > 1 else 0)
        parts.append(_one_by_one(own, weight.select(0, number)))
    rank = max(part.ndim for part in parts) + 1
    return torch.stack(parts, rank + at)


def _row_by_row(
    x: Tensor, weight: Tensor, *, offs: Tensor, bias: Tensor | None = None, **_: Any
) -> Tensor:
    """Compute the product of each run of rows with a matrix of its own; runs end before `offs`.

    All rows are multiplied by every matrix, and by 0 where it is not theirs, so that neither shapes
    nor what reads which units depend on where runs end.
    """
    of_row = torch.bucketize(torch.arange(len(x), device=x.device), offs, right=True)
    found = x.new_zeros(len(x), weight.shape[-1])
    for number in range(len(weight)):
        product = F.linear(x, weight.select(0, number).t())
        found = found + product * (of_row == number)[:, None]
    return found if bias is None else found + bias


def _plain_einsum(args: Sequence[Any], is_weight: IsWeight) -> Callable[..., Tensor] | None:
    """Return the plain form of an einsum of an activation and one weight."""
    if len(args) == 2 and isinstance(args[1], (list, tuple)):
        args = (args[0], *args[1])
    if len(args) != 3 or not isinstance(args[0], str) or "." in args[0]:
        return None
    inputs, arrow, out = args[0].replace(" ", "").partition("->")
    one, _, other = inputs.partition(",")
    if not arrow or len({*one}) < len(one) or len({*other}) < len(other):
        return None
    weights = [is_weight(operand) for operand in args[1:]]
    if weights[0] == weights[1]:
        return None
    x, w = (other, one) if weights[0] else (one, other)
    letters = {*x} & {*w}
    if not letters - {*out} or ({*x} | {*w}) - {*out} - letters:
        return None  # elementwise, or something is added up before
    shape = dict(zip(w, args[1 if weights[0] else 2].shape, strict=True))
    if prod(shape[letter] for letter in letters & {*out}) > MOST:
        return None

    def plain(equation: str, *operands: Any) -> Tensor:  # noqa: ARG001
        pair = operands[0] if len(operands) == 1 else operands
        first, second = reversed(pair) if weights[0] else pair
        return _contracted(first, second, x, w, out)

    return plain


def _contracted(x: Tensor, weight: Tensor, of_x: str, of_weight: str, out: str) -> Tensor:
    """Compute an einsum of an activation and a weight with one linear layer for each matrix."""
    batch = next((letter for letter in of_weight if letter in of_x and letter in out), None)
    if batch is not None:
        at, to = of_x.index(batch), of_weight.index(batch)
        rest = [letters.replace(batch, "") for letters in (of_x, of_weight, out)]
        parts = [
            _contracted(x.select(at, i), weight.select(to, i), *rest)
            for i in range(weight.shape[to])
        ]
        return torch.stack(parts, out.index(batch))
    columns = [letter for letter in of_weight if letter in of_x]
    rows = [letter for letter in of_weight if letter not in of_x]
    rest_of_x = [letter for letter in of_x if letter not in columns]
    sizes = {
        **dict(zip(of_x, x.shape, strict=True)),
        **dict(zip(of_weight, weight.shape, strict=True)),
    }
    matrix = weight.permute(*map(of_weight.index, (*rows, *columns)))
    matrix = matrix.reshape(prod(sizes[r] for r in rows), prod(sizes[c] for c in columns))
    flat = x.permute(*map(of_x.index, (*rest_of_x, *columns)))
    flat = flat.reshape(*(sizes[letter] for letter in rest_of_x), matrix.shape[1])
    found = F.linear(flat, matrix)
    order = [*rest_of_x, *rows]
    return found.reshape([sizes[letter] for letter in order]).permute(*map(order.index, out))
