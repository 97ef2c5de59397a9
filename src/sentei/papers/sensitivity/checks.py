"""What is removed at the checks: the paper's rule, controls that take as many, and late rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from sentei.criteria import scores
from sentei.criteria.change import WeightChange
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut, Proposal, below, lowest, mixed, ranked
from sentei.pruning.rules.schedules import Progress, linear

FINISH = 0.7  # checks are made in the first 70 % of training


@dataclass(frozen=True)
class Check:
    """What is removed while training.

    Attributes:
        every: epochs from one check to the next.
        kind, since: of `WeightChange`.
        threshold, relative, cap: of `below`.
        way: "delete" removes units from the tensors at once, "mask" keeps them silent, "hack" is
            the paper's: outgoing weights are set to zero once and trained on.
        keep: the part of each layer that is left by weight change, such as "75 %", whatever the
            threshold; as much goes at every check.
        late: criterion of the checks after the first 70 %, each of which takes a tenth of what
            every layer had at first; "none" takes nothing.
        repair: who takes over from units that go late.
        finish: checks are made in this first part of training; all of it but its end if `late`.
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
        """The rule, for a training of so many epochs."""
        changed = WeightChange(self.kind, self.since)
        if self.keep is not None:
            return ranked(changed, linear(self.keep), within="group")
        rule = below(changed, self.threshold, self.cap, self.relative)
        if self.late is None:
            return rule
        return Late(rule, int(round(FINISH * epochs, 6)) // self.every, self.late, self.repair)


@dataclass
class Late:
    """A rule for the first checks, and another for those after."""

    early: Proposal
    checks: int
    criterion: str
    repair: str | None = None
    share: float = 0.1
    calls: int = 0

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """What the early rule says; later this share of each layer, the lowest by the criterion."""
        self.calls += 1
        if self.calls <= self.checks:
            return self.early(probe, groups, mask, progress)
        if self.criterion == "none":
            return None
        doomed: dict[Group, Tensor] = {}
        for group in groups:
            judged = {group: scores(self.criterion, probe, group)}
            doomed.update(lowest(judged, mask, [group], int(self.share * progress.starts[group])))
        return Cut(doomed, mixed(self.repair, probe, doomed, mask)) if doomed else None


@dataclass
class Counting:
    """A proposal that remembers how many units it took at each of its calls."""

    propose: Proposal
    only_count: bool = False
    removed: list[dict[str, int]] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The other proposal's cut; none if units are only counted."""
        cut = self.propose(probe, groups, mask, progress)
        doomed = {} if cut is None else cut.doomed
        self.removed.append({group.name: int(units.numel()) for group, units in doomed.items()})
        self.seen |= {(g.name, int(unit)) for g, units in doomed.items() for unit in units}
        return None if self.only_count else cut


@dataclass
class Same:
    """A proposal that takes as many units at each of its calls as another one took."""

    criterion: str
    counts: Sequence[Mapping[str, int]]
    calls: int = 0

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The units that matter least by `criterion`; none when there are no counts left."""
        del progress
        wanted = self.counts[self.calls] if self.calls < len(self.counts) else {}
        self.calls += 1
        doomed: dict[Group, Tensor] = {}
        for group in groups:
            if wanted.get(group.name):
                judged = {group: scores(self.criterion, probe, group)}
                doomed.update(lowest(judged, mask, [group], wanted[group.name]))
        return Cut(doomed) if doomed else None


@dataclass
class Hack:
    """The paper's removal: outgoing weights are set to zero once, and go on being trained.

    Attributes:
        propose: what is to be removed.
        zeroed: by group, the units it was done to; they are not proposed again.
    """

    propose: Proposal
    zeroed: dict[Group, set[int]] = field(default_factory=dict)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> None:
        """Set to zero what the other proposal cuts, and cut nothing."""
        known = {group: sorted(self.zeroed[group]) for group in groups if group in self.zeroed}
        cut = self.propose(probe, groups, mask.without(known), progress)
        if cut is None:
            return
        mask.without(cut.doomed).apply_(probe.model)
        for group, units in cut.doomed.items():
            self.zeroed.setdefault(group, set()).update(units.tolist())

    def relearnt(self, network: nn.Module) -> list[float]:
        """Of each unit, the size of its outgoing weights over the median of those never zeroed."""
        found: list[float] = []
        for group, units in self.zeroed.items():
            if not isinstance(group, Neurons):
                continue
            part = group.listeners[0]
            weight = network.get_parameter(part.parameter).detach().movedim(part.dim, 0)
            sizes = weight[part.index.flatten()].reshape(group.size, -1).norm(dim=1)
            rest = [unit for unit in range(group.size) if unit not in units]
            found += (sizes[sorted(units)] / sizes[rest].median()).tolist()
        return found
