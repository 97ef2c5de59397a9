"""Measure the accuracy of a network pruned to several budgets of bytes, path by path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sentei.criteria import Criterion
from sentei.datasets import Split
from sentei.describing import described
from sentei.errors import BudgetError, DataError, UnreachableError
from sentei.formats.c.compiled import shipped
from sentei.jobs.results import Job, Result, run
from sentei.jobs.workers import Workers
from sentei.losses import PerSample
from sentei.nests import tensors
from sentei.network.copying import copied
from sentei.network.encoding.format import C_FORMATS, c_numbers
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.identity import mask_fingerprint, network_words
from sentei.pruning.loop import prune
from sentei.pruning.rules.bytewise import per_byte
from sentei.pruning.rules.limits import MemoryBudget, bytes_at_most
from sentei.pruning.run import Step
from sentei.pruning.searching import restricted
from sentei.samples import fingerprint
from sentei.training import FineTune, Recipe

PATHS = ("units", "synapses", "both")
FORMATS = tuple(name for name, numbers in C_FORMATS.items() if numbers.activation == 4)
CALIBRATION = 512  # training samples that int8 activations of a C file are calibrated on


@dataclass(frozen=True)
class Point:
    """The most accurate network of one path within one budget.

    Attributes:
        budget: bytes; None for the unpruned network.
        bytes: size of the network; if no network fits, size of the smallest one on the path.
        units, synapses: how many are left in the network.
        validation: validation accuracy in float32, which the network was chosen by.
        test: test accuracy of the emitted code; None if no network fits.
    """

    budget: int | None
    bytes: int
    units: int
    synapses: int
    validation: float
    test: float | None

    @property
    def fits(self) -> bool:
        """Whether a network on the path fits the budget."""
        return self.test is not None


@dataclass(frozen=True)
class Curve:
    """The networks of one path in one format, a point for each budget.

    Attributes:
        path: see `pruning.searching.restricted`.
        format: C format that sizes and test accuracies are for.
        untouched: the unpruned network.
        points: one for each budget, the largest budget first.
    """

    path: str
    format: str
    untouched: Point
    points: tuple[Point, ...]

    @property
    def weights(self) -> str:
        """Return the number types of the format: "float32", "int8" or "int8-int8"."""
        return str(c_numbers(self.format))


def accuracy_at_budgets(
    model: nn.Module,
    split: Split,
    budgets: Sequence[int | str],
    *,
    paths: Sequence[str] = PATHS,
    formats: Sequence[str] = FORMATS,
    mask: Mask | None = None,
    units: str | Criterion = "ablation",
    loss: str | PerSample | None = None,
    retrain: int = 0,
    samples: int = 2_000,
    seed: int = 0,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    folder: Path | None = None,
    on_progress: Callable[[int, int, str], object] | None = None,
) -> list[Curve]:
    """Prune a network along every path, and measure its accuracy at every budget.

    Each path is pruned once and stops at each budget. Of the networks on the path that fit a
    budget, the most accurate one on validation samples is chosen; its test accuracy is that of the
    emitted code.

    Args:
        model: the network; it is not changed.
        split: criteria and retraining use its training samples; targets must be classes.
        budgets: numbers of bytes, or texts such as "8KiB".
        paths: see `pruning.searching.restricted`.
        formats: C formats: "c" for float32, "c-int8", "c-int8-int8" or "c-int8-int16".
        mask: what is dead before pruning starts.
        units: criterion that orders units.
        loss: as for `Probe`; retraining uses it too.
        retrain: number of training epochs after every step.
        samples: number of training samples that a criterion uses.
        seed: seed of retraining.
        workers: where paths are pruned, and which share of them.
        folder: where the curve of each path is stored, so that none is pruned twice; nowhere if
            None.
        on_progress: called with (paths done, number of paths, the last one).

    Raises:
        IncompleteError: the share of `workers` is done, and other shares are missing in `folder`.
        JournalError: `folder` holds a result of another comparison.
        BudgetError: no budget is given, or one is not a size.
        ValueError: an unknown path, or a format that is not C.
    """
    if not budgets:
        raise BudgetError("name at least one budget, such as 8KiB")
    for format in formats:
        c_numbers(format)  # a format that is not C is refused
    sizes = sorted({int(MemoryBudget("c", budget).bytes) for budget in budgets}, reverse=True)
    for path in paths:
        restricted(path, per_byte(formats[0]))
    recipe = Recipe(epochs=retrain, seed=seed, loss=loss) if retrain else None
    setting = _Setting(model, split, mask, units, recipe, samples, loss)
    about = {} if folder is None else setting.about()
    jobs = [
        Job(
            f"{path.replace(':', '-')}-{format}",
            _pruned,
            {"path": path, "format": format, "sizes": sizes},
            about,
        )
        for path in paths
        for format in formats
    ]
    results = run(jobs, folder, workers, common=(setting,), on_progress=on_progress)
    return [_read(job.settings, results[job.name]["points"]) for job in jobs]


def _read(settings: dict[str, Any], points: Sequence[dict[str, Any]]) -> Curve:
    untouched, *others = (Point(**point) for point in points)
    return Curve(settings["path"], settings["format"], untouched, tuple(others))


@dataclass(frozen=True, eq=False)
class _Setting:
    """Arguments of `accuracy_at_budgets` that all paths share."""

    model: nn.Module
    split: Split
    mask: Mask | None
    units: str | Criterion
    recipe: Recipe | None
    samples: int
    loss: str | PerSample | None

    def about(self) -> dict[str, Any]:
        """Return texts that tell this comparison from others."""
        parts = self.split.train, self.split.validation, self.split.test
        texts = {
            "network": (self.model, network_words(self.model)),
            "data": [fingerprint([*tensors(part)]) for part in parts],
            "mask": None if self.mask is None else mask_fingerprint(self.mask),
            "units": self.units,
            "retrain": self.recipe,
            "loss": self.loss,
        }
        return {"samples": self.samples} | {name: described(each) for name, each in texts.items()}


def _pruned(setting: _Setting, path: str, format: str, sizes: Sequence[int]) -> Result:
    """Prune along one path to every size; return the point of the unpruned network, then theirs."""
    propose = per_byte(format, units=setting.units, stops=tuple(sizes))
    steps = []
    for step in _steps(setting, restricted(path, propose)):
        _accuracy(step)  # refused at once where there is none
        steps.append(step)
    return {"points": [asdict(point) for point in _points(setting.split, format, sizes, steps)]}


def _steps(setting: _Setting, way: restricted) -> Iterator[Step]:
    """Prune along one path to the smallest budget, or as far as possible if that is not reached."""
    split, recipe = setting.split, setting.recipe
    least = bytes_at_most(min(way.propose.stops), way.propose.format)
    for until in (least, None):
        worker = copied(setting.model)
        probe = Probe(worker, split.train.first(setting.samples), setting.loss)
        groups: list[Group] = [*find_units(worker, probe.example), *find_synapses(worker)]
        retrain = FineTune(split.train, recipe) if recipe is not None else None
        held, mask = split.validation, setting.mask
        try:
            yield from prune(
                worker, groups, probe, way, until, retrain=retrain, evaluate=held, mask=mask
            )
            return
        except UnreachableError:
            if until is None:
                raise


def _points(
    split: Split, format: str, sizes: Sequence[int], steps: Sequence[Step]
) -> Iterator[Point]:
    """Yield the unpruned network, then the most accurate step for each size, its code tested."""
    calibration = split.train.inputs[:CALIBRATION]
    tested: dict[int, float] = {}

    def point(step: Step, budget: int | None, *, fits: bool) -> Point:
        if fits and step.number not in tested:
            small = shrink(step.network(), step.mask, calibration[:64])
            left = step.mask.shrunk()
            tested[step.number] = shipped(small, calibration, left, format, split.test)
        now = step.measured
        return Point(
            budget=budget,
            bytes=now.bytes_in(format),
            units=now.units,
            synapses=now.synapses,
            validation=_accuracy(step),
            test=tested[step.number] if fits else None,
        )

    yield point(steps[0], None, fits=True)
    for size in sizes:
        fitting = [step for step in steps if step.measured.bytes_in(format) <= size]
        best = max(fitting, key=_accuracy, default=steps[-1])
        yield point(best, size, fits=bool(fitting))


def _accuracy(step: Step) -> float:
    if step.measured.accuracy is None or step.measured.by_class is None:
        raise DataError("accuracy is compared at sizes in bytes, and these targets are not classes")
    return step.measured.accuracy
