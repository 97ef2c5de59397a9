"""`regrowing`: a proposal that removes weak synapses and revives dead ones of large gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria import Criterion, Probe, criterion, scores
from sentei.errors import GroupError, ScheduleError
from sentei.network.mask import Mask
from sentei.network.units import Group, Synapses
from sentei.pruning.rules.proposals import Cut, lowest
from sentei.pruning.rules.schedules import Progress, Schedule


@checked
@dataclass(frozen=True)
class regrowing:  # noqa: N801 - used like a function: regrowing("magnitude", one_shot(1259), 100)
    """Remove the weakest synapses and regrow dead ones at each step; a schedule lowers the count.

    At step t of T the schedule keeps n synapses. Of these, `share * (1 + cos(pi t / T)) / 2 * n`
    are exchanged: so many more of the weakest are removed, and as many dead synapses with the
    highest `growth` scores are regrown. The exchange is large at first and falls to none at the
    end. A regrown synapse starts at zero. A synapse that is removed in a step is not regrown in
    that step.

    Args:
        criterion: scores alive synapses; the lowest are removed. A name or a function.
        schedule: how many synapses to keep at each step, over all groups.
        steps: T, the number of steps; nothing is proposed after them.
        share: the part of the kept synapses that is exchanged at first, from 0 to 1.
        growth: scores dead synapses; the highest are regrown. A name or a function.

    Source: Evci, Gale, Menick, Castro and Elsen (2020), Rigging the Lottery, section 3. Their rule
    works layer by layer at a constant count. Ours ranks the synapses of all layers together, so
    that synapses move between layers, and lets the count fall.

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
        """Return the exchange for this step; None after the last step.

        Raises:
            GroupError: a group of units, which cannot be regrown.
            ScheduleError: the schedule would keep none, or more than there were.
        """
        synapses = [group for group in groups if isinstance(group, Synapses)]
        if len(synapses) < len(groups):
            raise GroupError(
                "regrowing exchanges synapses; units cannot be regrown. Pass the groups of "
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
        removed = alive - kept + exchanged
        doomed = lowest(judged, mask, synapses, removed) if removed else {}
        if not exchanged:
            return Cut(doomed, scores=judged)
        negated: dict[Group, Tensor] = {g: -scores(self.growth, probe, g) for g in synapses}
        regrown = _regrown(negated, mask, synapses, exchanged)
        missing = exchanged - sum(map(len, regrown.values()))
        if missing:  # there are too few dead synapses to regrow: remove fewer, to keep the count
            doomed = lowest(judged, mask, synapses, removed - missing) if removed > missing else {}
        return Cut(doomed, regrown=regrown, scores=judged)

    def _part(self, progress: Progress) -> float:
        return self.share * (1 + math.cos(math.pi * progress.step / self.steps)) / 2


def _regrown(
    negated: Mapping[Group, Tensor], mask: Mask, groups: Sequence[Synapses], count: int
) -> dict[Synapses, Tensor]:
    """Return the `count` dead synapses between alive units with the lowest negated growth score."""
    ends = {group: mask.ends_alive(group) for group in groups}
    # `lowest` chooses among the alive members of a mask. In this mask those are the candidates:
    # dead synapses between alive units.
    candidates = Mask.full(groups).without(
        {group: (mask.alive(group) | ~ends[group]).nonzero().flatten() for group in groups}
    )
    values = {group: s.nan_to_num(torch.inf) for group, s in negated.items()}
    found = lowest(values, candidates, groups, count)
    return {group: positions for group, positions in found.items() if isinstance(group, Synapses)}
