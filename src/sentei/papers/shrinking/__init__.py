"""Reproduce Sharma, Wolfe and Raj, The Incredible Shrinking Neural Network (arXiv 1701.04465).

The paper removes hidden units one by one, without retraining. It chooses them by the exact rise in
error ("brute force") or by a Taylor estimate of first or second order.
"""

from __future__ import annotations

from sentei.jobs.results import Job
from sentei.papers import Order
from sentei.papers.claims import Claim
from sentei.papers.shrinking.cascade import grown
from sentei.papers.shrinking.handover import AIMS, handed_over
from sentei.papers.shrinking.networks import SETTINGS
from sentei.papers.shrinking.removal import removed
from sentei.papers.shrinking.thresholds import replaced

TITLE = "Sharma, Wolfe, Raj: The Incredible Shrinking Neural Network (arXiv 1701.04465)"

PAPERS_OWN = ("1x100", "2x50")
ORDERS = ["ablation", "taylor1", "taylor2", "taylor2-diagonal"]
OTHERS = ["taylor1-absolute", "skeletonization", "magnitude", "random"]


def todo(quick: bool, seeds: int) -> list[Job]:
    """Return the jobs of all experiments, ordered by seed.

    With this order, a run that was stopped has the results of all experiments for its first seeds.
    """
    jobs = []
    for seed in range(seeds):
        for name in SETTINGS:
            own = name in PAPERS_OWN
            settings = {
                "name": name,
                "seed": seed,
                "again": ORDERS + OTHERS * own,
                "once": ORDERS * own,
                "controls": own,
                "quick": quick,
            }
            jobs.append(Job(f"{name}-{seed}", removed, settings))
        size = {"most": 8, "updates": 60} if quick else {"most": 40, "updates": 150}
        jobs.append(Job(f"cascade-{seed}", grown, {"seed": seed, **size}))
        two = {"name": "2x50", "seed": seed, "quick": quick}
        jobs.append(Job(f"thresholds-{seed}", replaced, two))
        for name in AIMS:
            settings = {"name": name, "seed": seed, "quick": quick}
            jobs.append(Job(f"handover-{name}-{seed}", handed_over, settings))
    return jobs


def reproduce(order: Order) -> list[Claim]:
    """Run the experiments, draw the figures and judge the paper's claims.

    The experiments remove every unit by each criterion. For comparison they grow networks unit by
    unit.
    """
    seeds = 1 if order.quick else order.seeds
    results = order.work(todo(order.quick, seeds))
    from sentei.papers.shrinking import drawing, judging

    names = (*SETTINGS, "cascade", "thresholds", *(f"handover-{name}" for name in AIMS))
    runs = {name: [results[f"{name}-{seed}"] for seed in range(seeds)] for name in names}
    drawing.draw(order, runs)
    return judging.claims(runs)
