"""The repairs by name: functions that fit removed units by the remaining ones on the samples.

A repair is a function (probe, group, units, mask, alone=False) that returns for each listener a mix
(k, size + 1) for `network.folding.fold_`: a row for each removed unit, with a coefficient for each
remaining unit and a constant; or one of the units' columns. With `alone=True` each unit is fitted
as if it alone were removed. All repairs use second moments of the units, which are computed in one
pass and do not change while units of the group are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from torch import Tensor

from sentei.arguments import checked
from sentei.criteria.repairs.affine import (
    affine,
    least_squares,
    least_squares_by_column,
    mean,
    twin,
)
from sentei.criteria.repairs.least_loss import least_loss
from sentei.errors import unknown
from sentei.network.units import Listener

Repair = Annotated[
    Callable[..., Mapping[Listener, Tensor]], "a function (probe, group, units, mask) -> mix"
]

REPAIRS: dict[str, Repair] = {
    "affine": affine,
    "least_loss": least_loss,
    "least_squares": least_squares,
    "least_squares_by_column": least_squares_by_column,
    "mean": mean,
    "twin": twin,
}


@checked
def repair(name: str | Repair) -> Repair:
    """Return the repair registered under a name; a function is returned unchanged.

    Hyphens in the name count as underscores.

    Raises:
        ValueError: no repair has this name; suggests the nearest one.
    """
    if callable(name):
        return name
    key = name.replace("-", "_")
    if key not in REPAIRS:
        raise ValueError(unknown("repair", name, REPAIRS))
    return REPAIRS[key]
