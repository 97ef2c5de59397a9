"""The command `sentei rank`: score and list the units of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from sentei.cli.bounds import Count
from sentei.cli.options import (
    Criterion,
    Data,
    Depth,
    Loss,
    Model,
    RunOnDevice,
    Samples,
    Weights,
    seeded,
)
from sentei.cli.screen import Result, head

if TYPE_CHECKING:
    from torch import Tensor

SCORES = Parameter(group=Group("Scores", sort_key=1))


def rank(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    criterion: Annotated[Criterion, SCORES] = "ablation",
    against: Annotated[str | None, SCORES] = None,
    most: Annotated[Count, SCORES] = 10,
    depth: Depth = False,
    data: Data = Data(),
    samples: Samples = 10_000,
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """List the hidden units of a network by score on training samples, least important first.

    With `--depth`, its residual branches too.

    Parameters
    ----------
    against
        A second criterion; prints Spearman's rank correlation of the two.
    most
        Number of units to list from either end of the ranking.
    """
    import sentei
    from sentei.cli.loading import loaded, own_loss
    from sentei.criteria import scores
    from sentei.criteria.agreement import spearman
    from sentei.network.tracing.inventory import some_units
    from sentei.network.units import Branches, members_word
    from sentei.reporting.tables import agreement, ranking

    first = seeded(criterion, data.seed)
    second = None if against is None else seeded(against, data.seed)
    run.start()
    network, _, split = loaded(model, data, loss, weights, run.place())
    probe = sentei.Probe(network, split.train.first(samples), own_loss(loss))
    groups = some_units(network, split.train.first(64).inputs, depth=depth)
    branches = {group.name: group.names for group in groups if isinstance(group, Branches)}
    scored = {group.name: scores(first, probe, group) for group in groups}
    found: dict[str, Any] = {"criterion": criterion, "scores": _lists(scored)}
    found |= {"branches": branches} if depth else {}
    shown = []
    for group, values in zip(groups, scored.values(), strict=True):
        what = members_word(group) if isinstance(group, Branches) else "units"
        title = head(f"{group.name}: {len(values)} {what} by {criterion}, least important first")
        shown += [title, ranking(values, criterion, most, branches.get(group.name, ()))]
    if second is not None:
        other = {group.name: scores(second, probe, group) for group in groups}
        alike = {name: spearman(values, other[name]) for name, values in scored.items()}
        units = {group.name: group.size for group in groups}
        found |= {"against": against, "other": _lists(other), "spearman": alike}
        shown += [head(f"{criterion} against {against}"), agreement(units, alike)]
    return Result(found, shown)


def _lists(scored: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in scored.items()}
