"""Read from a run's `keeping=` the values that its accuracy, loss and metrics have to reach."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from sentei.pruning.measuring import Measurement

Level = tuple[str, float]  # what is limited ("accuracy", "loss" or a metric's name), and its limit


def levels(keeping: str | None, first: Measurement) -> list[Level]:
    """Return the limits that every step of a run had to satisfy, to be drawn as lines.

    Limits on sizes, functions of the user's and limits of which only one has to hold (`any_of`)
    are not lines of a curve, and are left out.

    Args:
        keeping: the text of the run's `keeping=`, such as "accuracy_within(0.02)".
        first: the measurements before pruning, from which relative limits count.
    """
    try:
        tree = ast.parse(keeping or "", mode="eval").body
    except SyntaxError:
        return []  # the name of a function of the user's
    return list(_levels(tree, first))


def _levels(node: ast.expr, first: Measurement) -> Iterator[Level]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return
    if node.func.id == "all_of":
        for part in node.args:
            yield from _levels(part, first)
    elif node.func.id in _READ:
        given = [ast.literal_eval(part) for part in node.args]
        named = {part.arg: ast.literal_eval(part.value) for part in node.keywords if part.arg}
        level = _READ[node.func.id](first, *given, **named)
        if level is not None:
            yield level


def _within(first: Measurement, name: str, change: float, lower_is_better: bool = False) -> Any:
    start = first.metrics.get(name)
    return None if start is None else (name, start + change * (1 if lower_is_better else -1))


_READ: dict[str, Callable[..., Level | None]] = {
    "accuracy_at_least": lambda _, floor: ("accuracy", floor),
    "accuracy_within": lambda first, drop: ("accuracy", first.accuracy - drop),
    "loss_at_most": lambda _, ceiling: ("loss", ceiling),
    "loss_within": lambda first, rise: ("loss", first.loss + rise),
    "metric_at_least": lambda _, name, floor: (name, floor),
    "metric_at_most": lambda _, name, ceiling: (name, ceiling),
    "metric_within": _within,
}
