"""What is read off results again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from sentei.papers.claims import Paired, Verdict, spread
from sentei.papers.jobs import Result

Runs = Mapping[str, Sequence[Result]]
SURE = 0.05


def accuracies(runs: Sequence[Result], part: str = "test") -> list[float]:
    """Accuracy of every seed."""
    return [run["accuracy"][part] for run in runs]


def reached(run: Result, accuracy: float) -> float:
    """The first epoch on the validation curve with this accuracy; infinity if there is none."""
    return next((epoch for epoch, right, _ in run["curve"] if right >= accuracy), float("inf"))


def verdict(told: Paired, seen: Verdict = "holds", not_seen: Verdict = "does not hold") -> Verdict:
    """Whether a mean above zero is more than chance; a single pair says nothing."""
    if told.pairs < 2:
        return "cannot be judged"
    return seen if told.mean > 0 and told.p < SURE else not_seen


def after(epochs: Sequence[float]) -> str:
    """Epochs until something was reached; says how many seeds never did."""
    found = [epoch for epoch in epochs if isfinite(epoch)]
    never = len(epochs) - len(found)
    if not found:
        return "never"
    return spread(found, 0) + f", never in {never}" * bool(never)
