"""Regrowth: dead synapses come back where the loss would fall fastest, in exchange for the weak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sentei.criteria import Criterion, Probe, criterion, scores
from sentei.errors import GroupError, ScheduleError
from sentei.network.mask import Mask
from sentei.network.units import Group, Synapses
from sentei.pruning.rules.proposals import Cut, lowest
from sentei.pruning.rules.schedules import Progress, Schedule


@dataclass(frozen=True)
class regrowing:  # noqa: N801 - used like a function: regrowing("magnitude", one_shot(1259), 100)
    """The weakest synapses go, and as many of the dead come back where they are missed most.

    At step t of T the schedule's count n is kept after `share * (1 + cos(pi t / T)) / 2 * n` of the
    weakest were exchanged for those of the dead with the highest `growth` score, so that the
    network searches at first and settles at the end. A synapse that comes back starts at zero; one
    that went in this step does not come back in it.

    Args:
        criterion: what is weak: a name or a function.
        schedule: how many synapses to keep at each step, over all groups.
        steps: T, how many steps there are; nothing is proposed after them.
        share: part of those kept that is exchanged at first, from 0 to 1.
        growth: where dead synapses are missed: a name or a function; higher comes back first.

    Source: Evci, Gale, Menick, Castro and Elsen (2020), Rigging the Lottery, section 3, whose rule
    works layer by layer at a constant count; ours pools the layers, so that synapses move between
    them, and lets the schedule fall.

    Raises:
        ScheduleError: a share outside 0 to 1, or fewer than one step.
        ValueError: an unknown criterion, with the nearest known one.
    """

    criterion: str | Criterion
    schedule: Schedule
    steps: int
    share: float = 0.2
    growth: str | Criterion = "gradient"

    def __post_init__(self) -> None:
        criterion(self.criterion)
        criterion(self.growth)
        if not 0 <= self.share <= 1:
            raise ScheduleError(f"share= is a part from 0 to 1; got {self.share}")
        if self.steps < 1:
            raise ScheduleError(f"regrowing takes at least one step; got steps={self.steps}")

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The exchange for this step; None after the last.

        Raises:
            GroupError: a group of units, which cannot come back.
            ScheduleError: the schedule would keep none, or more than there were.
        """
        synapses = [group for group in groups if isinstance(group, Synapses)]
        if len(synapses) < len(groups):
            raise GroupError(
                "regrowing exchanges synapses; units cannot come back. Pass the groups of "
                "find_synapses alone."
            )
        if progress.step > self.steps:
            return None
        alive = sum(mask.count(group) for group in synapses)
        start = sum(progress.starts.get(group, group.size) for group in synapses)
        progress = replace(progress, start=start, remaining=alive)
        kept = min(self.schedule(progress), alive)
        if kept < 1:
            raise ScheduleError(
                f"regrowing keeps at least one synapse; {self.schedule!r} asks for {kept} at step "
                f"{progress.step}. Keep at least one, or remove all with ranked()."
            )
        exchanged = min(round(self._part(progress) * kept), kept)
        judged: dict[Group, Tensor] = {g: scores(self.criterion, probe, g) for g in synapses}
        going = alive - kept + exchanged
        doomed = lowest(judged, mask, synapses, going) if going else {}
        if not exchanged:
            return Cut(doomed, scores=judged)
        missed: dict[Group, Tensor] = {g: -scores(self.growth, probe, g) for g in synapses}
        regrown = _back(missed, mask, synapses, exchanged)
        short = exchanged - sum(map(len, regrown.values()))
        if short:  # fewer are dead than could come back: as many more may stay
            doomed = lowest(judged, mask, synapses, going - short) if going > short else {}
        return Cut(doomed, regrown=regrown, scores=judged)

    def _part(self, progress: Progress) -> float:
        return self.share * (1 + math.cos(math.pi * progress.step / self.steps)) / 2


def _back(
    missed: Mapping[Group, Tensor], mask: Mask, groups: Sequence[Synapses], count: int
) -> dict[Synapses, Tensor]:
    """The `count` dead synapses between alive units with the lowest scores."""
    ends = {group: mask.ends_alive(group) for group in groups}
    # "Alive" to `lowest` are those that may be taken: here the dead whose both ends live.
    may = Mask.full(groups).without(
        {group: (mask.alive(group) | ~ends[group]).nonzero().flatten() for group in groups}
    )
    found = lowest({g: s.nan_to_num(torch.inf) for g, s in missed.items()}, may, groups, count)
    return {group: positions for group, positions in found.items() if isinstance(group, Synapses)}
