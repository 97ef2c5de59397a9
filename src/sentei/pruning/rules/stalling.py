"""A proposal that waits until training hardly gets on any more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut, Proposal
from sentei.pruning.rules.schedules import Progress


@dataclass
class when_stalled:  # noqa: N801 - used like a function: when_stalled(propose, 0.05)
    """Another proposal, asked only once the loss has fallen by less than a part since last time.

    For `PruneWhileTraining`, whose `every` is the time between two looks at the loss; in `prune`, a
    step without a cut ends the run. The loss is that of the pruner's Probe or, without one, of the
    batch it observed. After a cut the first look only takes note, since the cut itself raised the
    loss. The last loss is not part of a pruner's state: one that is resumed looks once more.

    Args:
        propose: what is asked then.
        drop: relative: 0.05 asks once the loss fell by less than 5 %.

    Raises:
        ValueError: `drop` is no number above 0 and at most 1.

    Source: Hagiwara (1990), as told by Gedeon and Harris (1991): the unit of the largest badness
    goes once the total error falls by less than 1 to 5 % in 10 to 100 epochs.
    """

    propose: Proposal
    drop: float = 0.01
    before: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.drop) and 0 < self.drop <= 1):
            raise ValueError(
                f"drop= is a part of the loss, above 0 and at most 1, such as 0.05; got "
                f"{self.drop!r}"
            )

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The other proposal's cut; None while the loss still falls."""
        now, before = probe.loss(), self.before
        if before is None or before - now >= self.drop * before:
            self.before = now
            return None
        self.before = None
        return self.propose(probe, groups, mask, progress)
