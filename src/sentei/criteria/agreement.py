"""Measure how far two criteria agree, by the rank correlation of their scores."""

from __future__ import annotations

from torch import Tensor


def spearman(one: Tensor, other: Tensor) -> float:
    """Compute Spearman's rank correlation of two score vectors, from -1 to 1.

    Equal scores share their mean rank. NaN if all scores of either vector are equal.
    """
    a, b = (_ranks(values) for values in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1; equal values share their mean rank."""
    _, group, count = values.double().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[group]
