"""Every criterion on one network, with and without repair and retraining: who prunes best."""

from __future__ import annotations

import copy
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria import CRITERIA, Probe, Random, Trajectory, ablation, scores
from sentei.criteria.agreement import spearman
from sentei.criteria.repairs.table import repair
from sentei.errors import CriterionError, PruningError, unknown
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.pruning.loop import prune
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import linear
from sentei.samples import Samples
from sentei.training import FineTune, Recipe

log = logging.getLogger("sentei")


@dataclass(frozen=True)
class Way:
    """A criterion, who takes over, and how much retraining follows each cut.

    Attributes:
        criterion: a name.
        repair: a name, or None.
        retrain: epochs after every step; may be 0.
    """

    criterion: str
    repair: str | None
    retrain: float

    def __str__(self) -> str:
        mended = f" + {self.repair.replace('_', ' ')}" if self.repair else ""
        return f"{self.criterion}{mended}" + (", retrained" if self.retrain else "")


@dataclass(frozen=True)
class Curve:
    """What one way did, once.

    Attributes:
        way: which.
        seed: of samples, random scores and retraining.
        left: units left at each step, the untouched network's first.
        accuracy: at each of them.
        agreement: Spearman's rank correlation of the first scores with exact ablation.
    """

    way: Way
    seed: int
    left: tuple[int, ...]
    accuracy: tuple[float, ...]
    agreement: float

    @property
    def area(self) -> float:
        """Mean accuracy over the removal: area under the curve, as a part of its width."""
        left = torch.tensor(self.left, dtype=torch.float64)
        accuracy = torch.tensor(self.accuracy, dtype=torch.float64)
        width = left[0] - left[-1]
        return float(torch.trapezoid(accuracy, -left) / width) if width else self.accuracy[0]


def ways(
    criteria: Sequence[str] | None = None,
    repairs: Sequence[str | None] = (None, "least_squares"),
    retrain: Sequence[float] = (0,),
) -> list[Way]:
    """Every criterion with every repair, without and with retraining.

    Raises:
        ValueError: an unknown criterion or repair, with the nearest.
    """
    for name in criteria or ():
        if name not in CRITERIA:
            raise ValueError(unknown("criterion", name, CRITERIA))
    for name in repairs:
        if name is not None:
            repair(name)
    every = criteria or CRITERIA
    return [Way(c, r, epochs) for c in every for r in repairs for epochs in retrain]


def compare(
    model: nn.Module,
    learn: Samples,
    judge: Samples,
    todo: Sequence[Way],
    *,
    keep: str = "10 %",
    steps: int = 9,
    samples: int = 5_000,
    seeds: int | Sequence[int] = 3,
    mask: Mask | None = None,
    trajectory: Trajectory | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Curve]:
    """Prune a copy of the network in every way.

    A criterion that cannot score this network's units (one for synapses, say, or one that asks for
    a trajectory of training) is left out, which is logged with its reason.

    Args:
        model: stays as it is.
        learn: what criteria look at and retraining learns from.
        judge: what accuracy is measured on.
        todo: see `ways`.
        keep: how many units are left at the end.
        steps: how many cuts that takes; scores are computed anew for each.
        samples: how many of `learn` a criterion looks at, drawn anew for each seed.
        seeds: how often, or which.
        mask: what is dead to begin with, and stays dead.
        trajectory: what training did to `model`, for criteria that ask. Retraining adds nothing
            to it.
        on_progress: called with (done, of how many, the way).

    Returns:
        The curves, by way and seed.
    """
    found, count = [], 0
    refused: set[str] = set()
    setting = _Setting(model, learn, judge, keep, steps, mask, trajectory)
    which = range(seeds) if isinstance(seeds, int) else seeds
    for seed in which:
        looked_at = _drawn(learn, samples, seed)
        exact = _first_scores(Probe(model, looked_at), "ablation", seed)
        for way in todo:
            count += 1
            if way.criterion not in refused:
                try:
                    found.append(_curve(setting, way, seed, looked_at, exact))
                except CriterionError as error:
                    refused.add(way.criterion)
                    log.warning("%s is left out: %s", way.criterion, error)
                except PruningError as error:
                    log.warning("%s is left out: %s", way, error)
            if on_progress is not None:
                on_progress(count, len(which) * len(todo), str(way))
    return found


@dataclass(frozen=True)
class Row:
    """A way over all seeds: means.

    Attributes:
        way: which.
        area, agreement: see `Curve`.
        deviation: of the area.
        half: accuracy at the step nearest to half of the units.
        seeds: how many.
    """

    way: Way
    area: float
    deviation: float
    half: float
    agreement: float
    seeds: int


def rows(curves: Sequence[Curve]) -> list[Row]:
    """One row a way, the largest area first."""
    found = []
    for way in dict.fromkeys(curve.way for curve in curves):
        own = [curve for curve in curves if curve.way == way]
        areas = [curve.area for curve in own]
        found.append(
            Row(
                way,
                statistics.fmean(areas),
                statistics.stdev(areas) if len(areas) > 1 else 0.0,
                statistics.fmean(_halfway(curve) for curve in own),
                statistics.fmean(curve.agreement for curve in own),
                len(own),
            )
        )
    return sorted(found, key=lambda row: -row.area)


@dataclass(frozen=True, eq=False)
class _Setting:
    """What all ways have in common: see `compare`."""

    model: nn.Module
    learn: Samples
    judge: Samples
    keep: str
    steps: int
    mask: Mask | None
    trajectory: Trajectory | None

    def copy(self) -> tuple[nn.Module, Trajectory | None]:
        """The network to be pruned, with a record of its own."""
        model = copy.deepcopy(self.model)
        if self.trajectory is None:
            return model, None
        past = Trajectory(model)
        past.load_state_dict(self.trajectory.state_dict())
        return model, past


def _curve(setting: _Setting, way: Way, seed: int, looked_at: Samples, exact: Tensor) -> Curve:
    untouched = Probe(setting.model, looked_at, trajectory=setting.trajectory)
    told = _first_scores(untouched, way.criterion, seed)
    worker, past = setting.copy()
    probe = Probe(worker, looked_at, trajectory=past)
    schedule = linear(setting.keep, setting.steps)
    propose = ranked(_criterion(way.criterion, seed), schedule, repair=way.repair)
    recipe = Recipe(epochs=max(1, round(way.retrain)), seed=seed)
    run = prune(
        worker,
        find_units(worker, probe.example),
        probe,
        propose,
        retrain=FineTune(setting.learn, recipe) if way.retrain else None,
        evaluate=setting.judge,
        mask=setting.mask,
    )
    measured = [step.measured for step in run]
    left = tuple(m.units for m in measured)
    accuracy = tuple(float("nan") if m.accuracy is None else m.accuracy for m in measured)
    return Curve(way, seed, left, accuracy, spearman(told, exact))


def _first_scores(probe: Probe, name: str, seed: int) -> Tensor:
    """Scores of all units of the untouched network, group by group."""
    criterion = ablation if name == "ablation" else _criterion(name, seed)
    groups = find_units(probe.model, probe.example)
    return torch.cat([scores(criterion, probe, group) for group in groups])


def _criterion(name: str, seed: int) -> Any:
    return Random(seed) if name == "random" else CRITERIA[name]


def _drawn(samples: Samples, count: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return samples.at(torch.randperm(samples.rows, generator=generator)[:count])


def _halfway(curve: Curve) -> float:
    middle = curve.left[0] / 2
    nearest = min(range(len(curve.left)), key=lambda at: abs(curve.left[at] - middle))
    return curve.accuracy[nearest]
