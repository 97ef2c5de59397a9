"""Version 2: count the units that stopped learning, and start anew with fewer."""

from __future__ import annotations

from typing import Any

from sentei.papers.sensitivity.checks import Check, Counting
from sentei.papers.sensitivity.runs import course, data_of
from sentei.training import Recipe


def rebuilt(
    seed: int, start: int, epochs: int, tolerance: float, every: int, step: str = "one"
) -> dict[str, Any]:
    """Train, count, and start anew with fewer, until accuracy would fall.

    Args:
        seed: of the first network; each restart has another.
        start: hidden units of the first network.
        epochs: of each training.
        tolerance: how much validation accuracy may be lost against the best so far.
        every: epochs between checks.
        step: "one" unit fewer each time, as the paper has it, or as many as were "counted".

    Returns:
        Sizes tried with their accuracies, and the smallest within the tolerance.
    """
    data = data_of("default", seed)
    tried, size, best = [], start, 0.0
    while size >= 1:
        recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=256, seed=seed + len(tried))
        watch = Counting(Check(every).propose(epochs), only_count=True)
        told = course(f"16-{size}-26:sigmoid", data, recipe, Check(every, way="mask"), watch)
        counted = len(watch.seen)
        tried.append({"units": size, "counted": counted, **told["accuracy"]})
        best = max(best, told["accuracy"]["validation"])
        if told["accuracy"]["validation"] < best - tolerance or not counted:
            break
        size -= 1 if step == "one" else counted
    good = [row for row in tried if row["validation"] >= best - tolerance]
    return {"tried": tried, "smallest": min(good, key=lambda row: row["units"])}
