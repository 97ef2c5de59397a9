"""Badness, used as it was meant: the worst unit goes while training, once the error has stalled."""

from __future__ import annotations

import math
from typing import Any

import torch

from sentei.criteria import CRITERIA, Criterion, Probe, Random
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
    """Train the paper's sigmoid network, and take a unit out whenever the error has stalled.

    Args:
        criterion: whose lowest goes; "nobody" for a control.
        seed: of everything.
        epochs: passes.
        images: to learn from.
        every: epochs between two looks at the error on them.
        drop: by what part of itself the error falls if it has not stalled.
        until: in which first part of training units may go, so that the rest can settle.
        lr: of Adam.

    Returns:
        How many units went and after which epochs, and how good the network is then.
    """
    data = samples(True, images, True)
    learn = data["train"]
    network = mlp("784-64-10", seed=seed)
    course = Course(network, learn, Recipe(epochs, batch_size=100, lr=lr, seed=seed))
    groups = find_units(network, learn.inputs[:8])
    gone: list[int] = []
    loss = math.nan
    pruner = None
    if criterion != "nobody":
        asked: Criterion = Random(seed) if criterion == "random" else CRITERIA[criterion]
        pruner = PruneWhileTraining(
            network,
            groups,
            when_stalled(ranked(asked, one_at_a_time()), drop),
            every=f"{every} epochs",
            total=f"{epochs} epochs",
            steps_per_epoch=-(-learn.rows // 100),
            probe=Probe(network, learn),
            finish=until,
        ).attach(course.optimizer)
    for epoch in range(epochs):
        loss = course.epoch(epoch, ())
        if pruner is not None and pruner.events > len(gone):
            gone.append(epoch + 1)
    if pruner is not None:
        pruner.detach()
    with torch.no_grad():
        test = evaluate(network, data["test"]).accuracy
        train = evaluate(network, learn).accuracy
    return {"gone": gone, "loss": loss, "accuracy": {"train": train, "test": test}}
