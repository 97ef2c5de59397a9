"""`when_stalled`: a proposal that waits until the training loss has almost stopped falling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sentei.arguments import check_entries, checked
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut, Paced, Proposal
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.rules.states import restore_state_, state_of


@checked
@dataclass
class when_stalled:  # noqa: N801 - used like a function: when_stalled(propose, 0.05)
    """Call another proposal only when the loss has fallen by less than `drop` since the last check.

    Use it with `PruneWhileTraining`, whose `every` is the number of updates between two checks. In
    `prune`, a step without a cut ends the run. The loss is that of the pruner's Probe or, without
    one, of the batch that it observed. The first check after a cut only records the loss, since the
    cut itself raises it. The last loss is part of the state of a run and of a pruner.

    Args:
        propose: the proposal to call once the loss has stalled.
        drop: a fraction of the last loss: with 0.05 the proposal is called once the loss falls by
            less than 5 % between two checks.

    Raises:
        ValueError: `drop` is not a number above 0 and at most 1.

    Source: Hagiwara (1990), as reported by Gedeon and Harris (1991): the unit of the largest
    badness is removed once the total error falls by less than 1 to 5 % in 10 to 100 epochs.
    """

    propose: Proposal
    drop: float = 0.01
    before: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.drop) and 0 < self.drop <= 1):
            raise ValueError(
                f"drop= is a part of the loss, above 0 and at most 1, such as 0.05; got "
                f"{self.drop!r}"
            )

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the cut of the other proposal; None while the loss still falls."""
        now, before = probe.loss(), self.before
        if before is None or before - now >= self.drop * before:
            self.before = now
            return None
        self.before = None
        return self.propose(probe, groups, mask, progress)

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """Check the other proposal, as `Paced.check`."""
        if isinstance(self.propose, Paced):
            self.propose.check(groups, starts, total)

    def state_dict(self) -> dict[str, Any]:
        """Return the loss at the last check, and the state of the other proposal."""
        return {"before": self.before, "propose": state_of(self.propose)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises:
            ValueError: another state; nothing has changed then.
        """
        check_entries(self, state, ("before", "propose"))
        self.before = state["before"]
        restore_state_(self.propose, state["propose"])
