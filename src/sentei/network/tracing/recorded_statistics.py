"""Statistics that norms divide by, as places of a recorded pass that replays answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count
from typing import Any

from sentei.network.calls import Also, Call, Use
from sentei.network.origins import Origins
from sentei.network.statistics import statistic
from sentei.network.tracing.inputs import Place

_STATISTIC = "^"  # what the places of statistics begin with; their columns are what is reduced


def is_statistic(name: str) -> bool:
    """Return whether a name of a place is that of a statistic."""
    return name.startswith(_STATISTIC)


def recognising(origins: Origins, kept: Collection[Place] | None) -> Also:
    """Return what recognises statistics of activations in one pass; it numbers them.

    Args:
        origins: tells activations from tensors that are computed from weights.
        kept: the places of those that count; None for all.
    """
    numbers = count()

    def also(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Call | None:
        found = statistic(function, args, kwargs)
        if found is None or origins.of(found.input) is not None:
            return None
        name = f"{_STATISTIC}{next(numbers)}"
        if kept is not None and (name, 0) not in kept:
            return None
        use = Use((*found.given,), None, columns=0, axis=found.dim, reads=found.reads)
        return Call(
            *(0, found.function, found.given, use, found.input, found.dim),
            *(name, (name,), True),
        )

    return also
