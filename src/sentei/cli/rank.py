"""The command `sentei rank`: score and list the units of a saved network."""

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
    """List the hidden units of a saved network by score, least important first.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors).
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. Units are scored on its training samples.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    criterion
        How units are scored: ablation (exact rise in loss), taylor1 or taylor2 (its first- and
        second-order estimates), obd, skeletonization, magnitude or random; taylor1-absolute,
        taylor1-per-sample and taylor2-diagonal are variants.
    against
        A second criterion; prints Spearman's rank correlation of the two.
    loss
        Loss that the network was trained with: cross_entropy, half_squared_error or
        binary_cross_entropy.
    samples
        Number of training samples that units are scored on.
    most
        Number of units to list from either end of the ranking.
    seed
        Seed of the random split into training, validation and test samples.
    threads
        Number of CPU threads that torch may use.
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
    scored = {group.name: scores(criterion, probe, group) for group in groups}
    for name, values in scored.items():
        head(f"{name}: {len(values)} units by {criterion}, least important first")
        console.print(ranking(values, criterion, most))
    if against is not None:
        other = {group.name: scores(against, probe, group) for group in groups}
        head(f"{criterion} against {against}")
        console.print(agreement(scored, other))
