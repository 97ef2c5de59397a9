"""Compare methods by their ranks over several networks: average ranks and critical differences.

Source: Demsar (2006), Statistical comparisons of classifiers over multiple data sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def average_ranks(qualities: Tensor) -> Tensor:
    """Return each method's rank, averaged over networks; 1 is the best.

    Args:
        qualities: (networks, methods), more is better; equal ones share their mean rank.
    """
    below = (qualities[:, :, None] < qualities[:, None, :]).double().sum(2)
    equal = (qualities[:, :, None] == qualities[:, None, :]).double().sum(2)
    return (1 + below + (equal - 1) / 2).mean(0)


def friedman(ranks: Tensor, networks: int) -> float:
    """Return the p-value of Friedman's test: that all methods are alike.

    Args:
        ranks: (methods,) average ranks.
        networks: number of networks that they are averaged over.
    """
    methods = len(ranks)
    squares = float((ranks - (methods + 1) / 2).square().sum())
    statistic = 12 * networks / (methods * (methods + 1)) * squares
    half = torch.tensor([(methods - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def critical_difference(methods: int, networks: int, level: float = 0.05) -> float:
    """Return by how much average ranks must differ to be told apart: Nemenyi's test.

    Args:
        methods: number of methods that are compared.
        networks: number of networks that the ranks are averaged over.
        level: probability of an error in any of the comparisons if all methods are alike.
    """
    return _studentized_range(methods, level) * math.sqrt(methods * (methods + 1) / 12 / networks)


@cache
def _studentized_range(count: int, level: float) -> float:
    """Return the upper point of the range of `count` standard normal numbers, by bisection."""
    grid = torch.linspace(-8, 8, 4_001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi)

    def above(width: float) -> float:
        between = torch.special.ndtr(grid) - torch.special.ndtr(grid - width)
        return 1 - float(count * torch.trapezoid(density * between ** (count - 1), grid))

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > level else (low, middle)
    return high


def alike(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return the longest runs of methods that are not told apart, as first and last position.

    Args:
        ranks: average ranks, in rising order.
        difference: the critical difference.
    """
    runs: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < difference)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
