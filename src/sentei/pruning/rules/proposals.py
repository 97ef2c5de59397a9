"""Proposals: functions (probe, groups, mask, progress) -> Cut that choose what to remove next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria import Criterion, Fixed, criterion, scores
from sentei.criteria.repairs.table import Repair, repair
from sentei.errors import GroupError, ScheduleError, unknown
from sentei.network.folding import is_padded
from sentei.network.mask import Mask
from sentei.network.units import KINDS, Group, Listener, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.rules.schedules import Progress, Schedule
from sentei.pruning.rules.states import restore_state_, state_of

log = logging.getLogger("sentei")

WITHIN = ("network", "group")


@checked
@dataclass(frozen=True, eq=False)
class Cut:
    """What a proposal returns: what one step removes, repairs and regrows.

    Attributes:
        doomed: positions to remove, for each group.
        mix: for each listener of a removed unit, the weights with which other units replace it; see
            `network.folding.fold_`.
        regrown: positions of dead synapses that become alive again.
        scores: the scores of every group, kept for the journal; not compared by `==`.
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


Proposal = Annotated[
    Callable[[Probe, Sequence[Group], Mask, Progress], Cut | None],
    "a proposal, such as ranked('magnitude', one_at_a_time())",
]


@runtime_checkable
class Paced(Protocol):
    """A proposal whose schedule can be checked before anything is pruned."""

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """Check that the schedule can be followed to the end of the run.

        Args:
            groups: the groups that may be cut.
            starts: the number of alive members of each group at the start.
            total: the number of proposals in the run; None if unknown.

        Raises:
            ScheduleError: the schedule rises, or needs the number of steps, which is unknown.
        """
        ...


