"""`sentei compare`."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingFile


def compare(
    model: ExistingFile,
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
    out: Path = Path("compared"),
    threads: int = 1,
) -> None:
    """Prune a saved network by every criterion, and show who did best.

    Parameters
    ----------
    model
        A network that sentei saved.
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
    out
        The figure's name, without an ending.
    threads
        How many torch may use.
    """
    import torch

    from sentei import datasets, formats, training
    from sentei.cli.screen import column, console, head, progress, say
    from sentei.reporting import comparing, figures
    from sentei.reporting.tables import compared

    torch.set_num_threads(threads)
    mending = [None if name == "none" else name for name in repairs or ("none", "least_squares")]
    todo = comparing.ways(criteria, mending, retrain or (0,))
    network = formats.load(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, target=column(target))
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
            said=lambda done, total, way: advance(done, way, total),
        )
    head(f"{model}: accuracy on validation, largest area first")
    console.print(compared(comparing.rows(curves)))
    figure, axes = figures.canvas(9.0, 5.0)
    figures.comparison(axes, curves)
    say(f"the figure is in [bold]{figures.write(figure, out)[0]}[/bold]")
