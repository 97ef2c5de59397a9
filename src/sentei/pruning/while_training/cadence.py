"""Decide after which optimizer updates a pruner proposes a cut; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

from sentei.arguments import checked
from sentei.errors import ScheduleError


@dataclass(frozen=True)
class Cadence:
    """The updates after which a cut is proposed: every `every` updates, up to update `last`.

    Attributes:
        every: updates from one proposal to the next.
        last: no proposal is made after this update; infinity if the end is unknown.
    """

    every: int
    last: float

    @property
    def proposals(self) -> int | None:
        """Number of proposals in the whole training; None if the end is unknown."""
        return None if self.last == inf else int(self.last) // self.every

    def falls_on(self, update: int) -> bool:
        """Return whether a cut is proposed after this update, counted from 1."""
        return update % self.every == 0 and update <= self.last


@checked
def cadence(
    every: int | str, total: int | str | None, steps_per_epoch: int | None, finish: float
) -> Cadence:
    """Make a Cadence from the arguments of `PruneWhileTraining`.

    Args:
        every: updates between proposals, or epochs such as "2 epochs".
        total: number of updates in all, or of epochs; None if unknown.
        steps_per_epoch: updates in an epoch; None if unknown.
        finish: the part of `total`, above 0 and at most 1, after which no more proposals are made.

    Raises:
        ScheduleError: an argument is out of its range, or no update would have a
            proposal.
    """
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise ScheduleError(
            f"steps_per_epoch= is a number of updates from 1; got {steps_per_epoch!r}"
        )
    between = _updates("every", every, steps_per_epoch)
    updates = None if total is None else _updates("total", total, steps_per_epoch)
    if not 0 < finish <= 1 or (finish < 1 and updates is None):
        raise ScheduleError(
            f"finish= is a part of total=, above 0 and at most 1; got finish={finish!r}, "
            f"total={total!r}"
        )
    # Rounded, since 0.7 * 2750 is 1924.9999… and update 1925 belongs to the first 70 %.
    last = inf if updates is None else round(finish * updates, 6)
    if last < between:
        raise ScheduleError(
            f"nothing would ever be pruned: the first proposal comes after {between} updates, and "
            f"none may come after {last:g}; choose a smaller every="
        )
    return Cadence(between, last)


def _updates(what: str, given: int | str, steps_per_epoch: int | None) -> int:
    """Return a number of updates from a count, or from a text such as "2 epochs"."""
    match = re.fullmatch(r"\s*(\d+)\s*epochs?\s*", given) if isinstance(given, str) else None
    if match is not None and steps_per_epoch is None:
        raise ScheduleError(f"{what}={given!r} counts epochs: give steps_per_epoch=, too")
    if match is not None and steps_per_epoch is not None:
        given = int(match[1]) * steps_per_epoch
    if isinstance(given, str) or given < 1:
        raise ScheduleError(
            f"{what}= is a number of updates from 1, or epochs such as '2 epochs'; got {given!r}"
        )
    return given
