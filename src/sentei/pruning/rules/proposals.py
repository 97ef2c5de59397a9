"""Proposals: functions (probe, groups, mask, progress) -> Cut that choose what to remove next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria import Criterion, Fixed, ablation, criterion, scores
from sentei.criteria.brain_surgeon import Compensating, living
from sentei.criteria.repairs.affine import least_squares
from sentei.criteria.repairs.streams import is_stream, refitted_listeners
from sentei.criteria.repairs.table import Repair, repair
from sentei.criteria.repairs.where_possible import left_alone, method
from sentei.describing import described
from sentei.errors import CriterionError, GroupError, ScheduleError, unknown
from sentei.network.folding import is_padded
from sentei.network.mask import Mask
from sentei.network.units import BRANCH, KINDS, Group, Listener, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.rules.lazy_scores import LazyScores
from sentei.pruning.rules.racing import race
from sentei.pruning.rules.schedules import Amount, Progress, Schedule
from sentei.pruning.rules.states import restore_state_, state_of
from sentei.pruning.rules.widths import Widths

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
        updates: new weights of whole parameters, by name, such as those in which the remaining
            synapses make up for removed ones. What is dead becomes zero in them.
    """

    doomed: Mapping[Group, Tensor]
    mix: Mapping[Listener, Tensor] = field(default_factory=dict)
    regrown: Mapping[Synapses, Tensor] = field(default_factory=dict)
    scores: Mapping[Group, Tensor] = field(default_factory=dict, repr=False)
    updates: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cut):
            return NotImplemented
        mine = (self.doomed, self.mix, self.regrown, self.updates)
        theirs = (other.doomed, other.mix, other.regrown, other.updates)
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
            For units of a stream only "least_squares": the layers that read it are fitted anew, one
            after the other, to what they computed before.
        keep: for patterns of group names, as for `pick`, how much of each matching group stays at
            least: `{"layer4.*": "80 %"}`, a percentage of its members at the start, rounded up, or
            a count. Of several patterns that match a group, the largest holds.
        at_least: how many members of each group stay at least; a smaller group stays whole.
        multiples_of: every group that is cut keeps a multiple of so many members, one multiple at
            least, whatever the scope. Units then go in batches, from one multiple to the next, and
            the batch with the lowest mean score goes first.
        alike: patterns of group names; the groups that match one keep as many members each. They
            have to begin with equally many.
        racing: measure units on few samples first, and only those that may be among the lowest on
            all of them; for "ablation" on samples in memory. What goes agrees with the exact
            ranking with high probability, under a normal approximation (bounds of four standard
            errors); the scores of what goes are exact, those of the others estimates. Removing a
            tenth of the units takes about a sixth of the evaluations. Branches run without
            first-order estimates, so that more samples are needed to tell them apart.
        lazy: when steps remove few units and weights do not change in between (no retraining, which
            makes every step measure all), measure again only units that may be among the lowest,
            by scores predicted from the last measured ones; for "ablation". In all runs tried, the
            order was the exact one, which is not proven. Scores of what goes are exact, those of
            the others predictions. Branches are measured at every step.

    Batches and the schedule: never fewer members stay than the schedule says. A batch that is
    larger than what may go now waits for a later step; so some steps remove nothing, and the run
    may end with a few members more than the schedule's last count. Only a schedule that counts down
    from what remains, such as `one_at_a_time()` and `levels`, is not waited for: a whole batch goes
    where it removes less than one, which with `one_at_a_time()` is one batch of one group (or one
    set of groups that are alike) a step. What the sweep after a cut removes besides, because no
    layer reads it any more, may leave another width; the next cut of the group makes it a multiple,
    or alike, again.

    Raises:
        ValueError: an unknown criterion, repair or scope, with the nearest known one.
        CriterionError: `racing` or `lazy` with another criterion than "ablation". When it is used:
            the loss has no derivative.
        ScheduleError: `keep`, `at_least` or `multiples_of` is out of its range; units go in
            batches and `racing` or `lazy` is given, or both are. When it is used: a schedule for
            single groups, such as `multiples_of(8, ...)`, ranks several together.
        GroupError: when it is used: a pattern matches no group, or the groups cannot be kept so.
        DataError: when it is used: `racing`, and the samples are not in memory.
    """

    criterion: str | Criterion
    schedule: Schedule
    within: str = "network"
    repair: str | Repair | None = None
    keep: Mapping[str, Amount] | None = None
    at_least: int = 0
    multiples_of: int = 1
    alike: tuple[str, ...] = ()
    racing: bool = False
    lazy: bool = False
    _known: LazyScores = field(default_factory=LazyScores, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        found, in_batches = criterion(self.criterion), self._widths.in_batches
        if self.racing and self.lazy:
            raise ScheduleError(
                "racing= is for steps that remove many units, and lazy= for steps that remove few; "
                "leave out one of them"
            )
        for name in ("racing", "lazy"):
            if getattr(self, name) and found != ablation:
                raise CriterionError(
                    f"{name}= finds the lowest scores of ablation; the criterion is "
                    f'{described(self.criterion)}. Use "ablation", or leave out {name}=.'
                )
            if getattr(self, name) and in_batches:
                raise ScheduleError(
                    f"{name}= measures few units exactly, and the mean scores of batches need all "
                    f"of them; multiples_of={self.multiples_of} and alike={self.alike} ask for "
                    f"batches. Leave out {name}=, or these."
                )
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
        if not progress.emptied:  # groups that are deleted match no pattern any more
            self._check_groups(groups, progress.starts)
        scopes = self._scopes(groups)
        wanted = [self._wanted(scope, mask, progress) for scope in scopes]
        if all(each is None for each in wanted):
            return None
        any_now = any(each and each.now for each in wanted)
        floors = self._widths.floors(groups, progress.starts)
        asked = [(s, each.now if each else 0) for s, each in zip(scopes, wanted, strict=True)]
        judged = self._scores(probe, asked, mask, floors, progress.step) if any_now else {}
        doomed: dict[Group, Tensor] = {}
        waits = False
        for scope, each in zip(scopes, wanted, strict=True):
            if each is None or not each.now:
                continue
            if self._widths.in_batches:
                found, later = self._widths.lowest(
                    judged, mask, scope, floors, each.now, each.in_all
                )
                waits |= later
            else:
                found = lowest(judged, mask, scope, each.now, floors)
            doomed.update(found)
        if not doomed and any_now and not waits:
            return None  # the groups may not lose any of their remaining members
        return repaired(Cut(doomed, scores=judged), self.repair, self.criterion, probe, mask)

    def check(
        self, groups: Sequence[Group], starts: Mapping[Group, int], total: int | None
    ) -> None:
        """Check the schedule, as `Paced.check`; of many steps about a thousand are tried."""
        self._check_groups(groups, starts)
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

    def state_dict(self) -> dict[str, Any] | None:
        """Return what `lazy` remembers between steps; None without it."""
        return self._known.state_dict() if self.lazy else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self._known.load_state_dict(state)

    def _scores(
        self,
        probe: Probe,
        asked: Sequence[tuple[Sequence[Group], int]],
        mask: Mask,
        floors: Mapping[Group, int],
        step: int,
    ) -> Mapping[Group, Tensor]:
        """Return the scores of the groups of all scopes; `asked` says how many of each go."""
        if self.racing:
            return race(probe, asked, mask, floors, seed=step).scores
        if self.lazy:
            return self._known(probe, asked, mask, floors, step)
        return {g: scores(self.criterion, probe, g) for groups, _ in asked for g in groups}

    @property
    def _widths(self) -> Widths:
        return Widths(self.keep or {}, self.at_least, self.multiples_of, self.alike)

    def _check_groups(self, groups: Sequence[Group], starts: Mapping[Group, int]) -> None:
        self._widths.check(groups, starts)
        by_group = getattr(self.schedule, "by_group", False)
        if by_group and any(len(scope) > 1 for scope in self._scopes(groups)):
            raise ScheduleError(
                f"{self.schedule!r} rounds what all groups keep together, so that each may have "
                "any width. Rank with ranked(..., multiples_of=8), or with within='group'."
            )

    def _scopes(self, groups: Sequence[Group]) -> list[list[Group]]:
        return [list(groups)] if self.within == "network" else self._widths.sets(groups)

    def _wanted(self, scope: Sequence[Group], mask: Mask, progress: Progress) -> _Wanted | None:
        """Return how many members to remove; None if the schedule never removes more."""
        remaining = sum(mask.count(group) for group in scope)
        start = sum(progress.starts.get(group, group.size) for group in scope)
        if self.within == "network":
            start += sum(progress.emptied.get(kind, 0) for kind in {g.kind for g in scope})
        own = replace(progress, start=start, remaining=remaining)
        last = max(progress.total or 10**9, progress.step)
        at_the_end = self.schedule(replace(own, step=last))
        if at_the_end >= remaining:
            return None
        kept = self.schedule(own)
        goes_on = self._widths.in_batches and self.schedule(replace(own, remaining=kept)) < kept
        return _Wanted(max(remaining - kept, 0), None if goes_on else remaining - at_the_end)


@dataclass(frozen=True)
class _Wanted:
    """How many members a schedule removes now, and from now to its end; None if it has no end."""

    now: int
    in_all: int | None


def repaired(
    cut: Cut, how: str | Repair | None, chosen_by: str | Criterion, probe: Probe, mask: Mask
) -> Cut:
    """Return a cut with all that makes up for what it removes.

    Units of streams have no mix: with "least_squares" all layers that read them are fitted anew.

    Args:
        cut: what is removed.
        how: the repair, by name or as a function; none if None.
        chosen_by: the criterion that chose the members.
        probe: data that repairs are fitted on.
        mask: what is alive before the cut.
    """
    refits = how is not None and method(how) == least_squares
    streams = {group for group in cut.doomed if refits and is_stream(group)}
    replaced = {group: units for group, units in cut.doomed.items() if group not in streams}
    mix = mixed(how, probe, replaced, mask)
    updates = compensated(chosen_by, probe, cut.doomed, mask)
    if streams:
        after = mask.without(cut.doomed)
        with left_alone(how, *streams):
            updates |= refitted_listeners(probe, cut.doomed, after, mix, updates)
    return replace(cut, mix=mix, updates=updates)


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
                with left_alone(how, group):
                    mix.update(repair(how)(probe, group, units, after))
    _log_padded_listeners(probe, mix)
    return mix


def compensated(
    how: str | Criterion, probe: Probe, doomed: Mapping[Group, Tensor], mask: Mask
) -> dict[str, Tensor]:
    """Return the weights with which remaining synapses make up for removed ones, by parameter.

    Args:
        how: the criterion that chose them; only some compensate, such as "obs".
        probe: data that the weights are fitted on.
        doomed: positions to remove, for each group.
        mask: what is alive before the cut.
    """
    chosen = criterion(how)
    if not isinstance(chosen, Compensating):
        return {}
    after = mask.without(doomed)
    return {
        group.parameter: chosen.compensated(probe, group, living(after, group)).weight
        for group in doomed
        if isinstance(group, Synapses)
    }


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
        if self.kind not in (*KINDS, "synapse", BRANCH):
            raise ValueError(unknown("kind", self.kind, (*KINDS, "synapse", BRANCH)))

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
    judged: Mapping[Group, Tensor],
    mask: Mask,
    scope: Sequence[Group],
    count: int,
    floors: Mapping[Group, int] | None = None,
) -> dict[Group, Tensor]:
    """Return exactly `count` alive members of `scope` with the lowest scores, also with ties.

    Args:
        judged: (size,) scores of each group.
        mask: what is alive.
        scope: the groups that are ranked together.
        count: how many members; if fewer may be removed, all of those are returned.
        floors: how many members of a group stay at least; `group.least` where it is not given.

    Returns:
        Positions for each group that has any.
    """
    values = torch.cat([judged[group] for group in scope])
    least = {group: group.least if isinstance(group, Neurons) else 0 for group in scope}
    least |= floors or {}
    removable = torch.cat([_removable(judged[g], mask, g, least[g]) for g in scope])
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


def _removable(scores: Tensor, mask: Mask, group: Group, least: int) -> Tensor:
    """Return (size,) bool: alive members, except the `least` best ones that have to stay."""
    alive = mask.alive(group)
    if least:
        places = alive.nonzero().flatten()
        alive[places[scores[places].argsort(stable=True)[-least:]]] = False
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
