"""Criteria: functions (probe, group) -> scores of a group's members; the lowest is removed first.

A criterion is a function, or a frozen dataclass with `__call__` if it has settings. To add one,
write it and register it under a name in `CRITERIA`.

May import `criteria.repairs`, `probe`, and all that it may import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria.ablation import Ablation, ablation
from sentei.criteria.activity import (
    SietsmaDow,
    activation,
    angles,
    badness,
    contribution,
    distinctiveness,
    sietsma_dow,
    variance,
)
from sentei.criteria.brain_surgeon import Obs, obs
from sentei.criteria.change import WeightChange, weight_change
from sentei.criteria.derivatives import (
    Obd,
    Taylor1,
    Taylor2,
    obd,
    skeletonization,
    taylor1,
    taylor2,
)
from sentei.criteria.layer_inputs import wanda
from sentei.criteria.movement import gradient, karnin, wsf
from sentei.criteria.repairs.affine import (
    affine,
    least_squares,
    least_squares_by_column,
    mean,
    twin,
)
from sentei.criteria.repairs.least_loss import LeastLoss, least_loss
from sentei.criteria.repairs.table import REPAIRS, Repair, repair
from sentei.criteria.repairs.where_possible import WherePossible
from sentei.criteria.surfaces import approximations, surface
from sentei.criteria.thresholds import Thresholded
from sentei.criteria.trajectory import Trajectory
from sentei.criteria.weights import Fixed, Random, fixed, magnitude, random
from sentei.errors import CriterionError, unknown
from sentei.network.units import Group
from sentei.probe.probe import Probe

__all__ = [
    "CRITERIA",
    "REPAIRS",
    "Ablation",
    "Criterion",
    "Fixed",
    "LeastLoss",
    "Obd",
    "Obs",
    "Probe",
    "Random",
    "Repair",
    "SietsmaDow",
    "Taylor1",
    "Taylor2",
    "Thresholded",
    "Trajectory",
    "WeightChange",
    "ablation",
    "activation",
    "affine",
    "angles",
    "approximations",
    "badness",
    "contribution",
    "criterion",
    "distinctiveness",
    "fixed",
    "gradient",
    "karnin",
    "least_loss",
    "least_squares",
    "least_squares_by_column",
    "magnitude",
    "mean",
    "obd",
    "obs",
    "random",
    "repair",
    "scores",
    "sietsma_dow",
    "skeletonization",
    "surface",
    "taylor1",
    "taylor2",
    "twin",
    "variance",
    "wanda",
    "weight_change",
    "wsf",
]

Criterion = Annotated[Callable[[Probe, Group], Tensor], "a function (probe, group) -> scores"]

CRITERIA: dict[str, Criterion] = {
    "ablation": ablation,
    "ablation-affine": Ablation(WherePossible("affine")),
    "ablation-least-squares": Ablation("least_squares"),
    "activation": activation,
    "badness": badness,
    "contribution": contribution,
    "distinctiveness": distinctiveness,
    "gradient": gradient,
    "karnin": karnin,
    "magnitude": magnitude,
    "obd": obd,
    "obs": obs,
    "random": random,
    "sietsma-dow": sietsma_dow,
    "skeletonization": skeletonization,
    "taylor1": taylor1,
    "taylor1-absolute": Taylor1("absolute"),
    "taylor1-per-sample": Taylor1("per-sample"),
    "taylor2": taylor2,
    "taylor2-diagonal": Taylor2("diagonal"),
    "variance": variance,
    "wanda": wanda,
    "weight_change": weight_change,
    "weight_change-angle": WeightChange("angle"),
    "weight_change-l2": WeightChange("l2"),
    "weight_change-mean_abs": WeightChange("mean_abs"),
    "wsf": wsf,
}


@checked
def criterion(name: str | Criterion, seed: int = 0) -> Criterion:
    """Return the criterion registered under a name; a function is returned unchanged.

    Args:
        name: a name of `CRITERIA`, or a criterion.
        seed: seed of the scores of "random"; no other criterion has one.

    Raises:
        ValueError: no criterion has this name; suggests the nearest one.
    """
    if callable(name):
        return name
    if name not in CRITERIA:
        raise ValueError(unknown("criterion", name, CRITERIA))
    return Random(seed) if name == "random" and seed else CRITERIA[name]


@checked
def scores(name: str | Criterion, probe: Probe, group: Group) -> Tensor:
    """Score a group's members with a criterion and check the result, (size,) float64 on the CPU.

    Raises:
        CriterionError: the criterion does not return one number per member, or returns NaN.
    """
    function = criterion(name)
    label = name if isinstance(name, str) else getattr(function, "__name__", repr(function))
    values = function(probe, group)
    if not isinstance(values, Tensor) or values.shape != (group.size,):
        form = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise CriterionError(
            f"criterion {label!r} must return one score for each of the {group.size} members of "
            f"{group.name!r}, a tensor of shape ({group.size},); it returned {form}"
        )
    values = values.detach().to("cpu", torch.float64)
    if values.isnan().any():
        raise CriterionError(
            f"criterion {label!r} must return numbers; the score of member "
            f"{int(values.isnan().nonzero()[0])} of {group.name!r} is NaN"
        )
    return values