@checked
@dataclass(frozen=True)
class ranked:  # noqa: N801 - used like a function: ranked("ablation", one_at_a_time())
    """Remove the members with the lowest scores, as many at each step as the schedule asks for.

    The criterion scores all groups again at every step (iterative re-ranking); with `fixed(scores)`
    one ranking serves all steps. Of members with equal scores, those of the earlier group are
    removed first, then those at the lower position. A group keeps at least as many units as torch
    needs (`Neurons.least`).

    Args:
        criterion: a name such as "ablation", or a function (probe, group) -> scores.
        schedule: how many members to keep at each step, such as `linear("40 %", steps=10)`.
        within: "network" ranks the members of all groups together; "group" ranks each group by
            itself and applies the schedule to each.
        repair: how other units replace removed ones: a name (see `criteria.repairs`) or a
            function (probe, group, units, mask) -> mix. If None, removed units are not replaced.

    Raises:
        ValueError: an unknown criterion, repair or scope, with the nearest known one.
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

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the cut for this step; None when the schedule removes no more."""
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
            return None  # the groups may not lose any of their remaining members
        return Cut(doomed, mixed(self.repair, probe, doomed, mask), scores=judged)

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """Check the schedule, as `Paced.check`; of many steps about a thousand are tried."""
        steps = total or 1
        for scope in self._scopes(groups):
            start = remaining = sum(starts.get(group, group.size) for group in scope)
            for step in range(1, steps + 1, max(steps // 1000, 1)):
                kept = self.schedule(Progress(step, total, start, remaining))
                if kept > remaining:
                    raise ScheduleError(
                        f"a schedule cannot rise: {self.schedule!r} keeps {kept} of {remaining} at "
                        f"proposal {step}; let it give {remaining} or fewer there"
                    )
                remaining = kept

    def _scopes(self, groups: Sequence[Group]) -> list[list[Group]]:
        return [list(groups)] if self.within == "network" else [[group] for group in groups]

    def _wanted(self, scope: Sequence[Group], mask: Mask, progress: Progress) -> int | None:
        """Return how many members to remove now; None if the schedule never removes more."""
        remaining = sum(mask.count(group) for group in scope)
        start = sum(progress.starts.get(group, group.size) for group in scope)
        if self.within == "network":
            start += sum(progress.emptied.get(kind, 0) for kind in {g.kind for g in scope})
        own = replace(progress, start=start, remaining=remaining)
        last = max(progress.total or 10**9, progress.step)
        at_the_end = self.schedule(replace(own, step=last))
        return max(remaining - self.schedule(own), 0) if at_the_end < remaining else None


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
        return Cut(doomed, mixed(self.repair, probe, doomed, mask), scores=judged)


def mixed(
    how: str | Repair | None, probe: Probe, doomed: Mapping[Group, Tensor], mask: Mask
) -> dict[Listener, Tensor]:
    """Return the mix of a cut: the weights with which surviving units replace the removed ones.

    Args:
        how: the repair, by name or as a function; no mix if None.
        probe: data that the repair is fitted on.
        doomed: positions to remove, for each group.
        mask: what is alive before the cut; only units alive after it replace others.
    """
    mix: dict[Listener, Tensor] = {}
    if how is not None:
        after = mask.without(doomed)
        for group, units in doomed.items():
            if isinstance(group, Neurons):
                mix.update(repair(how)(probe, group, units, after))
    _log_padded_listeners(probe, mix)
    return mix


@checked
@dataclass(frozen=True)
class only:  # noqa: N801 - used like a function: only("synapse", ranked("wsf", ...))
    """Apply a proposal to the groups of one kind, such as "synapse", and to no others.

    For example, `prune(model, [*find_synapses(model), *find_units(model, x, inputs=True)], ...)`
    with `only("synapse", ...)` removes synapses. The sweep then removes every unit and input that
    no synapse reads, and every unit that reads nothing.

    Args:
        kind: "synapse", or a kind of units such as "neuron", "channel" or "input".
        propose: the proposal that is given the groups of this kind.

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
        """Return the proposal's cut for the groups of this kind.

        Raises:
            GroupError: there are no groups of this kind.
        """
        return self.propose(probe, self._chosen(groups), mask, progress)

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """Check the schedule of the proposal, as `Paced.check`, on the groups of this kind."""
        if isinstance(self.propose, Paced):
            self.propose.check(self._chosen(groups), starts, total)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state of the proposal; None if it has none."""
        return state_of(self.propose)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        restore_state_(self.propose, state)

    def _chosen(self, groups: Sequence[Group]) -> list[Group]:
        chosen = [group for group in groups if group.kind == self.kind]
        if not chosen:
            raise GroupError(
                f"only({self.kind!r}, ...) was given no group of that kind; pass the groups of "
                "find_synapses or find_units to prune()"
            )
        return chosen


def lowest(
    judged: Mapping[Group, Tensor], mask: Mask, scope: Sequence[Group], count: int
) -> dict[Group, Tensor]:
    """Return exactly `count` alive members of `scope` with the lowest scores, also with ties.

    Args:
        judged: (size,) scores of each group.
        mask: what is alive.
        scope: the groups that are ranked together.
        count: how many members; if fewer may be removed, all of those are returned.

    Returns:
        Positions for each group that has any.
    """
    values = torch.cat([judged[group] for group in scope])
    removable = torch.cat([_removable(judged[group], mask, group) for group in scope])
    candidates = removable.nonzero().flatten()
    if count < len(candidates):
        # Finding the score of the last member to remove takes a tenth of the time of sorting all.
        candidate_values = values[candidates]
        last = candidate_values.kthvalue(max(count, 1)).values
        ties = (candidate_values == last).nonzero().flatten()
        below = candidate_values < last
        below[ties[: count - int(below.sum())]] = True
        candidates = candidates[below]
    ends = torch.tensor([group.size for group in scope]).cumsum(0)
    parts = candidates.tensor_split(torch.searchsorted(candidates, ends[:-1]))
    starts = [0, *ends[:-1].tolist()]
    chosen = {g: part - start for g, part, start in zip(scope, parts, starts, strict=True)}
    return {group: members for group, members in chosen.items() if members.numel()}


def _removable(scores: Tensor, mask: Mask, group: Group) -> Tensor:
    """Return (size,) bool: alive members, except the `group.least` best units that torch needs."""
    alive = mask.alive(group)
    if isinstance(group, Neurons) and group.least:
        places = alive.nonzero().flatten()
        alive[places[scores[places].argsort(stable=True)[-group.least :]]] = False
    return alive


def _same(a: Mapping[Any, Tensor], b: Mapping[Any, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _log_padded_listeners(probe: Probe, mix: Mapping[Listener, Tensor]) -> None:
    for part, rows in mix.items():
        if rows[:, -1].any() and is_padded(probe.model, part):
            log.info(
                "%r pads with zeros, so that a constant folded into its bias is not exact at the "
                "edges; the loss measured after the cut includes the error",
                part.layer,
            )
