"""`sentei rank`."""

from __future__ import annotations

from cyclopts.types import ExistingFile


def rank(
    model: ExistingFile,
    *,
    data: str = "mnist",
    target: str = "-1",
    criterion: str = "ablation",
    against: str | None = None,
    loss: str = "cross_entropy",
    samples: int = 10_000,
    most: int = 10,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Rank the units of a saved network by how little they matter.

    Parameters
    ----------
    model
        A network that sentei saved.
    data
        As for train; training samples are looked at.
    target
        The column of a .csv to predict, by name or position.
    criterion
        What matters least: ablation (exact), taylor1 or taylor2 (its first and second order),
        obd, skeletonization, magnitude or random; taylor1-absolute, taylor1-per-sample and
        taylor2-diagonal are other readings.
    against
        A second criterion; prints how far the two agree (Spearman's rank correlation).
    loss
        What the network was trained on: cross_entropy, half_squared_error, binary_cross_entropy.
    samples
        How many training samples to look at.
    most
        How many units to list from either end.
    seed
        Of the data's split.
    threads
        How many torch may use.
    """
    import torch

    import sentei
    from sentei import datasets, formats, training
    from sentei.cli.screen import column, console, head
    from sentei.criteria import scores
    from sentei.reporting.tables import agreement, ranking

    torch.set_num_threads(threads)
    network = formats.load(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    probe = sentei.Probe(network, split.train.first(samples), loss)
    groups = sentei.find_units(network, split.train.inputs[:64])
    judged = {group.name: scores(criterion, probe, group) for group in groups}
    for name, values in judged.items():
        head(f"{name}: {len(values)} units by {criterion}, least important first")
        console.print(ranking(values, criterion, most))
    if against is not None:
        other = {group.name: scores(against, probe, group) for group in groups}
        head(f"{criterion} against {against}")
        console.print(agreement(judged, other))
