"""Reproduction of Bartoldson's poster, Annealed Pruning of Neural Network Connections (2016).

The poster trains a convolutional network without dropout, and instead removes the smallest weights
of its dense layers by a schedule during training. The idea is that of feature selection with
annealing (FSA; Barbu, She, Ding and Gramajo, 2017), which is reproduced on a linear model.
"""

from __future__ import annotations

from sentei.jobs.results import Job
from sentei.papers import Order
from sentei.papers.annealing import figures, selection
from sentei.papers.annealing.best import serious
from sentei.papers.annealing.judging import claims
from sentei.papers.annealing.networks import EPOCHS, VARIANTS, timed, trained
from sentei.papers.claims import Claim

TITLE = "Bartoldson: Annealed Pruning of Neural Network Connections; Barbu et al. 2017 (FSA)"

TODAY = {"epochs": 20, "images": 60_000}
TODAY_QUICK = {"epochs": 2, "images": 6_400}  # enough updates for one proposal


def reproduce(order: Order) -> list[Claim]:
    """Run the experiments, draw the figures and judge the poster's claims."""
    epochs, images = (2, 3_200) if order.quick else (EPOCHS, 60_000)
    seeds = range(1 if order.quick else order.seeds)
    size = {"epochs": epochs, "images": images}
    # Ordered by seed: a run that was stopped has all variants of its first seeds to compare.
    networks = [
        Job(f"{name}-{seed}", trained, {"variant": name, "seed": seed, **size})
        for seed in seeds
        for name in VARIANTS
    ]
    clock = Job("timing", timed, {"seed": 0, "blocks": 1 if order.quick else 15})
    length = TODAY_QUICK if order.quick else TODAY
    today = [Job(f"today-{seed}", serious, {"seed": seed, **length}) for seed in seeds]
    results = order.work([*selection.jobs(seeds), *networks, clock, *today])
    runs = {name: [results[f"{name}-{seed}"] for seed in seeds] for name in VARIANTS}
    selected = selection.gathered(results, seeds)
    figures.draw(order, runs, selected)
    of_today = [results[job.name] for job in today]
    return claims(runs, selected, results["timing"], of_today)
