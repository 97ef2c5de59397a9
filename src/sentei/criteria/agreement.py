"""How far two criteria agree: the correlation of the ranks they give."""

from __future__ import annotations

from torch import Tensor


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation from -1 to 1; equal scores share their mean rank. NaN if all are equal."""
    a, b = (_ranks(values) for values in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def _ranks(values: Tensor) -> Tensor:
    _, group, count = values.double().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[group]
