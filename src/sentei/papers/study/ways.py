"""The runs of the study: one criterion on one network, pruned in every way to five sizes.

All criteria keep the same share of every group, so that at each size all networks have the same
shape: they differ in which units were kept, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from time import process_time
from typing import Any

from torch import nn

from sentei.criteria import Probe, Trajectory, scores
from sentei.criteria import criterion as named
from sentei.criteria.agreement import spearman
from sentei.criteria.weights import fixed
from sentei.errors import CriterionError
from sentei.jobs.results import Result
from sentei.metrics import R2
from sentei.network.units import Group, Neurons
from sentei.papers.redundancy import effective_rank
from sentei.papers.study.tasks import Trained, trained
from sentei.pruning.loop import prune
from sentei.pruning.measuring import Measurement
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.run import Step
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training import Evaluation, FineTune, Recipe, evaluate
from sentei.training.train import Course

POINTS = (75, 50, 35, 20, 10)  # percent of each group's units that stay: the operating points
REPAIRS = (None, "least_squares", "least_loss")
ONE_SHOT, ITERATIVE, DURING = "one shot", "iterative", "while training"
RETRAINED = 2_560  # training samples of an epoch of retraining: ten updates
EVENTS = 10  # cuts in a training
UNTIL = 0.6  # part of a training in which units are removed


@dataclass(frozen=True)
class Shares:
    """A schedule: the percentages of a group's units that stay, step by step."""

    percents: tuple[int, ...]

    def __call__(self, progress: Progress) -> int:
        """Return how many units stay."""
        at = min(progress.step, len(self.percents)) - 1
        return max(1, round(progress.start * self.percents[at] / 100))


@dataclass(frozen=True)
class Gradually:
    """A schedule for a training: many units go at first, and few at the end.

    Source: Zhu and Gupta (2017), To prune, or not to prune, equation 1.
    """

    percent: int

    def __call__(self, progress: Progress) -> int:
        """Return how many units stay."""
        left = max(0.0, 1 - progress.step / EVENTS)
        share = self.percent / 100 + (1 - self.percent / 100) * left**3
        return max(1, round(progress.start * share))


def after_training(
    task: str, seed: int, criterion: str, short: bool = False, quick: bool = False
) -> Result:
    """Prune a trained network by a criterion, with every repair and schedule, retrained or not.

    With `short` only from point to point, by no repair and by least squares, not retrained.

    Returns:
        `seconds` of a processor that one scoring takes; `agreement`, Spearman's rank correlation of
        the first scores with exact ablation; and `paths`: each a schedule, a repair, whether it is
        retrained, and qualities and losses at the operating points. Or `refused`, the reason why
        the criterion cannot score this network.
    """
    base = trained(task, seed, quick)
    try:
        first, seconds = _first_scores(base, seed, criterion)
    except CriterionError as error:
        return {"refused": str(error)}
    exact, _ = _first_scores(base, seed, "ablation")
    agreement = [spearman(first[group], exact[group]) for group in first]
    ways = product(REPAIRS[:2] if short else REPAIRS, (False,) if short else (False, True))
    paths = [] if short else [*_one_shot(base, seed, first)]
    paths += [_iterative(base, seed, criterion, *way) for way in ways]
    return {"seconds": seconds, "agreement": sum(agreement) / len(agreement), "paths": paths}


def _first_scores(base: Trained, seed: int, name: str) -> tuple[dict[Group, Any], float]:
    """Score all units of the unpruned network; also the seconds of a processor that it takes."""
    probe = _probe(base, base.network, base.past)
    begin = process_time()
    found = {group: scores(named(name, seed), probe, group) for group in base.groups}
    return found, process_time() - begin


def _one_shot(base: Trained, seed: int, first: dict[Group, Any]) -> Iterator[dict[str, Any]]:
    """Yield paths whose points are each cut from the unpruned network, by its scores.

    Point number i is then retrained for i epochs: as many as an iterative path has had there.
    """
    for repair in REPAIRS:
        cut, retrained = [], []
        for number, percent in enumerate(POINTS, 1):
            network, past = base.copy()
            propose = ranked(fixed(first), Shares((percent,)), within="group", repair=repair)
            step = _steps(base, network, past, propose)[-1]
            cut.append(_quality(step.measured))
            _finetune(base, seed, number)(network, step.mask)
            retrained.append(_quality(_evaluated(base, network)))
        yield _path(ONE_SHOT, repair, False, cut)
        yield _path(ONE_SHOT, repair, True, retrained)


