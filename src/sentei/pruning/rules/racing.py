"""Find the units with the lowest ablation scores without measuring every unit on all samples.

A race measures all units on a few samples, drops those that are clearly not among the lowest, and
goes on with the others on more samples, up to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf

import torch
from torch import Tensor

from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.probe.probe import Probe
from sentei.probe.residuals import MOMENTS, first_order, in_memory, residual_sums, rise_sums

# Residuals have heavy tails: fewer samples, or fewer residuals that are not zero, do not show how
# far they spread.
FIRST_STAGE = 250
_LEAST_SEEN = 30
_GROWTH = 2
_ERRORS = 4.0  # standard errors from an estimate to its bounds


@dataclass(frozen=True, eq=False)
class Raced:
    """What a race found.

    Attributes:
        scores: (size,) float64 for each group: exact, the mean rise over all samples, for units
            that may be among the lowest; estimates for others; 0 for dead units.
        evaluations: how often one unit was measured on one sample.
    """

    scores: dict[Group, Tensor]
    evaluations: int


@dataclass(eq=False)
class Entrants:
    """The alive units of groups that are ranked together, and the bounds of their scores so far.

    Attributes:
        count: how many of them go.
        places: the places of each group's units, one group after the other.
        floors: how many units of each group stay at least.
        scores: (units,) float64 estimates of the scores, at first of first order; exact at the end.
        left: (units,) bool, which of them may be among the lowest.
    """

    count: int
    places: dict[Group, slice]
    floors: Mapping[Group, int]
    scores: Tensor
    _first: Tensor = field(init=False)
    _sums: Tensor = field(init=False)
    _lower: Tensor = field(init=False)
    _upper: Tensor = field(init=False)
    left: Tensor = field(init=False)

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        count: int,
        floors: Mapping[Group, int],
        first: Mapping[Group, Tensor],
    ) -> Entrants:
        """Return the units of groups, with first-order estimates of the alive ones."""
        estimates = torch.cat([first[group] for group in groups])
        return cls(count, places_of(groups, first), floors, estimates)

    def __post_init__(self) -> None:
        self._first = self.scores.clone()
        self._sums = self.scores.new_zeros(len(self.scores), MOMENTS)
        self._upper = torch.full_like(self.scores, inf)
        self._lower = -self._upper
        self.left = self._may_go()

    def joined(self, parts: Mapping[Group, Tensor]) -> Tensor:
        """Return what was measured of the units that are left, one group after the other."""
        return torch.cat([parts[group] for group in self.places if group in parts])

    def learn_(self, sums: Tensor, known: int, total: int) -> None:
        """Take the sums of a stage over the units that are left; `known` samples of all so far."""
        left = self.left
        self._sums[left] += sums
        _, mean, square, seen = (self._sums[left] / known).unbind(1)
        variance = (square - mean.square()).clamp(min=0) * known / (known - 1)
        apart = _ERRORS * (variance / known * (1 - known / total)).sqrt()
        scores = self._first[left] + mean
        unknown = (seen * known < _LEAST_SEEN) | ~scores.isfinite()
        self.scores[left] = scores
        self._lower[left] = torch.where(unknown, -inf, scores - apart)
        self._upper[left] = torch.where(unknown, inf, scores + apart)
        self.left = self._may_go()

    def finish_(self, rises: Tensor, total: int) -> None:
        """Take the rises of the units that are left, summed over the samples that were missing."""
        self.scores[self.left] = (self._sums[self.left, 0] + rises) / total

    def _may_go(self) -> Tensor:
        return may_go(self.count, self.places, self.floors, self._lower, self._upper)


def may_go(
    count: int,
    places: Mapping[Group, slice],
    floors: Mapping[Group, int],
    lower: Tensor,
    upper: Tensor,
) -> Tensor:
    """Return which units may be among the `count` lowest of those that need not stay, (units,).

    Args:
        count: how many units go.
        places: the places of each group's units.
        floors: how many units of each group stay at least.
        lower: (units,) bounds of their scores.
        upper: (units,) bounds of their scores.
    """
    free = torch.zeros(len(lower), dtype=torch.bool)
    stays = free.clone()
    for group, own in places.items():
        above = lower[own].sort().values
        higher = len(above) - torch.searchsorted(above, upper[own], right=True)
        below = torch.searchsorted(upper[own].sort().values, lower[own])
        free[own] = higher >= floors[group]  # so many of its group have higher scores
        stays[own] = below >= len(above) - floors[group]
    if not count:
        return torch.zeros_like(free)
    bounds = upper[free].sort().values
    # So many units that are free to go have scores up to the last of these bounds.
    last = bounds[count - 1] if len(bounds) >= count else inf
    return (lower <= last) & ~stays


def places_of(groups: Sequence[Group], units: Mapping[Group, Tensor]) -> dict[Group, slice]:
    """Return the places of groups' units, one group after the other."""
    ends = [*accumulate(len(units[group]) for group in groups)]
    return dict(zip(groups, map(slice, [0, *ends], ends), strict=False))


def race(
    probe: Probe,
    scopes: Sequence[tuple[Sequence[Group], int]],
    mask: Mask,
    floors: Mapping[Group, int],
    seed: int,
) -> Raced:
    """Score units so that the lowest of each scope are the lowest by exact ablation.

    Args:
        probe: the network, with samples in memory.
        scopes: groups that are ranked together, and how many of their units are to be removed.
        mask: what is alive.
        floors: how many units of each group stay at least.
        seed: of the order in which samples are drawn.

    Raises:
        CriterionError: the loss has no derivative.
        DataError: the samples are not in memory.
        GroupError, LossError, StaleError: as `Probe.rises_without`.
    """
    total = len(in_memory(probe))
    units = {g: mask.alive(g).nonzero().flatten() for groups, _ in scopes for g in groups}
    estimates = {g: each.cpu()[units[g]] for g, each in first_order(probe, [*units]).items()}
    fields = [Entrants.of(groups, n, floors, estimates) for groups, n in scopes]
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    known, size, cost = 0, FIRST_STAGE, 0
    while (left := _left(fields, units)) and size < total:
        sums = residual_sums(probe, left, order[known:size])
        cost += (size - known) * sum(map(len, left.values()))
        known, size = size, size * _GROWTH
        for each in fields:
            if each.left.any():
                each.learn_(each.joined(sums), known, total)
    rises = rise_sums(probe, left, order[known:])
    cost += (total - known) * sum(map(len, left.values()))
    for each in fields:
        if each.left.any():
            each.finish_(each.joined(rises), total)
    found = {group: torch.zeros(group.size, dtype=torch.float64) for group in units}
    for each in fields:
        for group, own in each.places.items():
            found[group][units[group]] = each.scores[own]
            if group in left and not found[group][left[group]].isfinite().all():
                probe.rises_without(group, left[group])  # raises the error that names the samples
    return Raced(found, cost)


def _left(fields: Sequence[Entrants], units: Mapping[Group, Tensor]) -> dict[Group, Tensor]:
    """Return the positions of the units that are left, for each group that has any."""
    left = {g: units[g][each.left[own]] for each in fields for g, own in each.places.items()}
    return {group: own for group, own in left.items() if len(own)}
