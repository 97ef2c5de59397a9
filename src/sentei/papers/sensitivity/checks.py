"""Proposals of the sensitivity experiments: the paper's rule, controls, and rules for late checks.

A check is a moment during training at which units are removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from sentei.criteria import scores
from sentei.criteria.change import WeightChange
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut, Proposal, lowest, mixed, ranked
from sentei.pruning.rules.schedules import Progress, linear
from sentei.pruning.rules.thresholds import below

FINISH = 0.7  # checks are made in the first 70 % of training


@dataclass(frozen=True)
class Check:
    """Settings of the checks: when units are removed during training, which ones, and how.

    Attributes:
        every: epochs from one check to the next.
        kind, since: arguments of `WeightChange`.
        threshold, relative, cap: arguments of `below`.
        way: "delete" removes units from the tensors at once; "mask" keeps them masked; "hack" is
            the paper's way, which sets the outgoing weights to zero once and goes on training them.
        keep: the part of each layer that is left after the last check, such as "75 %". Units are
            ranked by weight change, without the threshold; every check removes the same number.
        late: criterion of the checks after the first 70 % of training. Each of them removes from
            every layer a tenth of its initial units; "none" removes nothing. If None, the rule of
            the early checks applies to all checks.
        repair: repair for units that late checks remove.
        finish: checks are made in this first part of training only; with `late` it should be more
            than 0.7.
    """

    every: int
    kind: str = "mean_signed"
    since: str = "update"
    threshold: float = 0.001
    relative: bool = False
    cap: float = 0.1
    way: str = "delete"
    keep: str | None = None
    late: str | None = None
    repair: str | None = None
    finish: float = FINISH

    def propose(self, epochs: int) -> Proposal:
        """Return the proposal for a training of `epochs` epochs."""
        changed = WeightChange(self.kind, self.since)
        if self.keep is not None:
            return ranked(changed, linear(self.keep), within="group")
        rule = below(changed, self.threshold, self.cap, self.relative)
        if self.late is None:
            return rule
        return Late(rule, int(round(FINISH * epochs, 6)) // self.every, self.late, self.repair)


@dataclass
class Late:
    """A proposal that follows `early` at its first `checks` calls, and then another criterion.

    Attributes:
        early: the proposal of the first calls.
        checks: number of calls that `early` answers.
        criterion: name of the criterion of the later calls; "none" removes nothing.
        repair: repair for units that the later calls remove.
        share: part of each layer's initial units that a later call removes.
        calls: number of calls so far.
    """

    early: Proposal
    checks: int
    criterion: str
    repair: str | None = None
    share: float = 0.1
    calls: int = 0

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the cut of `early`; later the units of each layer with the lowest scores."""
        self.calls += 1
        if self.calls <= self.checks:
            return self.early(probe, groups, mask, progress)
        if self.criterion == "none":
            return None
        doomed: dict[Group, Tensor] = {}
        for group in groups:
            scored = {group: scores(self.criterion, probe, group)}
            doomed.update(lowest(scored, mask, [group], int(self.share * progress.starts[group])))
        return Cut(doomed, mixed(self.repair, probe, doomed, mask)) if doomed else None


@dataclass
class Counting:
    """A wrapper of a proposal that records how many units it removed at each call.

    Attributes:
        propose: the proposal.
        only_count: whether to record the cuts without making them.
        removed: for each call, the number of units by group.
        seen: all units that were ever proposed, as (group name, unit).
    """

    propose: Proposal
    only_count: bool = False
    removed: list[dict[str, int]] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the cut of the wrapped proposal, or None if units are only counted."""
        cut = self.propose(probe, groups, mask, progress)
        doomed = {} if cut is None else cut.doomed
        self.removed.append({group.name: int(units.numel()) for group, units in doomed.items()})
        self.seen |= {(g.name, int(unit)) for g, units in doomed.items() for unit in units}
        return None if self.only_count else cut


@dataclass
class Same:
    """A control: removes as many units at each call as another proposal did, by another criterion.

    Attributes:
        criterion: name of the criterion.
        counts: for each call, the number of units by group: `Counting.removed`.
        calls: number of calls so far.
    """

    criterion: str
    counts: Sequence[Mapping[str, int]]
    calls: int = 0

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the units with the lowest scores, or None after the last of the counts."""
        del progress
        wanted = self.counts[self.calls] if self.calls < len(self.counts) else {}
        self.calls += 1
        doomed: dict[Group, Tensor] = {}
        for group in groups:
            if wanted.get(group.name):
                scored = {group: scores(self.criterion, probe, group)}
                doomed.update(lowest(scored, mask, [group], wanted[group.name]))
        return Cut(doomed) if doomed else None


@dataclass
class Hack:
    """The paper's way of removal: set the outgoing weights to zero once, and go on training them.

    Attributes:
        propose: the proposal that chooses the units.
        zeroed: the units whose weights were set to zero, by group; they are not proposed again.
    """

    propose: Proposal
    zeroed: dict[Group, set[int]] = field(default_factory=dict)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> None:
        """Set to zero the outgoing weights of the proposed units; cut nothing."""
        already_zeroed = {
            group: sorted(self.zeroed[group]) for group in groups if group in self.zeroed
        }
        cut = self.propose(probe, groups, mask.without(already_zeroed), progress)
        if cut is None:
            return
        mask.without(cut.doomed).apply_(probe.model)
        for group, units in cut.doomed.items():
            self.zeroed.setdefault(group, set()).update(units.tolist())

    def relearnt(self, network: nn.Module) -> list[float]:
        """Return how far the zeroed units' outgoing weights have grown again, one value per unit.

        The value is the norm of the unit's outgoing weights, divided by the median norm over the
        units of its group that were never zeroed.
        """
        found: list[float] = []
        for group, units in self.zeroed.items():
            if not isinstance(group, Neurons):
                continue
            listener = group.listeners[0]
            weight = network.get_parameter(listener.parameter).detach().movedim(listener.dim, 0)
            norms = weight[listener.index.flatten()].reshape(group.size, -1).norm(dim=1)
            never_zeroed = [unit for unit in range(group.size) if unit not in units]
            found += (norms[sorted(units)] / norms[never_zeroed].median()).tolist()
        return found
