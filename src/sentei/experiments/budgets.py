"""Accuracy against bytes: what is left of a network at several budgets, path by path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from sentei.datasets import Split
from sentei.errors import BudgetError, DataError, UnreachableError, unknown
from sentei.formats.c.compiled import shipped
from sentei.network.encoding.plans import C_FORMATS
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.loop import prune
from sentei.pruning.rules.bytewise import per_byte
from sentei.pruning.rules.limits import MemoryBudget, bytes_at_most
from sentei.pruning.run import Step
from sentei.pruning.searching import restricted
from sentei.training import FineTune, Recipe

PATHS = ("units", "synapses", "both")
FORMATS = ("c", "c-int8")
CALIBRATION = 512  # training samples that a C file is written from


@dataclass(frozen=True)
class Point:
    """What fits into a budget on one path.

    Attributes:
        budget: bytes; None for the untouched network.
        bytes: of the network; where nothing fits, of the smallest that the path comes to.
        units, synapses: left in it.
        validation: the accuracy it was chosen by, of the network in float32.
        test: the accuracy of the emitted code; None where nothing fits.
    """

    budget: int | None
    bytes: int
    units: int
    synapses: int
    validation: float
    test: float | None

    @property
    def fits(self) -> bool:
        """Whether the budget is met."""
        return self.test is not None


@dataclass(frozen=True)
class Curve:
    """One path in one format.

    Attributes:
        path: see `pruning.searching.down`.
        format: whose bytes, and whose arithmetic.
        untouched: the network as it was.
        points: by budget, the largest first.
    """

    path: str
    format: str
    untouched: Point
    points: tuple[Point, ...]

    @property
    def weights(self) -> str:
        """The format in a word: what weights (and activations) are kept in."""
        return "float32" if self.format == "c" else self.format.removeprefix("c-")


def accuracy_at_budgets(
    model: nn.Module,
    split: Split,
    budgets: Sequence[int | str],
    *,
    paths: Sequence[str] = PATHS,
    formats: Sequence[str] = FORMATS,
    mask: Mask | None = None,
    units: str = "ablation",
    retrain: int = 0,
    samples: int = 2_000,
    seed: int = 0,
    on_progress: Callable[[int, int, str], object] | None = None,
) -> list[Curve]:
    """Prune a network along every path, and see how accurate it is at every budget.

    A path is gone down once, stopping at each budget. Of the networks on it that fit a budget, the
    one most accurate on validation samples is taken; its test accuracy is the emitted code's.

    Args:
        model: stays as it is.
        split: training samples are looked at and trained on; classes are wanted.
        budgets: bytes, or words such as "8KiB".
        paths: see `pruning.searching.down`.
        formats: of C: "c" for float32, "c-int8" or "c-int8-int8".
        mask: what is dead to begin with.
        units: criterion that orders units.
        retrain: epochs after every step.
        samples: how many training samples a criterion looks at.
        seed: of retraining.
        on_progress: called with (done, of how many, in words).

    Raises:
        BudgetError: no budget, or one that cannot be.
        ValueError: an unknown path, or a format that is not C.
    """
    if not budgets:
        raise BudgetError("name a budget at least, such as 8KiB")
    for format in formats:
        if format not in C_FORMATS:
            raise ValueError(unknown("C format", format, C_FORMATS))
    sizes = sorted({int(MemoryBudget("c", budget).bytes) for budget in budgets}, reverse=True)
    ways = {path: [per_byte(f, units, stops=tuple(sizes)) for f in formats] for path in paths}
    todo = [restricted(path, propose) for path, each in ways.items() for propose in each]
    recipe = Recipe(epochs=retrain, seed=seed) if retrain else None
    curves = []
    for done, way in enumerate(todo):
        steps = []
        for step in _steps(model, split, way, mask, recipe, samples):
            steps.append(step)
            if on_progress is not None:
                size = step.measured.bytes_in(way.propose.format)
                on_progress(done, len(todo), f"{way.path}: {size:,} bytes, {step.measured}")
        curves.append(_curve(split, way, sizes, steps))
    if on_progress is not None:
        on_progress(len(todo), len(todo), "")
    return curves


def _steps(
    model: nn.Module,
    split: Split,
    way: restricted,
    mask: Mask | None,
    recipe: Recipe | None,
    samples: int,
) -> Iterator[Step]:
    """Down one path to the smallest budget, or as far as it goes."""
    least = bytes_at_most(min(way.propose.stops), way.propose.format)
    for until in (least, None):
        worker = copy.deepcopy(model)
        probe = Probe(worker, split.train.first(samples))
        groups: list[Group] = [*find_units(worker, probe.example), *find_synapses(worker)]
        retrain = FineTune(split.train, recipe) if recipe is not None else None
        held = split.validation
        try:
            yield from prune(
                worker, groups, probe, way, until, retrain=retrain, evaluate=held, mask=mask
            )
            return
        except UnreachableError:
            if until is None:
                raise


def _curve(split: Split, way: restricted, sizes: Sequence[int], steps: Sequence[Step]) -> Curve:
    format, calibration = way.propose.format, split.train.inputs[:CALIBRATION]
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

    points = []
    for size in sizes:
        fitting = [step for step in steps if step.measured.bytes_in(format) <= size]
        best = max(fitting, key=_accuracy, default=steps[-1])
        points.append(point(best, size, fits=bool(fitting)))
    return Curve(way.path, format, point(steps[0], None, fits=True), tuple(points))


def _accuracy(step: Step) -> float:
    if step.measured.accuracy is None:
        raise DataError("accuracy is drawn against bytes, and these targets are not classes")
    return step.measured.accuracy
