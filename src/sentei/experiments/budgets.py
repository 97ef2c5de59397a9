"""Measure the accuracy of a network pruned to several budgets of bytes, path by path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from sentei.criteria import Criterion
from sentei.datasets import Split
from sentei.errors import BudgetError, DataError, UnreachableError
from sentei.formats.c.compiled import shipped
from sentei.losses import PerSample
from sentei.network.copying import copied
from sentei.network.encoding.format import C_FORMATS, c_numbers
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
        on_progress: called with (paths done, number of paths, text).

    Raises:
        BudgetError: no budget is given, or one is not a size.
        ValueError: an unknown path, or a format that is not C.
    """
    if not budgets:
        raise BudgetError("name at least one budget, such as 8KiB")
    for format in formats:
        c_numbers(format)  # a format that is not C is refused
    sizes = sorted({int(MemoryBudget("c", budget).bytes) for budget in budgets}, reverse=True)
    ways = {path: [per_byte(f, units, stops=tuple(sizes)) for f in formats] for path in paths}
    todo = [restricted(path, propose) for path, each in ways.items() for propose in each]
    recipe = Recipe(epochs=retrain, seed=seed, loss=loss) if retrain else None
    curves = []
    for done, way in enumerate(todo):
        steps = []
        for step in _steps(model, split, way, mask, recipe, samples, loss):
            _accuracy(step)  # refused at once where there is none
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
    loss: str | PerSample | None,
) -> Iterator[Step]:
    """Prune along one path to the smallest budget, or as far as possible if that is not reached."""
    least = bytes_at_most(min(way.propose.stops), way.propose.format)
    for until in (least, None):
        worker = copied(model)
        probe = Probe(worker, split.train.first(samples), loss)
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
    """Choose the most accurate step for each size, and test its emitted code."""
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
    if step.measured.accuracy is None or step.measured.by_class is None:
        raise DataError("accuracy is compared at sizes in bytes, and these targets are not classes")
    return step.measured.accuracy
