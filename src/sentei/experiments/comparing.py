"""Compare criteria on one network, with and without repairs and retraining."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria import CRITERIA, Probe, Trajectory, criterion, scores
from sentei.criteria.agreement import spearman
from sentei.criteria.repairs.table import repair
from sentei.describing import described
from sentei.errors import CriterionError, DataError, PruningError, unknown
from sentei.jobs.results import Job, Result, run
from sentei.jobs.workers import Workers
from sentei.losses import PerSample
from sentei.metrics import R2
from sentei.nests import tensors
from sentei.network.copying import copied
from sentei.network.mask import Mask
from sentei.network.tracing.inventory import some_units
from sentei.network.tracing.tracing import find_units
from sentei.pruning.identity import mask_fingerprint, network_words
from sentei.pruning.loop import prune
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import linear
from sentei.pruning.run import Step
from sentei.samples import Samples, fingerprint
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
class Choice:
    """The half of the units that a criterion would remove, judged by exact ablation.

    Attributes:
        size: number of units of the network.
        removed: number of those with the lowest scores, a half.
        common: how many of them exact ablation would remove too.
        worst: the costliest of them: its number, and the name of its group.
        cost: the rise in loss if this one is removed.
        rank: its place among all units, 1 for the costliest.
    """

    size: int
    removed: int
    common: int
    worst: str
    cost: float
    rank: int


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
        choice: the half of the units with the lowest first scores, beside that of exact ablation.
    """

    way: Way
    seed: int
    left: tuple[int, ...]
    accuracy: tuple[float, ...]
    agreement: float
    metric: str = ACCURACY
    choice: Choice | None = None

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
    workers: Workers = Workers(),  # noqa: B008 - frozen
    folder: Path | None = None,
    on_progress: Callable[[int, int, str], object] | None = None,
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
        workers: where the runs happen, and which share of them.
        folder: where the result of each run is stored, so that none is made twice; nowhere if None.
        on_progress: called with (runs done, number of runs, the last one).

    Returns:
        A curve for each seed and way, in this order.

    Raises:
        IncompleteError: the share of `workers` is done, and other shares are missing in `folder`.
        JournalError: `folder` holds a result of another comparison.
        ScheduleError: `keep` is not an amount, or `steps` not a count of 1 or more.
        ValueError: no seeds, or `samples` below 1.
    """
    linear(keep, steps)
    if not (seeds if isinstance(seeds, int) else len(seeds)) > 0:
        raise ValueError(f"seeds= is how often each way is repeated, at least 1; got {seeds}")
    if samples < 1:
        raise ValueError(f"samples= is a count of 1 or more; got {samples}")
    setting = _Setting(model, learn, judge, keep, steps, samples, loss, mask, trajectory)
    about = {} if folder is None else setting.about()
    which = range(seeds) if isinstance(seeds, int) else seeds
    jobs = [job for seed in which for job in _jobs(dict.fromkeys(todo), seed, about)]
    results = run(jobs, folder, workers, common=(setting,), on_progress=on_progress)
    return [*_curves(jobs, results)]


def _jobs(todo: Iterable[Way], seed: int, about: dict[str, Any]) -> Iterator[Job]:
    """Yield the runs of one seed: exact ablation of the unpruned network, and one for each way."""
    yield Job(f"exact-{seed}", _exact, {"seed": seed}, about)
    for way in todo:
        name = f"{way.criterion}-{way.repair or 'none'}-{way.retrain}-{seed}"
        yield Job(name, _pruned, {**asdict(way), "seed": seed}, about)


def _curves(jobs: Sequence[Job], results: Mapping[str, Result]) -> Iterator[Curve]:
    """Yield the curves of all runs that were possible; log why others were not, each reason once.

    A criterion that scores nothing here is named once for all its ways and seeds.
    """
    exact, said, units = torch.zeros(0), set(), list[tuple[str, int]]()
    for job in jobs:
        found = results[job.name]
        if job.function is _exact:
            exact, units = _numbers(found["scores"]), found["units"]
            continue
        settings = dict(job.settings)
        seed = settings.pop("seed")
        way = Way(**settings)
        if "refused" in found:
            what = way.criterion if found["criterion"] else str(way)
            if (what, found["criterion"] or seed) not in said:
                log.warning("%s is left out: %s", what, found["refused"])
            said.add((what, found["criterion"] or seed))
            continue
        given = _numbers(found["scores"])
        agreement, choice = spearman(given, exact), _choice(given, exact, units)
        left, values = tuple(found["left"]), tuple(found["values"])
        yield Curve(way, seed, left, values, agreement, found["metric"], choice)


def _choice(given: Tensor, exact: Tensor, units: Sequence[tuple[str, int]]) -> Choice | None:
    """Judge the half of the units with the lowest scores; None if there is a single unit."""
    removed = len(exact) // 2
    if not removed:
        return None
    chosen = given.argsort(stable=True)[:removed]
    wanted = exact.argsort(stable=True)[:removed]
    worst = int(chosen[exact[chosen].argmax()])
    name, unit = units[worst]
    return Choice(
        size=len(exact),
        removed=removed,
        common=len({*chosen.tolist()} & {*wanted.tolist()}),
        worst=f"unit {unit} of {name}",
        cost=float(exact[worst]),
        rank=1 + int((exact > exact[worst]).sum()),
    )


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


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
    """Arguments of `compare` that all runs share."""

    model: nn.Module
    learn: Samples
    judge: Samples
    keep: str
    steps: int
    samples: int
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

    def drawn(self, seed: int) -> Samples:
        """Return the samples that criteria use with a seed."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.learn.rows, generator=generator)
        return self.learn.at(order[: self.samples])

    def about(self) -> dict[str, Any]:
        """Return texts that tell this comparison from others."""
        texts = {
            "network": (self.model, network_words(self.model)),
            "learn": fingerprint([*tensors(self.learn)]),
            "judge": fingerprint([*tensors(self.judge)]),
            "loss": self.loss,
            "mask": None if self.mask is None else mask_fingerprint(self.mask),
            "trajectory": self.trajectory,
        }
        own = {"keep": self.keep, "steps": self.steps, "samples": self.samples}
        return own | {name: described(each) for name, each in texts.items()}


