"""The runs of the study: one criterion on one network, pruned in every way to five sizes.

All criteria keep the same share of every group, so that at each size all networks have the same
shape, or as many weights in each layer: they differ in which were kept, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from time import process_time
from typing import Any

import torch
from torch import nn

from sentei.criteria import Probe, Trajectory, scores
from sentei.criteria import criterion as named
from sentei.criteria.agreement import spearman
from sentei.criteria.weights import fixed
from sentei.errors import CriterionError
from sentei.jobs.results import Result
from sentei.metrics import R2
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons, find_synapses
from sentei.papers.redundancy import effective_rank
from sentei.papers.study.tasks import Trained, trained
from sentei.pruning.loop import prune
from sentei.pruning.measuring import Measurement
from sentei.pruning.rules.proposals import Proposal, ranked
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.run import Step
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training import Evaluation, FineTune, Recipe, evaluate
from sentei.training.train import Course

ONE_SHOT, ITERATIVE, DURING = "one shot", "iterative", "while training"
RETRAINED = 2_560  # training samples of an epoch of retraining: ten updates
EVENTS = 10  # cuts in a training
UNTIL = 0.6  # part of a training in which units are removed


@dataclass(frozen=True)
class Members:
    """What a part of the study removes.

    Attributes:
        points: percent of each group's members that stay: the operating points.
        repairs: what replaces the removed ones, by name; None is nothing.
        reference: the criterion that the scores and the costs of all others are compared with.
        groups: a function of a trained network that returns its groups that may be cut.
    """

    points: tuple[int, ...]
    repairs: tuple[str | None, ...]
    reference: str
    groups: Callable[[Trained], Sequence[Group]]


UNITS, WEIGHTS = "units", "weights"
MEMBERS: dict[str, Members] = {
    UNITS: Members(
        (75, 50, 35, 20, 10),
        (None, "least_squares", "least_loss"),
        "ablation",
        lambda base: base.groups,
    ),
    WEIGHTS: Members(
        (50, 35, 20, 10, 5), (None,), "magnitude", lambda base: find_synapses(base.network)
    ),
}


@dataclass(frozen=True)
class Shares:
    """A schedule: the percentages of a group's members that stay, step by step."""

    percents: tuple[int, ...]

    def __call__(self, progress: Progress) -> int:
        """Return how many members stay."""
        at = min(progress.step, len(self.percents)) - 1
        return max(1, round(progress.start * self.percents[at] / 100))


@dataclass(frozen=True)
class Gradually:
    """A schedule for a training: many members go at first, and few at the end.

    Source: Zhu and Gupta (2017), To prune, or not to prune, equation 1.
    """

    percent: int

    def __call__(self, progress: Progress) -> int:
        """Return how many members stay."""
        cuts = progress.total or EVENTS  # fewer in a training of fewer updates
        left = max(0.0, 1 - progress.step / cuts)
        share = self.percent / 100 + (1 - self.percent / 100) * left**3
        return max(1, round(progress.start * share))


def after_training(
    task: str,
    seed: int,
    criterion: str,
    short: bool = False,
    quick: bool = False,
    members: str = UNITS,
) -> Result:
    """Prune a trained network by a criterion, with every repair and schedule, retrained or not.

    With `short` only from point to point, by no repair and by least squares, not retrained.

    Returns:
        `seconds` of a processor that one scoring takes; `agreement`, Spearman's rank correlation of
        the first scores with those of the reference; and `paths`: each a schedule, a repair,
        whether it is retrained, and qualities and losses at the operating points. Or `refused`, the
        reason why the criterion cannot score this network.
    """
    base, what = trained(task, seed, quick), MEMBERS[members]
    try:
        first, seconds = _first_scores(base, what, seed, criterion)
    except CriterionError as error:
        return {"refused": str(error)}
    exact, _ = _first_scores(base, what, seed, what.reference)
    agreement = [spearman(first[group], exact[group]) for group in first]
    repairs, retrained = (what.repairs[:2], (False,)) if short else (what.repairs, (False, True))
    paths = [] if short else [*_one_shot(base, what, seed, first)]
    paths += [_iterative(base, what, seed, criterion, *way) for way in product(repairs, retrained)]
    return {"seconds": seconds, "agreement": sum(agreement) / len(agreement), "paths": paths}


def _first_scores(
    base: Trained, what: Members, seed: int, name: str
) -> tuple[dict[Group, Any], float]:
    """Score all members of the unpruned network; also the seconds of a processor it takes."""
    probe = _probe(base, base.network, base.past)
    begin = process_time()
    found = {group: scores(named(name, seed), probe, group) for group in what.groups(base)}
    return found, process_time() - begin


def _one_shot(
    base: Trained, what: Members, seed: int, first: dict[Group, Any]
) -> Iterator[dict[str, Any]]:
    """Yield paths whose points are each cut from the unpruned network, by its scores.

    Point number i is then retrained for i epochs: as many as an iterative path has had there.
    """
    for repair in what.repairs:
        cut, retrained = [], []
        for number, percent in enumerate(what.points, 1):
            propose = ranked(fixed(first), Shares((percent,)), within="group", repair=repair)
            network, steps = _pruned(base, what, propose)
            cut.append(_quality(steps[-1].measured))
            _finetune(base, seed, number)(network, steps[-1].mask)
            retrained.append(_quality(_evaluated(base, network)))
        yield _path(ONE_SHOT, repair, False, cut)
        yield _path(ONE_SHOT, repair, True, retrained)


