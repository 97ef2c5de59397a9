"""Who takes over a removed unit's work: an affine mix of those that stay, fitted on the samples.

A repair is a function (probe, group, units, mask, alone=False) that gives each listener a mix (k,
size + 1) for `network.folding.fold_`: a row for each unit that goes, its share for each unit that
stays, and a constant. With `alone=True` each is mixed as if only that one left. All read the same
second moments of the units, which are gathered in one pass and stay as they are while units of the
group go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from sentei.criteria.repairs.affine import affine, least_squares, mean, twin
from sentei.criteria.repairs.least_loss import least_loss
from sentei.errors import unknown
from sentei.network.units import Listener

Repair = Callable[..., Mapping[Listener, Tensor]]

REPAIRS: dict[str, Repair] = {
    "affine": affine,
    "least_loss": least_loss,
    "least_squares": least_squares,
    "mean": mean,
    "twin": twin,
}


def repair(name: str | Repair) -> Repair:
    """The repair of this name; a function is its own.

    Raises:
        ValueError: there is none, with the nearest name.
    """
    if callable(name):
        return name
    known = name.replace("-", "_")
    if known not in REPAIRS:
        raise ValueError(unknown("repair", name, REPAIRS))
    return REPAIRS[known]
