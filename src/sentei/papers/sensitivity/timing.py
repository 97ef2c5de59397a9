"""Measure the time of pruned trainings against one that is not pruned."""

from __future__ import annotations

from time import process_time
from typing import Any

from sentei.papers.sensitivity.checks import Check, Hack
from sentei.papers.sensitivity.runs import attached, data_of, released
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training import Recipe, build
from sentei.training.train import Course

WAYS = ("not pruned", "delete", "mask", "hack")


def timed(widths: str, seed: int, epochs: int, every: int, batch: int) -> dict[str, Any]:
    """Train in all `WAYS`, alternating after every epoch, in one process.

    Args:
        widths: argument of `training.build`, such as "16-64-26:sigmoid".
        seed: of weights and order of samples, the same for all ways.
        epochs: epochs of RMSprop with a learning rate of 0.01.
        every: epochs from one check of the paper's rule to the next.
        batch: samples in an update; 0 is all of them.

    Returns:
        CPU seconds of this process for every epoch, by way, including checks and surgery; and the
        units that deletion leaves.
    """
    data = data_of("default", seed)
    rows = batch or data.train.rows
    courses: dict[str, Course] = {}
    pruners: dict[str, tuple[PruneWhileTraining, Check]] = {}
    for way in WAYS:
        network = build(widths, seed=seed)
        recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=rows, seed=seed)
        courses[way] = Course(network, data.train, recipe)
        if way != "not pruned":
            check = Check(every, way=way)
            rule = check.propose(epochs)
            proposal = Hack(rule) if way == "hack" else rule
            pruners[way] = attached(courses[way], check, proposal), check
    seconds: dict[str, Any] = {way: [] for way in WAYS}
    for epoch in range(epochs):
        for way, course in courses.items():
            start = process_time()
            course.epoch(epoch, ())
            if way in pruners:
                released(*pruners[way], (epoch + 1) / epochs)
            seconds[way].append(process_time() - start)
    pruner = pruners["delete"][0]
    return {**seconds, "units": [pruner.mask.count(group) for group in pruner.groups]}
