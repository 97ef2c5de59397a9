"""The paper's version 2: count units that stopped learning, and restart with a smaller network."""

from __future__ import annotations

from typing import Any

from sentei.papers.sensitivity.checks import Check, Counting
from sentei.papers.sensitivity.runs import course, data_of
from sentei.training import Recipe


def rebuilt(
    seed: int, start: int, epochs: int, tolerance: float, every: int, step: str = "one"
) -> dict[str, Any]:
    """Train networks with fewer and fewer hidden units until validation accuracy falls.

    Args:
        seed: of the first network; each restart has another one.
        start: hidden units of the first network.
        epochs: epochs of each training.
        tolerance: largest loss of validation accuracy against the best so far.
        every: epochs between checks.
        step: "one" for one unit fewer each time, as in the paper; "counted" for as many units fewer
            as were counted.

    Returns:
        The sizes tried with their accuracies, and the smallest size within the tolerance.
    """
    data = data_of("default", seed)
    tried, size, best = [], start, 0.0
    while size >= 1:
        recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=256, seed=seed + len(tried))
        counting = Counting(Check(every).propose(epochs), only_count=True)
        result = course(f"16-{size}-26:sigmoid", data, recipe, Check(every, way="mask"), counting)
        counted = len(counting.seen)
        tried.append({"units": size, "counted": counted, **result["accuracy"]})
        best = max(best, result["accuracy"]["validation"])
        if result["accuracy"]["validation"] < best - tolerance or not counted:
            break
        size -= 1 if step == "one" else counted
    acceptable = [row for row in tried if row["validation"] >= best - tolerance]
    return {"tried": tried, "smallest": min(acceptable, key=lambda row: row["units"])}
