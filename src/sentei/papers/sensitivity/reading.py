"""Shared helpers to read results: accuracies, epochs to an accuracy, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from sentei.jobs.results import Result
from sentei.papers.claims import Paired, Verdict, spread

Runs = Mapping[str, Sequence[Result]]
SURE = 0.05


def accuracies(runs: Sequence[Result], part: str = "test") -> list[float]:
    """Return the accuracy of every run."""
    return [run["accuracy"][part] for run in runs]


def reached(run: Result, accuracy: float) -> float:
    """Return the first epoch with this validation accuracy, or infinity if there is none."""
    return next((epoch for epoch, right, _ in run["curve"] if right >= accuracy), float("inf"))


def verdict(told: Paired, seen: Verdict = "holds", not_seen: Verdict = "does not hold") -> Verdict:
    """Return the verdict on whether a mean difference is above zero and significant.

    It cannot be judged from a single pair.

    Args:
        told: the paired differences.
        seen: the verdict if the mean is significantly above zero.
        not_seen: the verdict otherwise.
    """
    if told.pairs < 2:
        return "cannot be judged"
    return seen if told.mean > 0 and told.p < SURE else not_seen


def after(epochs: Sequence[float]) -> str:
    """Format the epochs until an accuracy was reached, with the number of seeds that never did."""
    found = [epoch for epoch in epochs if isfinite(epoch)]
    never = len(epochs) - len(found)
    if not found:
        return "never"
    return spread(found, 0) + f", never in {never}" * bool(never)
