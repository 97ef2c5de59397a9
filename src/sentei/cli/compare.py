"""The command `sentei compare`: compare criteria, repairs and budgets on one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from sentei.cli.bounds import Amount, Count, CountOrNone
from sentei.cli.options import (
    ALL_CRITERIA,
    OUTPUT,
    PACE,
    REMOVED,
    REPAIR,
    REPAIRS,
    Data,
    Loss,
    Model,
    OutFigure,
    OutFolder,
    Parallel,
    RunOnDevice,
    Samples,
    Weights,
    listed,
    seeded,
    shared,
)
from sentei.cli.screen import Result
from sentei.cli.stopping import resumed_by
from sentei.errors import IncompleteError

if TYPE_CHECKING:
    from torch import nn

    from sentei.datasets import Split

SIZES = Group("Comparison at sizes of C files", sort_key=5)


@Parameter(name="*", group=REPAIR)
@dataclass(frozen=True)
class Ways:
    """The ways of pruning that are compared: every combination.

    Attributes:
        retrain: Number of training epochs after each step; several values are compared; 0 if left
            out.
    """

    criteria: Annotated[
        list[str] | None,
        Parameter(
            group=REMOVED,
            help="Criterion to compare; may be given several times; all if left out.\n\n"
            f"{ALL_CRITERIA}",
        ),
    ] = None
    repairs: Annotated[
        list[str] | None,
        Parameter(
            help=f"Repair to compare: none, {listed(REPAIRS)}; may be given several times. It "
            "computes a removed unit's output from other units. none and least_squares if left out."
        ),
    ] = None
    retrain: list[CountOrNone] | None = None


@Parameter(name="*", group=PACE)
@dataclass(frozen=True)
class Steps:
    """How far and how fast each way goes, and how often.

    Attributes:
        keep: Number of units left at the end: a count, or a percentage.
        steps: Number of pruning steps to get there.
        seeds: Number of seeds that each combination is repeated with: --seed and those after it.
    """

    keep: Amount = "10 %"
    steps: Count = 9
    seeds: Count = 3


@Parameter(name="*", group=SIZES)
@dataclass(frozen=True)
class Sizes:
    """Budgets to compare at, in place of ways of pruning.

    Attributes:
        budgets: Compare at these sizes of the C file: "4KiB,8KiB,16KiB,32KiB,64KiB". Units are
            removed by the first of --criteria (ablation if left out), synapses by magnitude.
        paths: What to remove: units, synapses, both (whichever costs the least loss per byte), or
            units:50 (half of the units, then synapses); the first three if left out.
        formats: Number formats of C: c (float32), c-int8 (int8 weights), c-int8-int8 (int8
            activations as well) or c-int8-int16 (16 bits); the first two if left out.
        retrain_epochs: Number of training epochs after every step.
    """

    budgets: str | None = None
    paths: list[str] | None = None
    formats: list[str] | None = None
    retrain_epochs: CountOrNone = 0


def compare(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    ways: Ways = Ways(),
    steps: Steps = Steps(),
    sizes: Sizes = Sizes(),
    data: Data = Data(),
    samples: Samples = 5_000,
    out: OutFigure = Path("compared"),
    results: Annotated[OutFolder | None, Parameter(group=OUTPUT)] = None,
    parallel: Parallel = Parallel(),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Prune copies of a network by several criteria and compare their accuracy, or their size.

    Prints a table, and draws accuracy, or R² where values are predicted, on validation samples
    against the number of units left: as a figure, and on a page whose curves can be switched and
    that says what each criterion gets wrong. With --budgets, it prunes the network to each size by
    units, by synapses and by both, in float32 and in int8, and draws the accuracy of the emitted C
    code against bytes.

    Parameters
    ----------
    out
        Name of the figure without a suffix; it is written as PNG and SVG, and the page as HTML.
    results
        Folder to store the result of each run in, so that a comparison that was stopped continues.
    """
    from sentei.cli.loading import loaded, one_input, own_loss
    from sentei.experiments import comparing

    repairs = ways.repairs or ("none", "least_squares")
    chosen = [None if name == "none" else name for name in repairs]
    todo = comparing.ways(ways.criteria, chosen, ways.retrain or (0,))
    workers = parallel.workers()
    run.start()
    if results is not None:
        resumed_by(results)
    network, mask, split = loaded(model, data, loss, weights, run.place())
    common = {"mask": mask, "loss": own_loss(loss), "workers": workers, "folder": results}
    if sizes.budgets is None:
        seeds = range(data.seed, data.seed + steps.seeds)
        settings = {"keep": steps.keep, "steps": steps.steps, "samples": samples, "seeds": seeds}
        measure = partial(_by_units, model, network, split, todo, out, **settings)
    else:
        one_input(split, "a C file")
        units = seeded((ways.criteria or ["ablation"])[0], data.seed)
        settings = {"retrain": sizes.retrain_epochs, "samples": samples, "seed": data.seed}
        measure = partial(_by_size, network, split, sizes, out, units=units, **settings)
    try:
        return measure(**common)
    except IncompleteError as error:
        return shared(error)


