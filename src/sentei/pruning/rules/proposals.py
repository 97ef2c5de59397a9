"""What to remove next, and who takes over: functions of (probe, groups, mask, progress)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sentei.criteria import Criterion, Fixed, criterion, scores
from sentei.criteria.repairs.table import Repair, repair
from sentei.errors import GroupError, ScheduleError, unknown
from sentei.network.folding import is_padded
from sentei.network.mask import Mask
from sentei.network.units import KINDS, Group, Listener, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.rules.schedules import Progress, Schedule

log = logging.getLogger("sentei")

WITHIN = ("network", "group")


@dataclass(frozen=True, eq=False)
class Cut:
    """What one step removes.

    Attributes:
        doomed: positions that go, for each group.
        mix: who takes over, for each listener of a doomed unit: see `network.folding.fold_`.
        regrown: positions of synapses that are given back.
        scores: what the criterion said of every group, kept for the journal; no part of the cut.
    """

    doomed: Mapping[Group, Tensor]
    mix: Mapping[Listener, Tensor] = field(default_factory=dict)
    regrown: Mapping[Synapses, Tensor] = field(default_factory=dict)
    scores: Mapping[Group, Tensor] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cut):
            return NotImplemented
        mine = (self.doomed, self.mix, self.regrown)
        theirs = (other.doomed, other.mix, other.regrown)
        return all(map(_same, mine, theirs))

    __hash__ = None  # type: ignore[assignment]


Proposal = Callable[[Probe, Sequence[Group], Mask, Progress], Cut | None]


@runtime_checkable
class Paced(Protocol):
    """A proposal whose schedule can be looked at before anything is pruned."""

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """Refuse a schedule that cannot be gone along.

        Args:
            groups: what may be cut.
            starts: how many of each are alive.
            total: how many proposals there will be, if that is known.

        Raises:
            ScheduleError: it rises, or asks for what is not known.
        """
        ...


@dataclass(frozen=True)
class ranked:  # noqa: N801 - used like a function: ranked("ablation", one_at_a_time())
    """Members with the lowest scores go first, as many as the schedule says.

    With a criterion that is computed anew at each step this is iterative re-ranking; with
    `fixed(scores)` it is a single overall ranking. Ties go to the earlier group, then to the lower
    position. A group keeps at least what torch can express (`Neurons.least`).

    Args:
        criterion: a name or a function (probe, group) -> scores.
        schedule: how many to keep at each step.
        within: "network" ranks all groups together, "group" each by itself and by its own schedule.
        repair: who takes over the work of removed units, by name (see `criteria.repairs`) or as a
            function (probe, group, units, mask) -> mix; nobody if None.

    Raises:
        ValueError: an unknown criterion or scope, with the nearest known one.
    """

    criterion: str | Criterion
    schedule: Schedule
    within: str = "network"
    repair: str | Repair | None = None

    def __post_init__(self) -> None:
        criterion(self.criterion)
        if self.repair is not None:
            repair(self.repair)
        if self.within not in WITHIN:
            raise ValueError(unknown("scope within=", self.within, WITHIN))
        if not callable(self.schedule):
            raise ValueError(
                f"a schedule is a function such as one_at_a_time() or linear('40 %', steps=10); "
                f"got {self.schedule!r}"
            )

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The cut for this step; None when the schedule has come to its end."""
        if isinstance(self.criterion, Fixed) and self.criterion.bare and len(groups) > 1:
            raise GroupError(
                f"one tensor of fixed scores ranks one group; there are {len(groups)}. Pass "
                "fixed({group: scores, ...})."
            )
        scopes = self._scopes(groups)
        wanted = [self._wanted(scope, mask, progress) for scope in scopes]
        if all(count is None for count in wanted):
            return None
        judged = {g: scores(self.criterion, probe, g) for g in groups} if any(wanted) else {}
        doomed: dict[Group, Tensor] = {}
        for scope, count in zip(scopes, wanted, strict=True):
            if count:
                doomed.update(lowest(judged, mask, scope, count))
        if not doomed and any(wanted):
            return None  # everything that is left has to stay
        return Cut(doomed, mixed(self.repair, probe, doomed, mask), scores=judged)

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """As `Paced` says; of many steps a thousand are looked at."""
        steps = total or 1
        for scope in self._scopes(groups):
            start = left = sum(starts[group] for group in scope)
            for step in range(1, steps + 1, max(steps // 1000, 1)):
                kept = self.schedule(Progress(step, total, start, left))
                if kept > left:
                    raise ScheduleError(
                        f"a schedule cannot rise: {self.schedule!r} keeps {kept} of {left} at "
                        f"proposal {step}; let it give {left} or fewer there"
                    )
                left = kept

    def _scopes(self, groups: Sequence[Group]) -> list[list[Group]]:
        return [list(groups)] if self.within == "network" else [[group] for group in groups]

    def _wanted(self, scope: Sequence[Group], mask: Mask, progress: Progress) -> int | None:
        """How many go now; None if the schedule will never want more."""
        remaining = sum(mask.count(group) for group in scope)
        start = sum(progress.starts.get(group, group.size) for group in scope)
        if self.within == "network":
            start += sum(progress.emptied.get(kind, 0) for kind in {g.kind for g in scope})
        own = replace(progress, start=start, remaining=remaining)
        last = max(progress.total or 10**9, progress.step)
        at_the_end = self.schedule(replace(own, step=last))
        return max(remaining - self.schedule(own), 0) if at_the_end < remaining else None


@dataclass(frozen=True)
class below:  # noqa: N801 - used like a function: below("weight_change", 0.001)
    """Units or synapses whose score is under a threshold go, the lowest first; none if none is.

    Args:
        criterion: a name or a function (probe, group) -> scores.
        threshold: scores below it go; a multiple of the group's median score if `relative`.
        cap: at most this part of a group goes at once, but one may always go. A group is never
            emptied.
        relative: compare with the median of the scores of what is alive in the group.
        repair: as for `ranked`.

    Raises:
        ValueError: an unknown criterion, a threshold that is no number, or a cap outside 0 to 1.
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
        """The cut for this step; None if every score is at the threshold or above."""
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
        return Cut(doomed, mixed(self.repair, probe, doomed, mask), scores=judged)


def mixed(
    how: str | Repair | None, probe: Probe, doomed: Mapping[Group, Tensor], mask: Mask
) -> dict[Listener, Tensor]:
    """The mix of a cut: each doomed unit's work, taken over by those alive in `mask` after it."""
    mix: dict[Listener, Tensor] = {}
    if how is not None:
        after = mask.without(doomed)
        for group, units in doomed.items():
            if isinstance(group, Neurons):
                mix.update(repair(how)(probe, group, units, after))
    _say_what_is_padded(probe, mix)
    return mix


@dataclass(frozen=True)
class only:  # noqa: N801 - used like a function: only("synapse", ranked("wsf", ...))
    """A proposal that looks at groups of one kind; those of others die in the sweep alone.

    `prune(model, [*find_synapses(model), *find_units(model, x, inputs=True)], ...)` with it removes
    synapses, and every unit and input that is left with nothing.

    Args:
        kind: "synapse", or one of those of units.
        propose: what looks at them.

    Raises:
        ValueError: an unknown kind, with the nearest known one.
    """

    kind: str
    propose: Proposal

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, "synapse"):
            raise ValueError(unknown("kind", self.kind, (*KINDS, "synapse")))

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """What the proposal says of these groups.

        Raises:
            GroupError: there are none.
        """
        return self.propose(probe, self._chosen(groups), mask, progress)

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """As `Paced` says, of the groups it looks at."""
        if isinstance(self.propose, Paced):
            self.propose.check(self._chosen(groups), starts, total)

    def _chosen(self, groups: Sequence[Group]) -> list[Group]:
        chosen = [group for group in groups if group.kind == self.kind]
        if not chosen:
            raise GroupError(
                f"only({self.kind!r}, ...) has no group of that kind to look at; pass those of "
                "find_synapses or find_units to prune()"
            )
        return chosen


def lowest(
    judged: Mapping[Group, Tensor], mask: Mask, scope: Sequence[Group], count: int
) -> dict[Group, Tensor]:
    """The `count` alive members of `scope` with the lowest scores: exactly so many, ties or not."""
    values = torch.cat([judged[group] for group in scope])
    may_go = torch.cat([_may_go(judged[group], mask, group) for group in scope])
    candidates = may_go.nonzero().flatten()
    if count < len(candidates):
        # The value of the last one to go takes a tenth of the time of sorting all of them.
        offered = values[candidates]
        last = offered.kthvalue(max(count, 1)).values
        ties = (offered == last).nonzero().flatten()
        below = offered < last
        below[ties[: count - int(below.sum())]] = True
        candidates = candidates[below]
    ends = torch.tensor([group.size for group in scope]).cumsum(0)
    parts = candidates.tensor_split(torch.searchsorted(candidates, ends[:-1]))
    starts = [0, *ends[:-1].tolist()]
    going = {g: part - start for g, part, start in zip(scope, parts, starts, strict=True)}
    return {group: members for group, members in going.items() if members.numel()}


def _may_go(scores: Tensor, mask: Mask, group: Group) -> Tensor:
    """(size,) bool: who is alive and not one of those that torch cannot do without."""
    alive = mask.alive(group)
    if isinstance(group, Neurons) and group.least:
        places = alive.nonzero().flatten()
        alive[places[scores[places].argsort(stable=True)[-group.least :]]] = False
    return alive


def _same(a: Mapping[Any, Tensor], b: Mapping[Any, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _say_what_is_padded(probe: Probe, mix: Mapping[Listener, Tensor]) -> None:
    for part, rows in mix.items():
        if rows[:, -1].any() and is_padded(probe.model, part):
            log.info(
                "%r pads with zeros, so that a constant folded into its bias is not exact at the "
                "edges; what that costs is in the loss measured after the cut",
                part.layer,
            )
