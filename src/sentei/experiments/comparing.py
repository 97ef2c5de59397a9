"""Compare criteria on one network, with and without repairs and retraining."""

from __future__ import annotations

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
from sentei.errors import CriterionError, DataError, PruningError, unknown
from sentei.losses import PerSample
from sentei.metrics import R2
from sentei.network.copying import copied
from sentei.network.mask import Mask
from sentei.network.tracing.inventory import some_units
from sentei.network.tracing.tracing import find_units
from sentei.pruning.loop import prune
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import linear
from sentei.pruning.run import Step
from sentei.samples import Samples
from sentei.training import FineTune, Recipe

log = logging.getLogger("sentei")

ACCURACY = "accuracy"


@dataclass(frozen=True)
class Way:
    """A way to prune: a criterion, a repair, and the amount of retraining after each cut.

    Attributes:
        criterion: name of the criterion.
        repair: name of the repair, or None.
        retrain: number of training epochs after every step; may be 0.
    """

    criterion: str
    repair: str | None
    retrain: float

    def __str__(self) -> str:
        repaired = f" + {self.repair.replace('_', ' ')}" if self.repair else ""
        return f"{self.criterion}{repaired}" + (", retrained" if self.retrain else "")


@dataclass(frozen=True)
class Curve:
    """Accuracy, or R², at each step of one run.

    Attributes:
        way: how the network was pruned.
        seed: seed of the choice of samples, of random scores and of retraining.
        left: number of units left at each step, the unpruned network's first.
        accuracy: accuracy at each step; R² where the network predicts values.
        agreement: Spearman's rank correlation of the first scores with exact ablation.
        metric: what `accuracy` is: "accuracy" or "r2".
    """

    way: Way
    seed: int
    left: tuple[int, ...]
    accuracy: tuple[float, ...]
    agreement: float
    metric: str = ACCURACY

    @property
    def area(self) -> float:
        """Area under `accuracy` against units left, divided by the number of units removed."""
        left = torch.tensor(self.left, dtype=torch.float64)
        accuracy = torch.tensor(self.accuracy, dtype=torch.float64)
        width = left[0] - left[-1]
        return float(torch.trapezoid(accuracy, -left) / width) if width else self.accuracy[0]


def ways(
    criteria: Sequence[str] | None = None,
    repairs: Sequence[str | None] = (None, "least_squares"),
    retrain: Sequence[float] = (0,),
) -> list[Way]:
    """Combine every criterion with every repair and every amount of retraining.

    Raises:
        ValueError: an unknown criterion or repair, with the nearest name; or a number of epochs
            that is negative or no whole number.
    """
    for epochs in retrain:
        if not epochs >= 0 or epochs % 1:
            raise ValueError(f"retrain= is a whole number of epochs, 0 or more; got {epochs}")
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
    loss: str | PerSample | None = None,
    mask: Mask | None = None,
    trajectory: Trajectory | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Curve]:
    """Prune a copy of the network in every way, once for each seed.

    A criterion that cannot score this network's units (for example one for synapses, or one that
    needs a trajectory of training) is left out, and a warning with the reason is logged.

    Args:
        model: the network; it is not changed.
        learn: samples that criteria use and that retraining trains on.
        judge: samples that accuracy is measured on; R² where the network predicts values.
        todo: ways to prune; see `ways`.
        keep: number of units left at the end.
        steps: number of pruning steps; scores are computed anew for each.
        samples: number of samples of `learn` that a criterion uses, drawn anew for each seed.
        seeds: number of seeds, or the seeds themselves.
        loss: of criteria and of retraining; as for `Probe` if None.
        mask: what is dead before pruning starts, and stays dead.
        trajectory: record of the training of `model`, for criteria that need it. Retraining adds
            nothing to it.
        on_progress: called with (runs done, number of runs, the way).

    Returns:
        A curve for each seed and way, in this order.

    Raises:
        ScheduleError: `keep` is not an amount, or `steps` not a count of 1 or more.
        ValueError: no seeds, or `samples` below 1.
    """
    linear(keep, steps)
    if not (seeds if isinstance(seeds, int) else len(seeds)) > 0:
        raise ValueError(f"seeds= is how often each way is repeated, at least 1; got {seeds}")
    if samples < 1:
        raise ValueError(f"samples= is a count of 1 or more; got {samples}")
    found, count = [], 0
    refused: set[str] = set()
    setting = _Setting(model, learn, judge, keep, steps, loss, mask, trajectory)
    which = range(seeds) if isinstance(seeds, int) else seeds
    for seed in which:
        chosen = _drawn(learn, samples, seed)
        exact = _first_scores(Probe(model, chosen, loss), "ablation", seed)
        for way in todo:
            count += 1
            if way.criterion not in refused:
                try:
                    found.append(_curve(setting, way, seed, chosen, exact))
                except CriterionError as error:
                    refused.add(way.criterion)
                    log.warning("%s is left out: %s", way.criterion, error)
                except DataError:
                    raise
                except PruningError as error:
                    log.warning("%s is left out: %s", way, error)
            if on_progress is not None:
                on_progress(count, len(which) * len(todo), str(way))
    return found


