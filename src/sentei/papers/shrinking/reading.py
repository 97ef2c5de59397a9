"""Shared helpers to read results: curves by criterion, their means, and verdicts."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from sentei.jobs.results import Result
from sentei.papers.claims import Verdict, spread

Runs = dict[str, list[Result]]
BF, G1, G2, FULL = "ablation", "taylor1", "taylor2-diagonal", "taylor2"
ORDERS = {BF: "BF", G1: "G1", G2: "G2", FULL: "exact G2"}
DROPS = (0.01, 0.02, 0.05)


def curve(run: Result, criterion: str, way: str = "iterative") -> dict[str, Any]:
    """Return what was measured after each removal by a criterion."""
    return run["curves"][f"{way} {criterion}"]


def mean(values: list[float]) -> float:
    """Return the mean over a removal curve without its first point, the unpruned network."""
    return fmean(values[1:])


def verdict(holds: bool, in_part: bool = False) -> Verdict:
    """Return the verdict as text."""
    return "holds" if holds else ("holds in part" if in_part else "does not hold")


def each(runs: list[Result], digits: int, scale: float = 1.0, **options: Any) -> str:
    """Format the mean over the curve for BF, G1, G2 and exact G2, each with its deviation."""
    way, kind = options.get("way", "iterative"), options.get("kind", "error")
    parts = []
    for criterion, short in ORDERS.items():
        values = [mean(curve(run, criterion, way)[kind]) for run in runs]
        parts.append(f"{short} {spread(values, digits, scale)}")
    return "; ".join(parts)


def removable(accuracy: list[float], drop: float) -> int:
    """Return how many units can be removed before accuracy first falls by more than `drop`."""
    fallen = (n for n, value in enumerate(accuracy) if value < accuracy[0] - drop)
    return next(fallen, len(accuracy)) - 1
