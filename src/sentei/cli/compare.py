"""`sentei compare`."""

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
    """Prune a network by every criterion, and show who did best; or fit it into several budgets.

    With --budgets it goes down to each of them by units, by synapses and by both, in float32 and
    in int8, and the accuracy of the emitted C is drawn against bytes.

    Parameters
    ----------
    model
        A network that sentei saved, or the widths of one to be trained first, as for train.
    data
        As for train; criteria look at training samples, accuracy is measured on validation.
    target
        The column of a .csv to predict, by name or position.
    criteria
        Which; all there are if left out.
    repairs
        Who takes over: none, mean, twin, affine, least_squares; none and least_squares if left out.
    retrain
        Epochs of training after each step; 0 if left out. Several are compared.
    keep
        Units left at the end.
    steps
        How many cuts that takes.
    samples
        How many training samples a criterion looks at.
    seeds
        How often each way is repeated.
    budgets
        Compare by size instead: "4KiB,8KiB,16KiB,32KiB,64KiB". The criterion, the one of --criteria
        if one is named, orders units; synapses go by magnitude.
    paths
        With --budgets: units, synapses, both (whichever costs the least loss per byte), or units:50
            (half of the units, then synapses); the first three if left out.
    formats
        With --budgets: c (float32), c-int8 or c-int8-int8; the first two if left out.
    retrain_epochs
        With --budgets: epochs of training after every step.
    seed
        With --budgets: of retraining.
    out
        The figure's name, without an ending.
    threads
        How many torch may use.
    """
    import torch

    from sentei import datasets
    from sentei.cli.loading import loaded
    from sentei.cli.screen import column, console, head, progress, say
    from sentei.experiments import comparing
    from sentei.reporting import figures
    from sentei.reporting.tables import compared

    torch.set_num_threads(threads)
    mending = [None if name == "none" else name for name in repairs or ("none", "least_squares")]
    todo = comparing.ways(criteria, mending, retrain or (0,))
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
    head(f"{model}: accuracy on validation, largest area first")
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
    measured = "the emitted code, compiled here" if compiler() else "what the C code computes"
    head(f"Test accuracy of {measured}; chosen on validation; bytes as planned")
    console.print(table(curves))
    figure, axes = figures.canvas(7.0, 4.6)
    figures.budget_curves(axes, curves)
    say(f"the figure is in [bold]{figures.write(figure, out)[0]}[/bold]")