def _iterative(
    base: Trained, what: Members, seed: int, criterion: str, repair: str | None, retrains: bool
) -> dict[str, Any]:
    """Return a path from point to point, scored anew at each; with an epoch of training or none."""
    propose = ranked(named(criterion, seed), Shares(what.points), within="group", repair=repair)
    retrain = _finetune(base, seed) if retrains else None
    _, steps = _pruned(base, what, propose, retrain)
    found = [_quality(step.measured) for step in steps[1:]]
    # A step that has nothing to remove ends the run: groups of one unit stay as they are.
    found += found[-1:] * (len(what.points) - len(found))
    return _path(ITERATIVE, repair, retrains, found)


def while_training(
    task: str,
    seed: int,
    criterion: str,
    quick: bool = False,
    members: str = UNITS,
    repair: str | None = None,
) -> Result:
    """Train the network anew for each operating point, and prune it by a criterion on the way.

    Returns:
        `paths`, one with this repair; or `refused`: see `after_training`.
    """
    base, what = trained(task, seed, quick), MEMBERS[members]
    try:
        found = [
            _trained_smaller(
                base,
                what,
                seed,
                ranked(named(criterion, seed), Gradually(percent), within="group", repair=repair),
            )
            for percent in what.points
        ]
    except CriterionError as error:
        return {"refused": str(error)}
    return {"paths": [_path(DURING, repair, False, found)]}


def _trained_smaller(
    base: Trained, what: Members, seed: int, propose: Proposal
) -> tuple[float, float]:
    """Train a network that loses members on the way; return its quality and its loss."""
    network = base.task.network(base.task.widths, seed)
    recipe = replace(base.task.recipe, seed=seed)
    past = Trajectory(network)
    course = Course(network, base.learn, recipe)
    updates = recipe.epochs * -(-base.learn.rows // recipe.batch_size)
    pruner = PruneWhileTraining(
        network,
        what.groups(base),
        propose,
        every=max(1, int(UNTIL * updates / EVENTS)),
        total=updates,
        probe=_probe(base, network, past),
        trajectory=past,
        finish=UNTIL,
    ).attach(course.optimizer)
    for epoch in range(recipe.epochs):
        course.epoch(epoch, ())
    pruner.detach()
    return _quality(_evaluated(base, network))


def from_scratch(task: str, seed: int, quick: bool = False, members: str = UNITS) -> Result:
    """Train new networks that have the sizes of the operating points from the start.

    Where single weights are removed, a new network lacks as many in each layer, drawn at random.

    Returns:
        `whole`, quality and loss of the unpruned network; `paths`, one for networks trained as
        long as the unpruned one; `sizes`, parameters (or weights, where these are removed) and
        multiply-adds, the unpruned network's first; `ranks`, the effective rank of each group's
        outputs as a share of its units.
    """
    base, what = trained(task, seed, quick), MEMBERS[members]
    _, steps = _pruned(base, what, ranked("magnitude", Shares(what.points), within="group"))
    probe = _probe(base, base.network, base.past)
    units = [group for group in what.groups(base) if isinstance(group, Neurons)]
    found = [
        _quality(_evaluated(base, _new(base, what, percent, seed + 100))) for percent in what.points
    ]
    return {
        "whole": _quality(steps[0].measured),
        "paths": [_path("from scratch", None, False, found)],
        "sizes": [
            (now.parameters if units else now.synapses, now.multiply_adds)
            for now in (step.measured for step in steps)
        ],
        "ranks": [effective_rank(probe, group) / group.size for group in units],
    }


def _new(base: Trained, what: Members, percent: int, seed: int) -> nn.Module:
    """Return a new network that was trained at the size of an operating point."""
    schedule, groups = Shares((percent,)), what.groups(base)
    kept = {group: schedule(Progress(1, 1, group.size, group.size)) for group in groups}
    as_units = all(isinstance(group, Neurons) for group in groups)
    network = base.task.network([*kept.values()] if as_units else base.task.widths, seed)
    draw = torch.Generator().manual_seed(seed)
    mask = Mask.full([] if as_units else groups)
    for group in mask.groups:
        mask = mask.without({group: torch.randperm(group.size, generator=draw)[kept[group] :]})
    FineTune(base.learn, replace(base.task.recipe, seed=seed))(network, mask)
    return network


def _pruned(
    base: Trained, what: Members, propose: Proposal, retrain: FineTune | None = None
) -> tuple[nn.Module, list[Step]]:
    """Prune a copy of the network, measured on test samples at each step."""
    network, past = base.copy()
    probe = _probe(base, network, past)
    judge = Probe(network, base.judge, base.task.recipe.loss)
    groups = what.groups(base)
    return network, [*prune(network, groups, probe, propose, retrain=retrain, evaluate=judge)]


def _probe(base: Trained, network: nn.Module, past: Trajectory) -> Probe:
    return Probe(network, base.learn.first(base.task.seen), base.task.recipe.loss, past)


def _finetune(base: Trained, seed: int, epochs: int = 1) -> FineTune:
    recipe = Recipe(epochs, lr=0.002, batch_size=256, seed=seed, loss=base.task.recipe.loss)
    return FineTune(base.learn.first(RETRAINED), recipe)


def _evaluated(base: Trained, network: nn.Module) -> Evaluation:
    return evaluate(network, base.judge, loss=base.task.recipe.loss)


def _quality(found: Measurement | Evaluation) -> tuple[float, float]:
    """Return accuracy, or R² where the network predicts values, and loss."""
    quality = found.metrics[R2] if found.accuracy is None else found.accuracy
    return quality, found.loss


def _path(
    schedule: str, repair: str | None, retrained: bool, found: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    qualities, losses = zip(*found, strict=True)
    return {
        "schedule": schedule,
        "repair": repair or "none",
        "retrained": retrained,
        "quality": qualities,
        "loss": losses,
    }
