"""How fast: pure functions from Progress to how many members to keep. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor, isfinite
from numbers import Integral, Real
from typing import Any

from sentei.errors import ScheduleError


@dataclass(frozen=True)
class Progress:
    """Where a run stands when a step is proposed.

    Attributes:
        step: number of the step being proposed, from 1; an undone step does not advance it.
        total: number of steps the run will take, if that is known.
        start: members alive at the start of the run, in the schedule's own scope.
        remaining: members alive now, in that scope.
        undone: steps undone since the start of the run; never reset.
        starts: members alive at the start of the run in each group that has become smaller since.
        emptied: members at the start of the run in groups that are gone altogether, by kind.
    """

    step: int
    total: int | None
    start: int
    remaining: int
    undone: int = 0
    starts: Mapping[Any, int] = field(default_factory=dict)
    emptied: Mapping[str, int] = field(default_factory=dict)


Schedule = Callable[[Progress], int]
Amount = int | str


@dataclass(frozen=True)
class Named:
    """A schedule with the words it was asked for in, for messages and the journal."""

    words: str
    keep: Callable[[Progress], int] = field(compare=False)

    def __call__(self, progress: Progress) -> int:
        """How many to keep."""
        return self.keep(progress)

    def __repr__(self) -> str:
        return self.words


def amount(keep: Amount, start: int) -> int:
    """How many to keep: a count, or `"40 %"` of `start`, rounded to the nearest, halves up.

    Raises:
        ScheduleError: negative, over 100 %, or not an amount.
    """
    if isinstance(keep, int) and not isinstance(keep, bool):
        if keep < 0:
            raise ScheduleError(f"a count to keep is 0 or more; got {keep}")
        return keep
    text = str(keep).strip()
    try:
        return amount(int(text), start)
    except ValueError:
        percent = _percentage(text)
    if percent is None or not 0 <= percent <= 100:
        raise ScheduleError(
            f"an amount to keep is a count like 40 or a percentage like '40 %' of the start, "
            f"from 0 to 100; got {keep!r}"
        )
    return floor(percent * start / 100 + Fraction(1, 2))


def one_at_a_time() -> Schedule:
    """One member goes at each step."""
    return Named("one_at_a_time()", lambda progress: max(progress.remaining - 1, 0))


def one_shot(keep: Amount) -> Schedule:
    """Everything goes in the first step, down to `keep`."""
    amount(keep, 100)
    return Named(
        f"one_shot({keep!r})",
        lambda progress: min(_target(keep, progress), progress.remaining),
    )


def linear(keep: Amount = 0, steps: int | None = None, *, by: Amount | None = None) -> Schedule:
    """The same number goes at each step, down to `keep` at the last.

    Args:
        keep: how many are left at the end.
        steps: number of steps; the run's own total if left out.
        by: how many go at each step, a count or a percentage of the start, rounded down (so that
            none go where it is less than one); then there are as many steps as it takes.

    Raises:
        ScheduleError: an argument that cannot be, or both `steps` and `by`.
    """
    _check_steps(steps, by)
    if by is None:
        return _falling("linear", keep, steps, lambda share: 1 - share)
    amount(keep, 100)
    _part(by, 100)

    def scheduled(progress: Progress) -> int:
        gone = progress.step * _part(by, progress.start)
        return min(max(progress.start - gone, _target(keep, progress)), progress.remaining)

    return Named(f"linear({keep!r}, by={by!r})", scheduled)


def cubic(keep: Amount, steps: int | None = None) -> Schedule:
    """Most goes early: what is still to go falls with the cube of the steps left.

    Source: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1.
    """
    return _falling("cubic", keep, steps, lambda share: (1 - share) ** 3)


def geometric(keep: Amount = 1, steps: int | None = None, *, by: Amount | None = None) -> Schedule:
    """The same part of what remains goes at each step; `keep` has to be at least one.

    Args:
        keep: how many are left at the end.
        steps: number of steps; the run's own total if left out.
        by: the part of what remains that goes at each step, such as "0.5 %"; then there are as many
            steps as it takes.

    Raises:
        ScheduleError: an argument that cannot be, or both `steps` and `by`.
    """
    _check_steps(steps, by)
    if amount(keep, 10**9) == 0:
        raise ScheduleError(
            f"a geometric schedule never reaches 0; keep at least one, not {keep!r}"
        )
    each = None if by is None else float(_going(by))

    def scheduled(progress: Progress) -> int:
        target = _target(keep, progress)
        if target == 0:
            raise ScheduleError(
                f"a geometric schedule never reaches 0: {keep!r} of {progress.start} is none"
            )
        if each is None:
            part = (target / progress.start) ** _share(progress, steps)
        else:
            part = (1 - each / 100) ** progress.step
        return min(max(floor(progress.start * part + 0.5), target), progress.remaining)

    words = f"steps={steps}" if by is None else f"by={by!r}"
    return Named(f"geometric({keep!r}, {words})", scheduled)


def fsa(keep: Amount, mu: float = 10.0, steps: int | None = None, finish: float = 0.5) -> Schedule:
    """Feature selection with annealing: fast at first, the target reached at `finish` of the steps.

    M_e = k + (M - k) · max(0, (1 - p) / (1 + mu · p)) with p = e / (finish · steps).

    Source: Barbu, She, Ding & Gramajo 2017, eq. 3, where `finish` is one half; their own C++ code
    takes 0.7.

    Args:
        keep: k, how many are left at the end.
        mu: 0 is linear; the larger, the more goes early.
        steps: N_iter; the run's own total if left out.
        finish: part of the steps after which the target is reached.

    Raises:
        ScheduleError: an argument that cannot be.
    """
    if not _is_number(mu) or not _is_number(finish) or not mu >= 0 or not 0 < finish <= 1:
        raise ScheduleError(
            f"fsa takes numbers mu >= 0 and 0 < finish <= 1; got mu={mu!r}, finish={finish!r}"
        )

    def left(share: float) -> float:
        done = share / finish
        return max(0.0, (1 - done) / (1 + mu * done))

    return _falling(f"fsa[mu={mu}, finish={finish}]", keep, steps, left)


def levels(*percents: float, then: Schedule | None = None) -> Schedule:
    """A part of what is alive is kept at each step; after an undo the next, finer part.

    Args:
        percents: percent of the alive to keep, rising: `levels(25, 50, 70, then=one_at_a_time())`.
            At least one member goes at each step.
        then: what follows when all levels have been undone; without it nothing more is proposed.

    Raises:
        ScheduleError: no rising percentages.
    """
    if (
        not percents
        or any(not _is_number(p) or not 0 <= p < 100 for p in percents)
        or list(percents) != sorted(percents)
    ):
        raise ScheduleError(f"levels are rising percentages below 100 to keep; got {percents}")

    exact = [Fraction(str(percent)) for percent in percents]

    def scheduled(progress: Progress) -> int:
        if progress.undone >= len(percents):
            return then(progress) if then is not None else progress.remaining
        kept = floor(exact[progress.undone] * progress.remaining / 100)
        return max(min(kept, progress.remaining - 1), 0)

    return Named(f"levels({', '.join(map(str, percents))}, then={then!r})", scheduled)


def multiples_of(number: int, schedule: Schedule) -> Schedule:
    """What another schedule keeps, rounded up to a multiple: widths that fill a vector unit.

    Eight float32 are computed at once on most processors, so that a layer with 25 channels takes as
    long as one with 32. Rank with `within="group"`, so that each layer's width is rounded.

    Args:
        number: what widths are multiples of, such as 8.
        schedule: how many to keep at least, with a target of its own: `linear("60 %")`. One that
            counts from what is left, as `one_at_a_time()` does, would never get below a multiple.

    Raises:
        ScheduleError: a number below 1.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ScheduleError(f"widths are multiples of a count, 1 or more; got {number!r}")

    def scheduled(progress: Progress) -> int:
        return min(-(-schedule(progress) // number) * number, progress.remaining)

    return Named(f"multiples_of({number}, {schedule!r})", scheduled)


def _falling(
    name: str, keep: Amount, steps: int | None, left: Callable[[float], float]
) -> Schedule:
    """A schedule on which `left(share of steps taken)` of what is to go is still there."""
    amount(keep, 100)
    _check_steps(steps)

    def scheduled(progress: Progress) -> int:
        target = _target(keep, progress)
        exact = target + (progress.start - target) * left(_share(progress, steps))
        return min(floor(exact + 0.5), progress.remaining)

    return Named(f"{name}({keep!r}, steps={steps})", scheduled)


def _target(keep: Amount, progress: Progress) -> int:
    target = amount(keep, progress.start)
    if target > progress.start:
        raise ScheduleError(
            f"a schedule cannot rise: keep {target} of {progress.start}; keep at most "
            f"{progress.start}, or a part of whatever there is, such as '50 %'"
        )
    return target


def _share(progress: Progress, steps: int | None) -> float:
    total = steps if steps is not None else progress.total
    if total is None:
        raise ScheduleError(
            "this schedule needs to know how many steps there are, and nobody has said it: give "
            "the schedule steps=, or, while a network trains, say total= beside every="
        )
    return min(progress.step / total, 1.0)


# What is asked for, read exactly: 57.5 % of 100 is 57.5, where 0.575 * 100 is below it.


def _percentage(text: str) -> Fraction | None:
    """The number before a text's percent sign, exactly as it is written; None if there is none."""
    number = text.strip()
    try:
        near = float(number[:-1])
        if not number.endswith("%") or not isfinite(near):
            return None
        # A Fraction writes all digits out, and 1e-999999999 has many: as a float it is 0.
        return Fraction(number[:-1]) if near else Fraction(0)
    except ValueError:
        return None


def _part(by: Amount, start: int) -> int:
    """How many go at a step: a count, or a percentage of the start, rounded down."""
    if isinstance(by, int) and not isinstance(by, bool) and by > 0:
        return by
    return floor(_going(by) * start / 100)


def _going(by: Amount) -> Fraction:
    """The percentage that goes at a step."""
    percent = _percentage(str(by))
    if percent is None or not 0 < percent <= 100:
        raise ScheduleError(
            "by= is what goes at each step, above 0: a percentage such as '0.5 %', or in a linear "
            f"schedule a count such as 5; got {by!r}"
        )
    return percent


def _check_steps(steps: int | None, by: Amount | None = None) -> None:
    if steps is None:
        return
    if by is not None:
        raise ScheduleError(
            f"by= settles how many steps it takes; leave out one of by={by!r} and steps={steps!r}"
        )
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise ScheduleError(
            f"steps= is a count, 1 or more; got {steps!r}. Leave it out for the run's own total."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