def _by_units(
    model: str,
    network: nn.Module,
    split: Split,
    todo: Sequence[Any],
    out: Path,
    **settings: Any,
) -> Result:
    """Compare ways of pruning by accuracy against the number of units left."""
    from sentei.cli.screen import head, progress
    from sentei.experiments import comparing
    from sentei.metrics import NAMES, R2
    from sentei.reporting import figures
    from sentei.reporting.page.comparison import write_comparison
    from sentei.reporting.tables import compared

    with progress("comparing", len(todo) * len(settings["seeds"])) as advance:
        curves = comparing.compare(
            network,
            split.train,
            split.validation,
            todo,
            on_progress=lambda done, total, way: advance(done, way, total),
            **settings,
        )
    rows = comparing.rows(curves)
    metric = NAMES[R2] if any(row.metric == R2 for row in rows) else "accuracy"
    figure, axes = figures.canvas(9.0, 5.0)
    figures.comparison(axes, curves)
    drawn = figures.write(figure, out)
    on, name = f"{split.validation.rows:,} validation samples", Path(model).name
    page = write_comparison(curves, rows, out.with_suffix(".html"), network=name, samples=on)
    title = head(f"{model}: {metric} on validation samples, largest area first")
    ways = [{**vars(row), "way": str(row.way)} for row in rows]
    return Result(
        {"ways": ways, "figures": drawn, "page": page},
        (title, compared(rows), f"the figure is in {drawn[0]}, the page in {page}"),
    )


def _by_size(network: nn.Module, split: Split, sizes: Sizes, out: Path, **settings: Any) -> Result:
    """Compare paths and number formats by the accuracy of the C code against its bytes."""
    from sentei.cli.screen import head, progress
    from sentei.experiments.budgets import accuracy_at_budgets
    from sentei.formats.c.compiled import compiler
    from sentei.reporting import figures
    from sentei.reporting.tables import budgets as table

    lists = {"paths": sizes.paths, "formats": sizes.formats}
    with progress("comparing", 1) as advance:
        curves = accuracy_at_budgets(
            network,
            split,
            [size.strip() for size in (sizes.budgets or "").split(",")],
            on_progress=lambda done, total, words: advance(done, words, total),
            **{name: value for name, value in lists.items() if value is not None},
            **settings,
        )
    measured = "the compiled C code" if compiler() else "the C code, simulated"
    figure, axes = figures.canvas(7.0, 4.6)
    figures.budget_curves(axes, curves)
    drawn = figures.write(figure, out)
    title = head(f"Test accuracy of {measured}; networks chosen on validation; planned bytes")
    return Result(
        {"budgets": curves, "figures": drawn},
        (title, table(curves), f"the figure is in {drawn[0]}"),
    )
