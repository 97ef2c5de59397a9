"""How results are read: curves by criterion, what a curve comes to, and verdicts."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from sentei.papers.claims import Verdict, spread
from sentei.papers.jobs import Result

Runs = dict[str, list[Result]]
BF, G1, G2, FULL = "ablation", "taylor1", "taylor2-diagonal", "taylor2"
ORDERS = {BF: "BF", G1: "G1", G2: "G2", FULL: "exact G2"}
DROPS = (0.01, 0.02, 0.05)


def curve(run: Result, criterion: str, way: str = "iterative") -> dict[str, Any]:
    """What was measured while units went."""
    return run["curves"][f"{way} {criterion}"]


def mean(values: list[float]) -> float:
    """Over a removal curve, its start left out: the state after each of the removals."""
    return fmean(values[1:])


def verdict(holds: bool, in_part: bool = False) -> Verdict:
    """In words."""
    return "holds" if holds else ("holds in part" if in_part else "does not hold")


def each(runs: list[Result], digits: int, scale: float = 1.0, **asked: Any) -> str:
    """The mean over a curve for BF, G1, G2 and exact G2, each with its spread."""
    way, kind = asked.get("way", "iterative"), asked.get("kind", "error")
    parts = []
    for criterion, short in ORDERS.items():
        values = [mean(curve(run, criterion, way)[kind]) for run in runs]
        parts.append(f"{short} {spread(values, digits, scale)}")
    return "; ".join(parts)


def removable(accuracy: list[float], drop: float) -> int:
    """Units that can go before accuracy is `drop` below its start, for the first time."""
    low = (n for n, value in enumerate(accuracy) if value < accuracy[0] - drop)
    return next(low, len(accuracy)) - 1