def _iterative(
    base: Trained, seed: int, criterion: str, repair: str | None, retrains: bool
) -> dict[str, Any]:
    """Return a path from point to point, scored anew at each; with an epoch of training or none."""
    network, past = base.copy()
    propose = ranked(named(criterion, seed), Shares(POINTS), within="group", repair=repair)
    retrain = _finetune(base, seed) if retrains else None
    steps = _steps(base, network, past, propose, retrain)
    found = [_quality(step.measured) for step in steps[1:]]
    # A step that has nothing to remove ends the run: groups of one unit stay as they are.
    found += found[-1:] * (len(POINTS) - len(found))
    return _path(ITERATIVE, repair, retrains, found)


def while_training(task: str, seed: int, criterion: str, quick: bool = False) -> Result:
    """Train the network anew for each operating point, and prune it by a criterion on the way.

    Returns:
        `paths`, one without repair; or `refused`: see `after_training`.
    """
    base = trained(task, seed, quick)
    try:
        found = [_trained_smaller(base, seed, criterion, percent) for percent in POINTS]
    except CriterionError as error:
        return {"refused": str(error)}
    return {"paths": [_path(DURING, None, False, found)]}


def _trained_smaller(base: Trained, seed: int, criterion: str, percent: int) -> tuple[float, float]:
    """Train a network that loses units on the way; return its quality and its loss."""
    network = base.task.network(base.task.widths, seed)
    recipe = replace(base.task.recipe, seed=seed)
    past = Trajectory(network)
    course = Course(network, base.learn, recipe)
    updates = recipe.epochs * -(-base.learn.rows // recipe.batch_size)
    probe = _probe(base, network, past)
    pruner = PruneWhileTraining(
        network,
        base.groups,
        ranked(named(criterion, seed), Gradually(percent), within="group"),
        every=max(1, int(UNTIL * updates / EVENTS)),
        total=updates,
        probe=probe,
        trajectory=past,
        finish=UNTIL,
    ).attach(course.optimizer)
    for epoch in range(recipe.epochs):
        course.epoch(epoch, ())
    pruner.detach()
    return _quality(_evaluated(base, network))


def from_scratch(task: str, seed: int, quick: bool = False) -> Result:
    """Train new networks that have the sizes of the operating points from the start.

    Returns:
        `whole`, quality and loss of the unpruned network; `paths`, one for networks trained as
        long as the unpruned one; `sizes`, parameters and multiply-adds, the unpruned network's
        first; `ranks`, the effective rank of each group's outputs as a share of its units.
    """
    base = trained(task, seed, quick)
    network, past = base.copy()
    steps = _steps(base, network, past, ranked("magnitude", Shares(POINTS), within="group"))
    probe = _probe(base, base.network, base.past)
    found = []
    for percent in POINTS:
        schedule = Shares((percent,))
        widths = [schedule(Progress(1, 1, group.size, group.size)) for group in base.groups]
        small = base.task.network(widths, seed + 100)
        course = Course(small, base.learn, replace(base.task.recipe, seed=seed + 100))
        for epoch in range(course.recipe.epochs):
            course.epoch(epoch, ())
        found.append(_quality(_evaluated(base, small)))
    return {
        "whole": _quality(steps[0].measured),
        "paths": [_path("from scratch", None, False, found)],
        "sizes": [(step.measured.parameters, step.measured.multiply_adds) for step in steps],
        "ranks": [effective_rank(probe, g) / g.size for g in base.groups if isinstance(g, Neurons)],
    }


def _steps(
    base: Trained,
    network: nn.Module,
    past: Trajectory,
    propose: Any,
    retrain: FineTune | None = None,
) -> list[Step]:
    """Prune a copy of the network, measured on test samples at each step."""
    probe = _probe(base, network, past)
    judge = Probe(network, base.judge, base.task.recipe.loss)
    return list(prune(network, base.groups, probe, propose, retrain=retrain, evaluate=judge))


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
