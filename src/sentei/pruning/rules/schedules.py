"""Schedules: pure functions from a Progress to the number of members to keep.

This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor, inf, isfinite
from typing import Annotated, Any

from sentei.arguments import checked
from sentei.describing import described
from sentei.errors import ScheduleError
from sentei.kinds import READ
from sentei.pruning.rules.remade import Remade, remade


@checked
@dataclass(frozen=True)
class Progress:
    """The state of a run when a step is proposed: step number, members at the start and now.

    Attributes:
        step: number of the step being proposed, from 1; an undone step does not advance it.
        total: number of steps in the run; None if unknown.
        start: members alive at the start of the run, in the schedule's own scope.
        remaining: members alive now, in that scope.
        undone: steps undone since the start of the run; never reset.
        starts: members alive at the start of the run, for each group; a group that is missing
            started with its full size.
        emptied: for each kind, the members at the start of the run of groups that were deleted
            since.
    """

    step: int
    total: int | None
    start: int
    remaining: int
    undone: int = 0
    starts: Mapping[Any, int] = field(default_factory=dict)
    emptied: Mapping[str, int] = field(default_factory=dict)


Schedule = Annotated[
    Callable[[Progress], int], "a schedule, such as one_at_a_time() or linear('40 %', steps=10)"
]
Amount = Annotated[int | str, READ]  # by `amount`, which knows ranges and percentages


@dataclass(frozen=True)
class Named(Remade):
    """A schedule with the expression that made it, for messages and the journal."""

    words: str
    keep: Callable[[Progress], int] = field(compare=False)
    by_group: bool = False  # whether it makes sense for one group at a time only

    def __call__(self, progress: Progress) -> int:
        """Return how many members to keep."""
        return self.keep(progress)

    def __repr__(self) -> str:
        return self.words


def amount(keep: Amount, start: int, *, up: bool = False) -> int:
    """Return how many of `start` members an amount stands for.

    Args:
        keep: a count, or a percentage such as "40 %", rounded to the nearest count, halves up.
        start: the number of members that a percentage refers to.
        up: round percentages up instead.

    Raises:
        ScheduleError: an amount that is negative, over 100 %, or neither count nor percentage.
    """
    if isinstance(keep, int) and not isinstance(keep, bool):
        if keep < 0:
            raise ScheduleError(f"a count to keep is 0 or more; got {keep}")
        return keep
    text = str(keep).strip()
    try:
        return amount(int(text), start, up=up)
    except ValueError:
        percent = percentage(text)
    if percent is None or not 0 <= percent <= 100:
        raise ScheduleError(
            f"an amount to keep is a count like 40 or a percentage like '40 %' of the start, "
            f"from 0 to 100; got {keep!r}"
        )
    exact = percent * start / 100
    return ceil(exact) if up else floor(exact + Fraction(1, 2))


@remade
def one_at_a_time() -> Schedule:
    """Schedule: remove one member (a unit or a synapse) at each step."""
    return Named("one_at_a_time()", lambda progress: max(progress.remaining - 1, 0))


@checked
@remade
def one_shot(keep: Amount) -> Schedule:
    """Remove everything down to `keep` in the first step.

    Args:
        keep: members to keep: a count, or a percentage of the start such as "40 %".

    Raises:
        ScheduleError: `keep` is not an amount.
    """
    amount(keep, 100)
    return Named(
        f"one_shot({keep!r})",
        lambda progress: min(_target(keep, progress), progress.remaining),
    )


@checked
@remade
def linear(keep: Amount = 0, steps: int | None = None, *, by: Amount | None = None) -> Schedule:
    """Remove the same number of members at each step, down to `keep` at the last step.

    Args:
        keep: members to keep at the end: a count, or a percentage of the start.
        steps: number of steps; the total of the run if None.
        by: members to remove at each step, in place of `steps`: a count, or a percentage of the
            start, rounded down (so that a percentage of less than one member removes none). The run
            then takes as many steps as it needs.

    Raises:
        ScheduleError: an argument out of its range, or both `steps` and `by`.
    """
    _check_steps(steps, by)
    if by is None:
        return _falling("linear", keep, steps, lambda share: 1 - share)
    amount(keep, 100)
    _part(by, 100)

    def scheduled(progress: Progress) -> int:
        removed = progress.step * _part(by, progress.start)
        return min(max(progress.start - removed, _target(keep, progress)), progress.remaining)

    return Named(f"linear({keep!r}, by={by!r})", scheduled)


@checked
@remade
def cubic(keep: Amount, steps: int | None = None) -> Schedule:
    """Remove most members early: the number still to remove falls with the cube of the steps left.

    Args:
        keep: members to keep at the end: a count, or a percentage of the start.
        steps: number of steps; the total of the run if None.

    Raises:
        ScheduleError: an argument out of its range.

    Source: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1.
    """
    return _falling("cubic", keep, steps, lambda share: (1 - share) ** 3)


@checked
@remade
def geometric(keep: Amount = 1, steps: int | None = None, *, by: Amount | None = None) -> Schedule:
    """Remove the same part of the remaining members at each step, down to `keep`.

    Args:
        keep: members to keep at the end, at least one: a count, or a percentage of the start.
        steps: number of steps; the total of the run if None.
        by: the part of the remaining members to remove at each step, in place of `steps`: a
            percentage such as "0.5 %". The run then takes as many steps as it needs.

    Raises:
        ScheduleError: an argument out of its range, or both `steps` and `by`.
    """
    _check_steps(steps, by)
    if amount(keep, 10**9) == 0:
        raise ScheduleError(
            f"a geometric schedule never reaches 0; keep at least one, not {keep!r}"
        )
    each = None if by is None else float(_percentage_by(by))

    def scheduled(progress: Progress) -> int:
        target = _target(keep, progress)
        if target == 0:
            raise ScheduleError(
                f"a geometric schedule never reaches 0: {keep!r} of {progress.start} is 0"
            )
        if each is None:
            part = (target / progress.start) ** _share(progress, steps)
        else:
            part = (1 - each / 100) ** progress.step
        return min(max(floor(progress.start * part + 0.5), target), progress.remaining)

    words = f"steps={steps}" if by is None else f"by={by!r}"
    return Named(f"geometric({keep!r}, {words})", scheduled)


@checked
@remade
def fsa(keep: Amount, mu: float = 10.0, steps: int | None = None, finish: float = 0.5) -> Schedule:
    """Schedule of feature selection with annealing (FSA): remove most members early.

    `keep` is reached after the part `finish` of the steps.

    Of M members at the start, step e keeps
    M_e = k + (M - k) · max(0, (1 - p) / (1 + mu · p)) with p = e / (finish · steps).

    Source: Barbu, She, Ding & Gramajo 2017, eq. 3, where `finish` is one half; their own C++ code
    takes 0.7.

    Args:
        keep: k, members to keep at the end: a count, or a percentage of the start.
        mu: how early members are removed: 0 is linear, larger values remove more of them early.
        steps: N_iter, number of steps; the total of the run if None.
        finish: the part of the steps after which `keep` is reached, above 0 and at most 1.

    Raises:
        ScheduleError: an argument out of its range.
    """
    if not 0 <= mu < inf or not 0 < finish <= 1:
        raise ScheduleError(
            "fsa takes a finite number mu >= 0 and 0 < finish <= 1; "
            f"got mu={mu!r}, finish={finish!r}"
        )

    def remaining_part(share: float) -> float:
        done = share / finish
        return max(0.0, (1 - done) / (1 + mu * done))

    return _falling(f"fsa[mu={mu}, finish={finish}]", keep, steps, remaining_part)


@checked
@remade
def levels(*percents: float, then: Schedule | None = None) -> Schedule:
    """Keep a percentage of the alive members at each step, and a larger one after each undone step.

    For example, `levels(25, 50, 70, then=one_at_a_time())` keeps 25 % at each step until a step is
    undone, then 50 %, then 70 %, and after three undone steps removes one member at a time.

    Args:
        percents: percentages of the alive members to keep, rising and below 100. At least one
            member is removed at each step.
        then: the schedule after every level has been undone; nothing more is proposed if None.

    Raises:
        ScheduleError: `percents` are not rising percentages below 100.
    """
    if (
        not percents
        or any(not 0 <= percent < 100 for percent in percents)
        or list(percents) != sorted(percents)
    ):
        raise ScheduleError(f"levels are rising percentages below 100 to keep; got {percents}")

    exact = [Fraction(str(percent)) for percent in percents]

    def scheduled(progress: Progress) -> int:
        if progress.undone >= len(percents):
            return then(progress) if then is not None else progress.remaining
        return floor(exact[progress.undone] * progress.remaining / 100)  # fewer than remain

    words = f"levels({', '.join(map(str, percents))}, then={then!r})"
    return Named(words, scheduled, by_group=getattr(then, "by_group", False))


@checked
@remade
def multiples_of(number: int, schedule: Schedule) -> Schedule:
    """Round up what another schedule keeps to a multiple of `number`, for faster layer widths.

    Most processors compute eight float32 values at once, so that a layer with 25 channels takes as
    long as one with 32. What a scope keeps is rounded, so this schedule is for `within="group"`; a
    ranking of several groups together refuses it. `ranked(..., multiples_of=8)` rounds each group
    in every scope.

    Args:
        number: the kept members of each group are a multiple of this, such as 8.
        schedule: the schedule to round up. It has to have a target of its own, as `linear("60 %")`
            has. One that counts down from the remaining members, as `one_at_a_time()` does, would
            be rounded up to the same multiple at every step.

    Raises:
        ScheduleError: `number` is not a count of 1 or more.
    """
    if number < 1:
        raise ScheduleError(f"widths are multiples of a count, 1 or more; got {number!r}")

    def scheduled(progress: Progress) -> int:
        return min(-(-schedule(progress) // number) * number, progress.remaining)

    return Named(f"multiples_of({number}, {described(schedule)})", scheduled, by_group=True)


def _falling(
    name: str, keep: Amount, steps: int | None, remaining_part: Callable[[float], float]
) -> Schedule:
    """Return a schedule down to `keep`.

    `remaining_part` maps the part of the steps taken, 0 to 1, to the part of the members to remove
    that is still alive.
    """
    amount(keep, 100)
    _check_steps(steps)

    def scheduled(progress: Progress) -> int:
        target = _target(keep, progress)
        exact = target + (progress.start - target) * remaining_part(_share(progress, steps))
        return min(floor(exact + 0.5), progress.remaining)

    return Named(f"{name}({keep!r}, steps={steps})", scheduled)


def _target(keep: Amount, progress: Progress) -> int:
    target = amount(keep, progress.start)
    if target > progress.start:
        raise ScheduleError(
            f"a schedule cannot rise: keep {target} of {progress.start}; keep at most "
            f"{progress.start}, or a percentage of the start, such as '50 %'"
        )
    return target


def _share(progress: Progress, steps: int | None) -> float:
    total = steps if steps is not None else progress.total
    if total is None:
        raise ScheduleError(
            "this schedule needs the number of steps, which is not set: give the schedule steps=, "
            "or, for PruneWhileTraining, give total= beside every="
        )
    return min(progress.step / total, 1.0)


# Percentages are exact fractions: 57.5 % of 100 is 57.5, whereas in floats 0.575 * 100 is less.


def percentage(text: str) -> Fraction | None:
    """Return the number before the percent sign as an exact fraction; None if there is none."""
    number = text.strip()
    try:
        near = float(number[:-1])
        if not number.endswith("%") or not isfinite(near):
            return None
        # A Fraction stores every digit, and 1e-999999999 has too many; its float is 0, so use that.
        return Fraction(number[:-1]) if near else Fraction(0)
    except ValueError:
        return None


def _part(by: Amount, start: int) -> int:
    """Return how many members to remove per step: a count, or a percentage of `start`, floored."""
    if isinstance(by, int) and not isinstance(by, bool) and by > 0:
        return by
    return floor(_percentage_by(by) * start / 100)


def _percentage_by(by: Amount) -> Fraction:
    """Return `by` as the exact percentage to remove at a step, above 0 and at most 100."""
    percent = percentage(str(by))
    if percent is None or not 0 < percent <= 100:
        raise ScheduleError(
            "by= is what to remove at each step, above 0: a percentage such as '0.5 %', or in a "
            f"linear schedule a count such as 5; got {by!r}"
        )
    return percent


def _check_steps(steps: int | None, by: Amount | None = None) -> None:
    if steps is None:
        return
    if by is not None:
        raise ScheduleError(
            f"by= determines the number of steps; leave out one of by={by!r} and steps={steps!r}"
        )
    if steps < 1:
        raise ScheduleError(
            f"steps= is a count, 1 or more; got {steps!r}. Leave it out for the run's own total."
        )
