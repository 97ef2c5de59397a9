"""Badness in its original use: remove the worst unit during training whenever the error stalls."""

from __future__ import annotations

import math
from typing import Any

import torch

from sentei.criteria import Probe
from sentei.criteria import criterion as named
from sentei.network.tracing.tracing import find_units
from sentei.papers.distinctiveness.networks import samples
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import one_at_a_time
from sentei.pruning.rules.stalling import when_stalled
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training import Recipe, evaluate, mlp
from sentei.training.train import Course


def late(
    criterion: str,
    seed: int,
    epochs: int,
    images: int = 5_000,
    every: int = 1,
    drop: float = 0.05,
    until: float = 0.8,
    lr: float = 0.005,
) -> dict[str, Any]:
    """Train the paper's sigmoid network, and remove a unit whenever the training error stalls.

    Args:
        criterion: name of the criterion; the unit with the lowest score is removed. "nobody"
            removes none, as a control.
        seed: of all random numbers.
        epochs: passes through the data.
        images: number of training images.
        every: epochs between two measurements of the training error.
        drop: the error has stalled if it falls by less than this part of itself.
        until: units are removed in this first part of training only; the rest lets it settle.
        lr: learning rate of Adam.

    Returns:
        The epochs after which a unit was removed, the last loss, and the final accuracies.
    """
    data = samples(True, images, True)
    learn = data["train"]
    network = mlp("784-64-10", seed=seed)
    course = Course(network, learn, Recipe(epochs, batch_size=100, lr=lr, seed=seed))
    groups = find_units(network, learn.inputs[:8])
    removed: list[int] = []
    loss = math.nan
    pruner = None
    if criterion != "nobody":
        pruner = PruneWhileTraining(
            network,
            groups,
            when_stalled(ranked(named(criterion, seed), one_at_a_time()), drop),
            every=f"{every} epochs",
            total=f"{epochs} epochs",
            steps_per_epoch=-(-learn.rows // 100),
            probe=Probe(network, learn),
            finish=until,
        ).attach(course.optimizer)
    for epoch in range(epochs):
        loss = course.epoch(epoch, ())
        if pruner is not None and pruner.events > len(removed):
            removed.append(epoch + 1)
    if pruner is not None:
        pruner.detach()
    with torch.no_grad():
        test = evaluate(network, data["test"]).accuracy
        train = evaluate(network, learn).accuracy
    return {"gone": removed, "loss": loss, "accuracy": {"train": train, "test": test}}