@dataclass(frozen=True)
class Row:
    """Means of one way over all its seeds.

    Attributes:
        way: how the networks were pruned.
        area, agreement: means; see `Curve`.
        deviation: standard deviation of the area; 0 for a single seed.
        half: mean accuracy at the step nearest to half of the units.
        seeds: number of seeds.
        metric: what the area is of; see `Curve`.
    """

    way: Way
    area: float
    deviation: float
    half: float
    agreement: float
    seeds: int
    metric: str = ACCURACY


def rows(curves: Sequence[Curve]) -> list[Row]:
    """Average the curves of each way over its seeds; the largest area comes first."""
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
                own[0].metric,
            )
        )
    return sorted(found, key=lambda row: -row.area)


@dataclass(frozen=True, eq=False)
class _Setting:
    """Arguments of `compare` that all ways share."""

    model: nn.Module
    learn: Samples
    judge: Samples
    keep: str
    steps: int
    loss: str | PerSample | None
    mask: Mask | None
    trajectory: Trajectory | None

    def copy(self) -> tuple[nn.Module, Trajectory | None]:
        """Copy the network to be pruned and its training trajectory."""
        model = copied(self.model)
        if self.trajectory is None:
            return model, None
        past = Trajectory(model)
        past.load_state_dict(self.trajectory.state_dict())
        return model, past


def _curve(setting: _Setting, way: Way, seed: int, samples: Samples, exact: Tensor) -> Curve:
    """Prune a copy of the network in one way, and record accuracy and agreement with `exact`."""
    untouched = Probe(setting.model, samples, setting.loss, setting.trajectory)
    first_scores = _first_scores(untouched, way.criterion, seed)
    worker, past = setting.copy()
    probe = Probe(worker, samples, setting.loss, past)
    schedule = linear(setting.keep, setting.steps)
    propose = ranked(_criterion(way.criterion, seed), schedule, repair=way.repair)
    recipe = Recipe(epochs=max(1, round(way.retrain)), seed=seed, loss=setting.loss)
    run = prune(
        worker,
        find_units(worker, probe.example),
        probe,
        propose,
        retrain=FineTune(setting.learn, recipe) if way.retrain else None,
        evaluate=setting.judge,
        mask=setting.mask,
    )
    left, metrics, values = zip(*map(_quality, run), strict=True)
    return Curve(way, seed, left, values, spearman(first_scores, exact), metrics[0])


def _quality(step: Step) -> tuple[int, str, float]:
    """Return how many units are left, and by what the network is judged: its name and value."""
    now = step.measured
    metric = R2 if now.accuracy is None else ACCURACY
    found = now.metrics.get(R2) if now.accuracy is None else now.accuracy
    if found is None:
        raise DataError(
            "ways to prune are compared by accuracy or R², and these targets have neither: they "
            "are not class numbers, labels 0 and 1, or values that differ. Compare on other data."
        )
    return now.units, metric, found


def _first_scores(probe: Probe, name: str, seed: int) -> Tensor:
    """Return the scores of all units of the unpruned network, group by group."""
    criterion = ablation if name == "ablation" else _criterion(name, seed)
    groups = some_units(probe.model, probe.example)
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
