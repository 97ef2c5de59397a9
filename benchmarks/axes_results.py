"""The results of `transformers_by_axis.py`: the names in them, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
FILE = Path(__file__).parent / "transformers_by_axis.jsonl"
LANGUAGE, VIT = "language model", "ViT"
UNITS, HEADS, WIDTH, DEPTH = "feed-forward units", "heads", "width", "depth"
ROTATED = "width, rotated"
ALL, PATTERN, UNTOUCHED = "all by loss per byte", "n of m synapses", "untouched"
AXES = (UNITS, HEADS, WIDTH, ROTATED, DEPTH, ALL, PATTERN)
CHOSEN, REPAIRED, RANDOM, MAGNITUDE = "chosen", "repaired", "random", "magnitude"
WAYS = (CHOSEN, REPAIRED, RANDOM, MAGNITUDE)
NOT_DONE = {
    (DEPTH, REPAIRED),  # no such repair
    (ALL, MAGNITUDE),  # scores of different kinds cannot be compared
    *((ROTATED, way) for way in (RANDOM, MAGNITUDE)),  # all directions are alike to them
}
EIGHTHS = (7, 6, 4)  # of the synapses in blocks, how many stay
AS_CUT, DISTILLED = "", "distilled_"  # what names of qualities begin with


def results() -> list[Row]:
    """Return what is measured so far."""
    if not FILE.exists():
        return []
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def key(row: Row) -> tuple[Any, ...]:
    """Return what tells a result from all others."""
    return tuple(row[part] for part in ("network", "seed", "axis", "way", "eighths"))


def of(rows: Sequence[Row], axis: str, way: str, eighths: int) -> list[Row]:
    """Return the results of one cut that reached its budget, a row for each seed."""
    asked = (axis, way, eighths)
    found = [row for row in rows if (row["axis"], row["way"], row["eighths"]) == asked]
    return [row for row in found if row["parameters"] is not None]


def untouched(rows: Sequence[Row]) -> list[Row]:
    """Return the results of whole networks."""
    return of(rows, UNTOUCHED, UNTOUCHED, 8)
