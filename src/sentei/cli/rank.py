"""The command `sentei rank`: score and list the units of a network."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter

from sentei.cli.options import Criterion, Data, Loss, Model, Run, Samples, seeded

SCORES = Parameter(group=Group("Scores", sort_key=1))


def rank(
    model: Model,
    *,
    loss: Loss = None,
    criterion: Annotated[Criterion, SCORES] = "ablation",
    against: Annotated[str | None, SCORES] = None,
    most: Annotated[int, SCORES] = 10,
    data: Data = Data(),
    samples: Samples = 10_000,
    run: Run = Run(),
) -> None:
    """List the hidden units of a network by score on training samples, least important first.

    Parameters
    ----------
    against
        A second criterion; prints Spearman's rank correlation of the two.
    most
        Number of units to list from either end of the ranking.
    """
    import sentei
    from sentei.cli.loading import loaded
    from sentei.cli.screen import console, head
    from sentei.criteria import scores
    from sentei.reporting.tables import agreement, ranking

    first = seeded(criterion, data.seed)
    second = None if against is None else seeded(against, data.seed)
    run.start()
    network, _, split = loaded(model, data, loss)
    probe = sentei.Probe(network, split.train.first(samples))
    groups = sentei.find_units(network, split.train.inputs[:64])
    scored = {group.name: scores(first, probe, group) for group in groups}
    for name, values in scored.items():
        head(f"{name}: {len(values)} units by {criterion}, least important first")
        console.print(ranking(values, criterion, most))
    if second is not None:
        other = {group.name: scores(second, probe, group) for group in groups}
        head(f"{criterion} against {against}")
        console.print(agreement(scored, other))
