"""Units that say the same are merged without retraining (Zheng; Gedeon and Harris)."""

from __future__ import annotations

from typing import Any

from sentei.papers import Order
from sentei.papers.claims import Claim
from sentei.papers.distinctiveness import figures
from sentei.papers.distinctiveness.experiments import hundred, trial
from sentei.papers.distinctiveness.judging import claims
from sentei.papers.jobs import Job

TITLE = (
    "Zheng: Pruning Technique based on Distinctiveness for Deep Neural Network; "
    "Gedeon and Harris 1991"
)
EPOCHS = {"cnn": 10, "fnn": 100}

# What else may matter, on a quarter of the images and fewer passes: one setting changed at a time.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"network": "cnn", "epochs": 5, "images": 5_000, "curves": False},
    "fnn": {"network": "fnn", "epochs": 20, "images": 5_000, "curves": False},
}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "cnn": {
        "as it is": {},
        "epochs 1": {"epochs": 1},
        "width 16": {"width": 16},
        "width 128": {"width": 128},
        "filters 5": {"filters": 5},
    },
    "fnn": {
        "as it is": {},
        "epochs 5": {"epochs": 5},
        "width 16": {"width": 16},
        "width 128": {"width": 128},
        "pixels 0 to 1": {"scaled": False},
    },
}
CHANGED_SEEDS = 3


def reproduce(order: Order) -> list[Claim]:
    """Train the paper's networks, merge and remove in every way, draw it, judge it."""
    seeds = range(1 if order.quick else order.seeds)
    results = order.work(_jobs(order.quick, seeds))
    runs = {kind: [results[f"{kind}-{seed}"] for seed in seeds] for kind in EPOCHS}
    changed = {
        kind: {
            name: [results[_name(kind, name, s)] for s in seeds[:CHANGED_SEEDS]]
            for name in _changes(kind, order.quick)
        }
        for kind in EPOCHS
    }
    wide = [results[f"hundred-{seed}"] for seed in seeds]
    figures.draw(order, runs, changed, wide)
    return claims(runs, changed, wide)


def _jobs(quick: bool, seeds: range) -> list[Job]:
    sizes = {"epochs": 2, "images": 2_000} if quick else {}
    jobs = [
        Job(f"{kind}-{seed}", trial, {"network": kind, "seed": seed, "epochs": epochs, **sizes})
        for kind, epochs in EPOCHS.items()
        for seed in seeds
    ]
    jobs += [Job(f"hundred-{seed}", hundred, {"seed": seed, **sizes}) for seed in seeds]
    for seed in seeds[:CHANGED_SEEDS]:
        for kind in EPOCHS:
            for name, change in _changes(kind, quick).items():
                settings = {**SMALL[kind], **sizes, **change, "seed": seed}
                jobs.append(Job(_name(kind, name, seed), trial, settings))
    return jobs


def _changes(kind: str, quick: bool) -> dict[str, dict[str, Any]]:
    every = CHANGES[kind]
    return {name: every[name] for name in ("as it is", "width 16")} if quick else every


def _name(kind: str, name: str, seed: int) -> str:
    return f"{kind}-{name.replace(' ', '-')}-{seed}"
