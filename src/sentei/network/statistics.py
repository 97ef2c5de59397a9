"""Recognise the statistics by which norms divide: reductions of one dimension that they keep.

A norm over units, such as layer norm, divides each unit by a statistic of all of them. Where the
statistic stays as it is, the norm passes units on one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ROOT = ("input", "p", "dim", "keepdim")
_SPREAD = ("input", "dim", "unbiased", "keepdim")

# Functions that reduce dimensions, with the names of their arguments in order.
STATISTICS: dict[Any, tuple[str, ...]] = {
    torch.mean: ("input", "dim", "keepdim"),
    torch.sum: ("input", "dim", "keepdim"),
    torch.var: _SPREAD,
    torch.std: _SPREAD,
    torch.norm: _ROOT,
    torch.linalg.vector_norm: ("x", "ord", "dim", "keepdim"),
}
_METHODS: dict[Any, Any] = {
    getattr(Tensor, function.__name__): function
    for function in (torch.mean, torch.sum, torch.var, torch.std, torch.norm)
}


class Statistic:
    """A call of a function that reduces one dimension of a tensor and keeps it, with size 1.

    Attributes:
        function: the torch function, never a method.
        given: its arguments by name.
        reads: the name of the argument that it reduces.
        input: that argument.
        dim: the dimension, counted from the end.
    """

    def __init__(self, function: Callable[..., Tensor], given: dict[str, Any], dim: int):
        self.function, self.given = function, given
        self.reads = STATISTICS[function][0]
        self.input: Tensor = given[self.reads]
        self.dim = dim - self.input.ndim if dim >= 0 else dim


def statistic(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Statistic | None:
    """Return the statistic that a call computes; None if it computes none.

    Args:
        function: a torch function.
        args: its arguments by position.
        kwargs: its arguments by keyword.
    """
    function = _METHODS.get(function, function)
    if function not in STATISTICS:
        return None
    names = STATISTICS[function]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    dim = given.get("dim", given.get("axis"))
    if isinstance(dim, (tuple, list)) and len(dim) == 1:
        dim = dim[0]
    if type(dim) is not int or given.get("keepdim") is not True:
        return None
    if len(args) > len(names) or not isinstance(given.get(names[0]), Tensor):
        return None
    return Statistic(function, given, dim)


def without_marks(found: Statistic) -> Tensor:
    """Compute a statistic of the entries that are not NaN; NaN where all of them are."""
    marks = found.input.isnan()
    cleaned = found.function(**{**found.given, found.reads: found.input.masked_fill(marks, 0)})
    return cleaned.masked_fill(marks.all(found.dim, keepdim=True), torch.nan)


def plain_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `F.layer_norm` by statistics and elementwise functions."""
    dims = _last(normalized_shape)
    spread = torch.var(input, dim=dims, unbiased=False, keepdim=True)
    centred = input - torch.mean(input, dims, keepdim=True)
    return _scaled(centred * (spread + eps).rsqrt(), weight, bias)


def plain_rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Compute `F.rms_norm` by statistics and elementwise functions."""
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    square = torch.mean(input.square(), _last(normalized_shape), keepdim=True)
    return _scaled(input * (square + eps).rsqrt(), weight)


def plain_normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """Compute `F.normalize` by a statistic and elementwise functions."""
    del out
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _scaled(normed: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


PLAIN_NORMS: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: plain_layer_norm,
    F.rms_norm: plain_rms_norm,
    F.normalize: plain_normalize,
}
