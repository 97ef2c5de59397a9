"""Reproduction of Singh, Sensitivity based Pruning of hidden Neurons (ANU, 2018).

The paper trains networks on Letter Recognition. During training it removes hidden units whose
incoming weights hardly change any more.
"""

from __future__ import annotations

from sentei.papers import Order
from sentei.papers.claims import Claim
from sentei.papers.sensitivity import figures
from sentei.papers.sensitivity.judging import claims
from sentei.papers.sensitivity.plan import NAMES, jobs

TITLE = "Singh: Sensitivity based Pruning of hidden Neurons (Letter Recognition)"


def reproduce(order: Order) -> list[Claim]:
    """Run the experiments, draw the figures and judge the paper's claims."""
    seeds = range(1 if order.quick else order.seeds)
    results = order.work(jobs(seeds, quick=order.quick))
    runs = {name: [results[f"{name}-{seed}"] for seed in seeds] for name in NAMES}
    figures.draw(order, runs)
    return claims(runs)
