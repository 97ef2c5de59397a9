"""`below`: a proposal that removes what scores below a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor

from sentei.arguments import checked
from sentei.criteria import Criterion, criterion, scores
from sentei.criteria.repairs.table import Repair, repair
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut, lowest, repaired
from sentei.pruning.rules.schedules import Progress


@checked
@dataclass(frozen=True)
class below:  # noqa: N801 - used like a function: below("weight_change", 0.001)
    """Remove units or synapses whose score is below a threshold, the lowest scores first.

    Nothing is proposed while no score is below the threshold. A group is never emptied.

    Args:
        criterion: a name or a function (probe, group) -> scores.
        threshold: members with a lower score are removed. If `relative`, it is a multiple of the
            group's median score.
        cap: the largest part of a group that one step removes, as a fraction of its size at the
            start; one member may always be removed.
        relative: whether to multiply the threshold by the median score of the group's alive
            members.
        repair: as for `ranked`.

    Raises:
        ValueError: an unknown criterion or repair, a threshold that is not finite, or a cap that is
            not above 0 and at most 1.
    """

    criterion: str | Criterion
    threshold: float
    cap: float = 0.1
    relative: bool = False
    repair: str | Repair | None = None

    def __post_init__(self) -> None:
        criterion(self.criterion)
        if self.repair is not None:
            repair(self.repair)
        if not isfinite(self.threshold) or not 0 < self.cap <= 1:
            raise ValueError(
                f"below needs a finite threshold and a cap above 0, at most 1; got "
                f"threshold={self.threshold}, cap={self.cap}"
            )

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the cut for this step; None if every score is at the threshold or above."""
        judged = {group: scores(self.criterion, probe, group) for group in groups}
        doomed: dict[Group, Tensor] = {}
        for group in groups:
            alive = judged[group][mask.alive(group)]
            if alive.numel() < 2:
                continue
            under = alive < self.threshold * (float(alive.median()) if self.relative else 1.0)
            most = max(int(self.cap * progress.starts.get(group, group.size)), 1)
            count = min(int(under.sum()), most, alive.numel() - 1)
            doomed.update(lowest(judged, mask, [group], count) if count else {})
        if not doomed:
            return None
        return repaired(Cut(doomed, scores=judged), self.repair, self.criterion, probe, mask)
