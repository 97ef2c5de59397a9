"""The command `sentei compare`: compare criteria, repairs and budgets on one network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from sentei.datasets import Split


def compare(
    model: str,
    *,
    data: str = "mnist",
    target: str = "-1",
    criteria: list[str] | None = None,
    repairs: list[str] | None = None,
    retrain: list[int] | None = None,
    keep: str = "10 %",
    steps: int = 9,
    samples: int = 5_000,
    seeds: int = 3,
    budgets: str | None = None,
    paths: list[str] | None = None,
    formats: list[str] | None = None,
    retrain_epochs: int = 0,
    seed: int = 0,
    out: Path = Path("compared"),
    threads: int = 1,
) -> None:
    """Prune copies of a network by several criteria and compare their accuracy, or their size.

    Prints a table and draws accuracy against the number of units left. With --budgets, it prunes
    the network to each size by units, by synapses and by both, in float32 and in int8, and draws
    the accuracy of the emitted C code against bytes.

    Parameters
    ----------
    model
        File of a network that sentei saved, or layer widths such as 784-100-10 of one to train
        first.
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. Criteria use training samples;
        accuracy is measured on validation samples.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    criteria
        Criteria to compare, such as ablation, taylor1 or magnitude; all if left out.
    repairs
        Repairs to compare, which replace a removed unit's output by other units: none, mean,
        twin, affine, least_squares or least_loss; none and least_squares if left out.
    retrain
        Number of training epochs after each step; several values are compared; 0 if left out.
    keep
        Number of units left at the end: a count, or a percentage.
    steps
        Number of pruning steps to get there.
    samples
        Number of training samples that a criterion uses.
    seeds
        Number of random seeds that each combination is repeated with.
    budgets
        Compare at these sizes of the C file instead: "4KiB,8KiB,16KiB,32KiB,64KiB". Units are
        removed by the first of --criteria (ablation if left out), synapses by magnitude.
    paths
        With --budgets: what to remove: units, synapses, both (whichever costs the least loss per
        byte), or units:50 (half of the units, then synapses); the first three if left out.
    formats
        With --budgets: number formats of C: c (float32), c-int8 (int8 weights) or c-int8-int8
        (int8 activations as well); the first two if left out.
    retrain_epochs
        With --budgets: number of training epochs after every step.
    seed
        Seed of training a new network and, with --budgets, of retraining.
    out
        Name of the figure without a suffix; it is written as PNG and SVG.
    threads
        Number of CPU threads that torch may use.
    """
    import torch

    from sentei import datasets
    from sentei.cli.loading import loaded
    from sentei.cli.screen import column, console, head, progress, say
    from sentei.experiments import comparing
    from sentei.reporting import figures
    from sentei.reporting.tables import compared

    torch.set_num_threads(threads)
    chosen = [None if name == "none" else name for name in repairs or ("none", "least_squares")]
    todo = comparing.ways(criteria, chosen, retrain or (0,))
    network, dead, split = loaded(
        model, lambda flat: datasets.load(data, flat=flat, target=column(target)), seed
    )
    if budgets is not None:
        settings = {"paths": paths, "formats": formats, "units": (criteria or [None])[0]}
        _by_size(
            network,
            split,
            [size.strip() for size in budgets.split(",")],
            out,
            mask=dead,
            retrain=retrain_epochs,
            samples=samples,
            seed=seed,
            **{name: value for name, value in settings.items() if value is not None},
        )
        return
    with progress("comparing", len(todo) * seeds) as advance:
        curves = comparing.compare(
            network,
            split.train,
            split.validation,
            todo,
            keep=keep,
            steps=steps,
            samples=samples,
            seeds=seeds,
            mask=dead,
            on_progress=lambda done, total, way: advance(done, way, total),
        )
    head(f"{model}: accuracy on validation samples, largest area first")
    console.print(compared(comparing.rows(curves)))
    figure, axes = figures.canvas(9.0, 5.0)
    figures.comparison(axes, curves)
    say(f"the figure is in [bold]{figures.write(figure, out)[0]}[/bold]")


def _by_size(
    network: nn.Module, split: Split, budgets: Sequence[str], out: Path, **settings: Any
) -> None:
    from sentei.cli.screen import console, head, progress, say
    from sentei.experiments.budgets import accuracy_at_budgets
    from sentei.formats.c.compiled import compiler
    from sentei.reporting import figures
    from sentei.reporting.tables import budgets as table

    with progress("comparing", 1) as advance:
        curves = accuracy_at_budgets(
            network,
            split,
            budgets,
            on_progress=lambda done, total, words: advance(done, words, total),
            **settings,
        )
    measured = "the compiled C code" if compiler() else "the C code, simulated"
    head(f"Test accuracy of {measured}; networks chosen on validation; planned bytes")
    console.print(table(curves))
    figure, axes = figures.canvas(7.0, 4.6)
    figures.budget_curves(axes, curves)
    say(f"the figure is in [bold]{figures.write(figure, out)[0]}[/bold]")
