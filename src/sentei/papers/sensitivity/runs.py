"""Shared training runs of the sensitivity experiments, on Letter Recognition, pruned or not."""

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

NOISE = (0.25, 0.5)  # standard deviations of the noise added to the standardised inputs
POINTS = 50  # number of points of a validation curve


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
    """Train a network, prune it during training, and train the controls for comparison.

    Args:
        widths: argument of `training.build`, such as "16-64-26:sigmoid".
        seed: of weights, order of samples, and the split.
        epochs: of the recipe.
        optimizer: of the recipe.
        lr: of the recipe.
        batch: of the recipe; 0 is the whole data set.
        split: "default", 70/15/15, or "authors", all of the first 16,000 rows for training.
        check: settings of `Check`; nothing is pruned if None.
        controls: criteria that remove as many units at the same checks, for comparison.
        afresh: whether to train also a new network of the widths that are left.
        decay: of the recipe.

    Returns:
        Accuracies, curves, units left by layer and seconds; the same for every control.

    Raises:
        ScheduleError: there would never be a check. It is raised before anything is trained.
    """
    data = data_of(split, seed)
    recipe = Recipe(epochs, optimizer, lr, batch or data.train.rows, seed=seed, decay=decay)
    if check is None:
        return course(widths, data, recipe)
    rule = Check(**check)
    counting = Counting(rule.propose(epochs))
    result = course(widths, data, recipe, rule, counting)
    result["removed"] = counting.removed
    for criterion in controls:
        control = Same(criterion, counting.removed)
        result[criterion] = course(widths, data, recipe, rule, control, criterion == "karnin")
    if afresh:
        ends, activation = widths.split(":")
        first, *_, last = ends.split("-")
        hidden = "-".join([first, *map(str, result["units"]), last])
        result["afresh"] = course(f"{hidden}:{activation}", data, recipe)
    return result


def data_of(split: str, seed: int) -> Split:
    """Return Letter Recognition; the authors' split trains on all of the first 16,000 rows."""
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
    """Run one training with or without pruning, and measure the network.

    Args:
        widths: argument of `training.build`, such as "16-64-26:sigmoid".
        data: the training, validation and test samples.
        recipe: how to train.
        rule: when and how units are removed.
        propose: which units are removed; nothing is pruned if None.
        sums: whether to record the sums that Karnin's criterion needs.

    Returns:
        The validation curve, losses, seconds, accuracies, and units left by layer.
    """
    running = Course(build(widths, seed=recipe.seed), data.train, recipe)
    network, pruner, hack = running.model, None, None
    if rule is not None and propose is not None:
        hack = Hack(propose) if rule.way == "hack" else None
        pruner = attached(running, rule, propose if hack is None else hack, sums)
    result: dict[str, Any] = {"curve": [], "loss": [], "seconds": 0.0}
    for epoch in range(recipe.epochs):
        start = perf_counter()
        result["loss"].append(running.epoch(epoch, ()))
        result["seconds"] += perf_counter() - start
        if pruner is not None and rule is not None:
            released(pruner, rule, (epoch + 1) / recipe.epochs)
        if epoch % max(recipe.epochs // POINTS, 1) == 0:
            result["curve"].append([epoch + 1, *evaluate(network, data.validation)])
    if pruner is not None:
        pruner.detach()
    if hack is not None:
        result["relearnt"] = hack.relearnt(network)
    return {**result, **judged(network, data), "units": left(network, pruner)}


def attached(
    running: Course, rule: Check, propose: Proposal, sums: bool = False
) -> PruneWhileTraining:
    """Attach a pruner to a training; return it.

    Raises:
        ScheduleError: there would never be a check.
    """
    network, samples, epochs = running.model, running.samples.head, running.recipe.epochs
    updates = running.updates or 0
    example, measured = samples.rows(0, 64).inputs, samples.rows(0, 2_000)
    try:
        pruner = PruneWhileTraining(
            network,
            find_units(network, example),
            propose,
            every=rule.every * updates,
            total=epochs * updates,
            probe=Probe(network, (measured.inputs, measured.targets)),
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
    """Detach the pruner after the last check if it deletes units, which need no mask any more."""
    if rule.way == "delete" and done > rule.finish:
        pruner.detach()


def judged(network: nn.Module, data: Split) -> dict[str, Any]:
    """Measure accuracies with and without noise, parameters, and the confusion matrix."""
    accuracy = {
        part: evaluate(network, getattr(data, part)).accuracy or 0.0
        for part in ("train", "validation", "test")
    }
    noise = torch.Generator().manual_seed(0)
    for deviation in NOISE:
        noisy = data.test.inputs + deviation * torch.randn(data.test.inputs.shape, generator=noise)
        accuracy[f"noise {deviation}"] = (
            evaluate(network, Samples(noisy, data.test.targets)).accuracy or 0.0
        )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"accuracy": accuracy, "parameters": parameters, "confusion": _confusion(network, data)}


def left(network: nn.Module, pruner: PruneWhileTraining | None = None) -> list[int]:
    """Return the number of units of each hidden layer; only alive ones if a pruner masks them."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)][:-1]
    if pruner is None:
        return [layer.out_features for layer in layers]
    return [pruner.mask.count(group) for group in pruner.groups]


@torch.no_grad()
def _confusion(network: nn.Module, data: Split) -> list[list[int]]:
    """Return the confusion matrix on the test samples: rows are true classes, columns predicted."""
    predicted, classes = network(data.test.inputs).argmax(1), len(data.classes)
    flat = torch.bincount(data.test.targets * classes + predicted, minlength=classes**2)
    return flat.reshape(classes, classes).tolist()
