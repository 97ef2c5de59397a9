"""Reproduction of Zheng, Pruning Technique based on Distinctiveness for Deep Neural Network (ANU).

After Gedeon and Harris (1991): hidden units are merged, without retraining, if the angle between
their vectors of outputs over the training samples is near 0 or 180 degrees.
"""

from __future__ import annotations

from typing import Any

from sentei import storage
from sentei.jobs.results import Job
from sentei.papers import Order
from sentei.papers.claims import Claim
from sentei.papers.distinctiveness import beyond, figures, judging
from sentei.papers.distinctiveness.experiments import hundred, trial
from sentei.papers.distinctiveness.judging import Found
from sentei.papers.distinctiveness.late import late

TITLE = (
    "Zheng: Pruning Technique based on Distinctiveness for Deep Neural Network; "
    "Gedeon and Harris 1991"
)
EPOCHS = {"cnn": 10, "fnn": 100}
REPEATS = {"cnn": 2, "fnn": 1}  # trainings for each seed; with five seeds, ten and five

# Other settings that may matter, each changed alone, with a quarter of the images and fewer epochs.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"network": "cnn", "epochs": 5, "images": 5_000, "curves": False},
    "fnn": {"network": "fnn", "epochs": 20, "images": 5_000, "curves": False},
}
USUAL = "as it is"
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "cnn": {
        USUAL: {},
        "epochs 1": {"epochs": 1},
        "epochs 15": {"epochs": 15},
        "width 16": {"width": 16},
        "width 32": {"width": 32},
        "width 128": {"width": 128},
        "filters 5": {"filters": 5},
        "filters 20": {"filters": 20},
    },
    "fnn": {
        USUAL: {},
        "epochs 5": {"epochs": 5},
        "epochs 60": {"epochs": 60},
        "width 16": {"width": 16},
        "width 32": {"width": 32},
        "width 128": {"width": 128},
        "pixels 0 to 1": {"scaled": False},
    },
}
# Criteria of removal during training; "nobody" removes no unit.
LATE = ("nobody", "badness", "magnitude", "random")


def reproduce(order: Order) -> list[Claim]:
    """Run the experiments, draw the figures and judge the paper's claims."""
    seeds = range(1 if order.quick else order.seeds)
    results = order.work(jobs(order.quick, seeds))
    found = Found(
        runs={
            kind: [results[f"{kind}-{seed}"] for seed in _repeats(kind, seeds, order.quick)]
            for kind in EPOCHS
        },
        changed={
            kind: {name: [results[_name(kind, name, s)] for s in seeds] for name in changes}
            for kind, changes in _changes(order.quick).items()
        },
        wide=[results[f"hundred-{seed}"] for seed in seeds],
        late={name: [results[f"late-{name}-{seed}"] for seed in seeds] for name in LATE},
    )
    figures.draw(order, found)
    storage.write(order.folder / "compared.md", beyond.table(found.runs).encode())
    return [*judging.claims(found), *beyond.claims(found)]


def jobs(quick: bool, seeds: range) -> list[Job]:
    """Return the jobs of all experiments."""
    sizes = {"epochs": 2, "images": 2_000} if quick else {}
    todo = []
    for kind, epochs in EPOCHS.items():
        for seed in _repeats(kind, seeds, quick):
            settings = {"network": kind, "seed": seed, "epochs": epochs, **sizes}
            settings |= {"compared": seed in seeds, "quick": quick}
            todo.append(Job(f"{kind}-{seed}", trial, settings))
    for kind, changes in _changes(quick).items():
        for name, change in changes.items():
            for seed in seeds:
                settings = {**SMALL[kind], **sizes, **change, "seed": seed}
                todo.append(Job(_name(kind, name, seed), trial, settings))
    for name in LATE:
        for seed in seeds:
            settings = {"criterion": name, "seed": seed, "epochs": 60, **sizes}
            todo.append(Job(f"late-{name}-{seed}", late, settings))
    todo += [Job(f"hundred-{seed}", hundred, {"seed": seed, **sizes}) for seed in seeds]
    return todo


def _repeats(kind: str, seeds: range, quick: bool) -> range:
    """Return the seeds that a network is trained with."""
    return seeds if quick else range(REPEATS[kind] * len(seeds))


def _changes(quick: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the settings that are changed one at a time; with `quick`, only two per network."""
    if not quick:
        return CHANGES
    return {kind: {n: changes[n] for n in (USUAL, "width 16")} for kind, changes in CHANGES.items()}


def _name(kind: str, name: str, seed: int) -> str:
    """Return the name of the job of a changed setting."""
    return f"{kind}-{name.replace(' ', '-')}-{seed}"