def _exact(setting: _Setting, seed: int) -> Result:
    """Return the exact rise in loss without each unit of the unpruned network."""
    probe = Probe(setting.model, setting.drawn(seed), setting.loss)
    groups = some_units(probe.model, probe.example)
    units = [(group.name, unit) for group in groups for unit in range(group.size)]
    return {"scores": _first_scores(probe, "ablation", seed), "units": units}


def _pruned(setting: _Setting, seed: int, **settings: Any) -> Result:
    """Prune a copy of the network in one way; return its quality at each step, or the refusal."""
    way = Way(**settings)
    try:
        return _measured(setting, way, seed)
    except DataError:
        raise
    except PruningError as error:
        return {"refused": str(error), "criterion": isinstance(error, CriterionError)}


def _measured(setting: _Setting, way: Way, seed: int) -> Result:
    samples = setting.drawn(seed)
    untouched = Probe(setting.model, samples, setting.loss, setting.trajectory)
    first_scores = _first_scores(untouched, way.criterion, seed)
    worker, past = setting.copy()
    probe = Probe(worker, samples, setting.loss, past)
    schedule = linear(setting.keep, setting.steps)
    propose = ranked(criterion(way.criterion, seed), schedule, repair=way.repair)
    recipe = Recipe(epochs=max(1, round(way.retrain)), seed=seed, loss=setting.loss)
    steps = prune(
        worker,
        find_units(worker, probe.example),
        probe,
        propose,
        retrain=FineTune(setting.learn, recipe) if way.retrain else None,
        evaluate=setting.judge,
        mask=setting.mask,
    )
    left, metrics, values = zip(*map(_quality, steps), strict=True)
    return {"left": left, "values": values, "metric": metrics[0], "scores": first_scores}


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


def _first_scores(probe: Probe, name: str, seed: int) -> list[float]:
    """Return the scores of all units of the unpruned network, group by group."""
    groups = some_units(probe.model, probe.example)
    return torch.cat([scores(criterion(name, seed), probe, group) for group in groups]).tolist()


def _halfway(curve: Curve) -> float:
    middle = curve.left[0] / 2
    nearest = min(range(len(curve.left)), key=lambda at: abs(curve.left[at] - middle))
    return curve.accuracy[nearest]
