"""Rank again after a removal by measuring only the units that may be among the lowest.

Removing one unit changes the scores of the others little, and most of the change is that of their
first-order estimates, which one backward pass gives for all units. A score is therefore predicted
as the last measured one plus the change of the estimate since. How far predictions were off when
units were measured tells how far the others may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from sentei.network.mask import Mask
from sentei.network.units import Branches, Group
from sentei.probe.probe import Probe
from sentei.probe.residuals import first_order
from sentei.pruning.rules.racing import may_go, places_of

_ALWAYS = 8  # units with the lowest predictions that are measured at every step, to see misses
_MISSES = 200  # differences from predictions that are kept; before there are so many, all measure
_WIDER = 2  # a prediction is taken to miss by at most so many times the largest kept difference


@dataclass(eq=False)
class LazyScores:
    """What is remembered between the steps of one run.

    Attributes:
        measured: (size,) float64 the last measured score of each unit, for each group in order.
        estimates: (size,) float64 the first-order estimates at that time.
        misses: (at most 200,) float64 differences of measured from predicted scores, latest last.
    """

    measured: list[Tensor] = field(default_factory=list)
    estimates: list[Tensor] = field(default_factory=list)
    misses: Tensor = field(default_factory=lambda: torch.zeros(0).double())
    _seen: tuple[ref[Probe], int] | None = None  # the Probe, and how often it had forgotten
    _restored: bool = False  # whether what is known holds for the weights, as long as none was seen

    def __call__(
        self,
        probe: Probe,
        scopes: Sequence[tuple[Sequence[Group], int]],
        mask: Mask,
        floors: Mapping[Group, int],
        step: int,
    ) -> dict[Group, Tensor]:
        """Score units so that the lowest of each scope are measured.

        Args:
            probe: the network and its samples.
            scopes: groups that are ranked together, and how many of their units are to be removed.
            mask: what is alive.
            floors: how many units of each group stay at least.
            step: the number of the step; at the first nothing is known.

        Returns:
            (size,) float64 for each group: measured scores of units that may be among the lowest,
            predictions for others; 0 for dead units.

        Raises:
            CriterionError: the loss has no derivative.
            GroupError, LossError, StaleError: as `Probe.rises_without`.
        """
        groups = [group for own, _ in scopes for group in own]
        now = first_order(probe, groups)
        fits = [len(known) for known in self.measured] == [group.size for group in groups]
        known = step > 1 and fits and self._holds(probe)
        if not known:
            self.measured = [torch.zeros(group.size).double() for group in groups]
            self.estimates = [torch.zeros(group.size).double() for group in groups]
            self.misses = self.misses[:0]
        self._seen = ref(probe), probe.forgotten
        found = dict(zip(groups, self.measured, strict=True))
        then = dict(zip(groups, self.estimates, strict=True))
        predicted = {group: found[group] + now[group].cpu() - then[group] for group in groups}
        scores = {group: each.clone() for group, each in predicted.items()}
        largest = _WIDER * float(self.misses.max()) if len(self.misses) == _MISSES else inf
        alive = {group: mask.alive(group).nonzero().flatten() for group in groups}
        for own, count in scopes:
            contest = _Contest(own, count, floors, alive, predicted, largest)
            while left := contest.left():
                for group, units in left.items():
                    values = probe.rises_without(group, units)
                    if known and not isinstance(group, Branches):
                        off = (values - predicted[group][units]).abs()
                        self.misses = torch.cat([self.misses, off])[-_MISSES:]
                    found[group][units], then[group][units] = values, now[group].cpu()[units]
                    scores[group][units] = values
                    contest.learn_(group, units, values)
        return {group: torch.where(mask.alive(group), scores[group], 0.0) for group in groups}

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, and whether it holds for the weights as they are now."""
        probe = None if self._seen is None else self._seen[0]()
        holds = self._restored if probe is None else self._holds(probe)
        known = {"measured": self.measured, "estimates": self.estimates, "misses": self.misses}
        return {**known, "holds": holds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, for the weights of then; {} is nothing."""
        self.measured = list(state.get("measured", []))
        self.estimates = list(state.get("estimates", []))
        self.misses = state.get("misses", torch.zeros(0).double())
        self._restored, self._seen = state.get("holds", False), None

    def _holds(self, probe: Probe) -> bool:
        """Whether weights have changed by cuts alone since the last step."""
        if self._seen is None:
            return self._restored
        seen, forgotten = self._seen
        return seen() is probe and forgotten == probe.forgotten


class _Contest:
    """The bounds of the scores of one scope: a measured score, or a prediction and its margin."""

    def __init__(
        self,
        groups: Sequence[Group],
        count: int,
        floors: Mapping[Group, int],
        alive: Mapping[Group, Tensor],
        predicted: Mapping[Group, Tensor],
        margin: float,
    ):
        self.count, self.floors, self.alive = count, floors, alive
        self.places = places_of(groups, alive)
        values = torch.cat([predicted[group][alive[group]] for group in groups])
        self.lower, self.upper = values - margin, torch.full_like(values, inf)
        self.measured = torch.zeros(len(values), dtype=torch.bool)
        self.next = torch.zeros_like(self.measured)
        if count:
            lowest = values.argsort(stable=True)[: max(_ALWAYS, count)]
            self.next = self.next.index_fill(0, lowest, value=True)
            for group in groups:
                if isinstance(group, Branches):  # they have no estimate that follows the weights
                    self.next[self.places[group]] = True

    def left(self) -> dict[Group, Tensor]:
        """Return the units to measure next, for each group that has any."""
        if not self.next.any():
            self.next = may_go(self.count, self.places, self.floors, self.lower, self.upper)
            self.next &= ~self.measured
        found = {g: self.alive[g][self.next[own]] for g, own in self.places.items()}
        self.next = torch.zeros_like(self.measured)
        return {group: units for group, units in found.items() if len(units)}

    def learn_(self, group: Group, units: Tensor, values: Tensor) -> None:
        """Take the measured scores of some units of a group."""
        at = self.places[group].start + torch.searchsorted(self.alive[group], units)
        self.lower[at] = self.upper[at] = values
        self.measured[at] = True
