"""Training on Letter Recognition, pruned on the way or not: what every experiment is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn

from sentei.criteria.trajectory import Trajectory
from sentei.datasets import Split, load
from sentei.errors import ScheduleError
from sentei.network.tracing.tracing import find_units
from sentei.papers.sensitivity.checks import Check, Counting, Hack, Same
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Proposal
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.samples import Samples
from sentei.training import Recipe, build, evaluate
from sentei.training.train import Course

NOISE = (0.25, 0.5)  # deviations of noise added to the standardised inputs
POINTS = 50  # of a validation curve


def trained(
    widths: str,
    seed: int,
    epochs: int,
    optimizer: str = "rmsprop",
    lr: float = 0.01,
    batch: int = 256,
    split: str = "default",
    check: Mapping[str, Any] | None = None,
    controls: Sequence[str] = (),
    afresh: bool = False,
    decay: str | None = None,
) -> dict[str, Any]:
    """Train a network, prune it on the way, and tell how it went.

    Args:
        widths: of `training.build`.
        seed: of weights, order and the split.
        epochs: of the recipe.
        optimizer: likewise.
        lr: likewise.
        batch: likewise; 0 is the whole of the data.
        split: "default", 70/15/15, or "authors", all of the first 16,000 rows to train on.
        check: settings of `Check`; nothing is pruned if None.
        controls: criteria that remove as many units at the same moments, for comparison.
        afresh: also train a new network of the sizes that were left.
        decay: likewise.

    Returns:
        Accuracies, curves, units left by layer, seconds; the same for every control.

    Raises:
        ScheduleError: no check would ever come; said before anything is trained.
    """
    data = data_of(split, seed)
    recipe = Recipe(epochs, optimizer, lr, batch or data.train.rows, seed=seed, decay=decay)
    if check is None:
        return course(widths, data, recipe)
    rule = Check(**check)
    counting = Counting(rule.propose(epochs))
    told = course(widths, data, recipe, rule, counting)
    told["removed"] = counting.removed
    for criterion in controls:
        same = Same(criterion, counting.removed)
        told[criterion] = course(widths, data, recipe, rule, same, criterion == "karnin")
    if afresh:
        ends, activation = widths.split(":")
        first, *_, last = ends.split("-")
        left = "-".join([first, *map(str, told["units"]), last])
        told["afresh"] = course(f"{left}:{activation}", data, recipe)
    return told


def data_of(split: str, seed: int) -> Split:
    """Letter Recognition; on the authors' split nothing is held back of the first 16,000 rows."""
    data = load(f"letter:{split}" if split != "default" else "letter", seed=seed)
    if split == "default":
        return data
    both = (torch.cat(parts) for parts in zip(data.train, data.validation, strict=True))
    return Split(data.name, Samples(*both), data.validation, data.test, data.features, data.classes)


def course(
    widths: str,
    data: Split,
    recipe: Recipe,
    rule: Check | None = None,
    propose: Proposal | None = None,
    sums: bool = False,
) -> dict[str, Any]:
    """One training from the first epoch to the last, and what came out.

    Args:
        widths: of `training.build`.
        data: what is trained, validated and tested on.
        recipe: how.
        rule: when and how units go.
        propose: which go; nothing is pruned if None.
        sums: record what Karnin's criterion asks for.
    """
    running = Course(build(widths, seed=recipe.seed), data.train, recipe)
    network, pruner, hack = running.model, None, None
    if rule is not None and propose is not None:
        hack = Hack(propose) if rule.way == "hack" else None
        pruner = attached(running, rule, propose if hack is None else hack, sums)
    told: dict[str, Any] = {"curve": [], "loss": [], "seconds": 0.0}
    for epoch in range(recipe.epochs):
        start = perf_counter()
        told["loss"].append(running.epoch(epoch, ()))
        told["seconds"] += perf_counter() - start
        if pruner is not None and rule is not None:
            released(pruner, rule, (epoch + 1) / recipe.epochs)
        if epoch % max(recipe.epochs // POINTS, 1) == 0:
            told["curve"].append([epoch + 1, *evaluate(network, data.validation)])
    if pruner is not None:
        pruner.detach()
    if hack is not None:
        told["relearnt"] = hack.relearnt(network)
    return {**told, **judged(network, data), "units": left(network, pruner)}


def attached(
    running: Course, rule: Check, propose: Proposal, sums: bool = False
) -> PruneWhileTraining:
    """A pruner that goes along with a course.

    Raises:
        ScheduleError: no check would ever come.
    """
    network, samples, epochs = running.model, running.samples, running.recipe.epochs
    updates = -(-samples.rows // running.recipe.batch_size)
    example = samples.inputs[:64]
    try:
        pruner = PruneWhileTraining(
            network,
            find_units(network, example),
            propose,
            every=rule.every * updates,
            total=epochs * updates,
            probe=Probe(network, samples.first(2_000)),
            trajectory=Trajectory(network, sums),
            delete=rule.way == "delete",
            example=example,
            finish=rule.finish,
        )
    except ScheduleError as error:
        raise ScheduleError(
            f"checks every {rule.every} epochs never come in the first {rule.finish:.0%} of "
            f"{epochs} epochs ({error})"
        ) from error
    return pruner.attach(running.optimizer)


def released(pruner: PruneWhileTraining, rule: Check, done: float) -> None:
    """Leave the loop once the last check is over: what was deleted needs no more watching."""
    if rule.way == "delete" and done > rule.finish:
        pruner.detach()


def judged(network: nn.Module, data: Split) -> dict[str, Any]:
    """Accuracies on all parts and under noise, parameters, and which class is taken for which."""
    told = {
        part: evaluate(network, getattr(data, part)).accuracy or 0.0
        for part in ("train", "validation", "test")
    }
    noise = torch.Generator().manual_seed(0)
    for deviation in NOISE:
        shaken = data.test.inputs + deviation * torch.randn(data.test.inputs.shape, generator=noise)
        told[f"noise {deviation}"] = (
            evaluate(network, Samples(shaken, data.test.targets)).accuracy or 0.0
        )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"accuracy": told, "parameters": parameters, "confusion": _confusion(network, data)}


def left(network: nn.Module, pruner: PruneWhileTraining | None = None) -> list[int]:
    """Units by hidden layer: alive ones where a pruner masks them."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)][:-1]
    if pruner is None:
        return [layer.out_features for layer in layers]
    return [pruner.mask.count(group) for group in pruner.groups]


@torch.no_grad()
def _confusion(network: nn.Module, data: Split) -> list[list[int]]:
    said, classes = network(data.test.inputs).argmax(1), len(data.classes)
    flat = torch.bincount(data.test.targets * classes + said, minlength=classes**2)
    return flat.reshape(classes, classes).tolist()
