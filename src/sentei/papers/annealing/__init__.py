"""Annealed pruning while a convolutional network trains, instead of dropout (Bartoldson 2016)."""

from __future__ import annotations

from sentei.papers import Order
from sentei.papers.annealing import figures, selection
from sentei.papers.annealing.best import serious
from sentei.papers.annealing.judging import claims
from sentei.papers.annealing.networks import EPOCHS, VARIANTS, timed, trained
from sentei.papers.claims import Claim
from sentei.papers.jobs import Job

TITLE = "Bartoldson: Annealed Pruning of Neural Network Connections; Barbu et al. 2017 (FSA)"

TODAY = {"epochs": 20, "images": 60_000}
TODAY_QUICK = {"epochs": 2, "images": 6_400}  # as few as let a proposal come


def reproduce(order: Order) -> list[Claim]:
    """Train every variant, select features, draw the curves, judge what the poster says."""
    epochs, images = (2, 3_200) if order.quick else (EPOCHS, 60_000)
    seeds = range(1 if order.quick else order.seeds)
    size = {"epochs": epochs, "images": images}
    # Seed by seed: a run that was stopped has whole rows of variants to compare.
    networks = [
        Job(f"{name}-{seed}", trained, {"variant": name, "seed": seed, **size})
        for seed in seeds
        for name in VARIANTS
    ]
    clock = Job("timing", timed, {"seed": 0, "blocks": 1 if order.quick else 15})
    today = Job("today-0", serious, {"seed": 0, **(TODAY_QUICK if order.quick else TODAY)})
    results = order.work([*selection.jobs(seeds), *networks, clock, today])
    runs = {name: [results[f"{name}-{seed}"] for seed in seeds] for name in VARIANTS}
    selected = selection.gathered(results, seeds)
    figures.draw(order, runs, selected)
    return claims(runs, selected, results["timing"], results["today-0"])
