"""How long a pruned training takes beside one that is not pruned."""

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
    """Train in all ways, an epoch of each in turns, in one process.

    Args:
        widths: of `training.build`.
        seed: of weights and order, the same for all.
        epochs: of RMSprop at 0.01.
        every: epochs from one check of the paper's rule to the next.
        batch: samples in an update; 0 is all of them.

    Returns:
        Seconds of this process's own time for every epoch by way, checks and surgery included, and
        units left by deletion.
    """
    data = data_of("default", seed)
    rows = batch or data.train.rows
    turns: dict[str, Course] = {}
    pruners: dict[str, tuple[PruneWhileTraining, Check]] = {}
    for way in WAYS:
        network = build(widths, seed=seed)
        recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=rows, seed=seed)
        turns[way] = Course(network, data.train, recipe)
        if way != "not pruned":
            check = Check(every, way=way)
            rule = check.propose(epochs)
            asked = Hack(rule) if way == "hack" else rule
            pruners[way] = attached(turns[way], check, asked), check
    told: dict[str, Any] = {way: [] for way in WAYS}
    for epoch in range(epochs):
        for way, course in turns.items():
            start = process_time()
            course.epoch(epoch, ())
            if way in pruners:
                released(*pruners[way], (epoch + 1) / epochs)
            told[way].append(process_time() - start)
    pruner = pruners["delete"][0]
    return {**told, "units": [pruner.mask.count(group) for group in pruner.groups]}
