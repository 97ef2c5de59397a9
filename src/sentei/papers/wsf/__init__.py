"""Reproduction of Bulin and Smidl, Insight of Neural Network by Removing Synapses (2017).

The paper's criterion, the weight significance factor (`wsf`), is the distance |w - w(0)| that
training moved a synapse. The synapses that moved least are removed, and the network is retrained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentei import storage
from sentei.jobs.results import Job, Result
from sentei.papers.wsf import ladder, procedure, small

if TYPE_CHECKING:
    from sentei.papers import Order
    from sentei.papers.claims import Claim

__all__ = ["TITLE", "jobs", "reproduce"]

TITLE = "Insight of Neural Network by Removing Synapses (Bulin and Smidl, 2017)"
CRITERIA = ("wsf", "magnitude", "karnin", "random")
PROCESSES = 3  # seeds that run the paper's own procedure, and the best attempt


def jobs(seeds: int, quick: bool) -> list[Job]:
    """Return the jobs of all experiments, ordered so that each dense network is trained once."""
    rows = {"rows": 3000} if quick else {}
    process_seeds = range(min(PROCESSES, seeds))
    todo = []
    for seed in range(seeds):
        todo.append(Job(f"hypothesis-{seed}", procedure.hypothesis, {"seed": seed, **rows}))
        for name in CRITERIA:
            settings = {"seed": seed, "criterion": name, **rows}
            todo.append(Job(f"compared-{name}-{seed}", procedure.compared, settings))
        if seed in process_seeds:
            for name, floor in (("close", 0.01), ("half", 0.5)):
                settings = {"seed": seed, "floor": floor, "relative": name == "close", **rows}
                steps = {"steps": 12} if quick else {"steps": 90} if name == "half" else {}
                todo.append(Job(f"process-{name}-{seed}", procedure.process, settings | steps))
        settings = {"seed": seed, "criterion": "wsf", "name": "letter", "keep": 105, "tuned": 4}
        todo.append(Job(f"letter-{seed}", procedure.compared, settings | rows))
    rungs = {"rungs": list(ladder.RUNGS), "epochs": 5}
    if quick:
        rungs = {"rungs": [1259, 200, 38], "epochs": 3}
    for seed in range(seeds):
        todo.append(Job(f"ladder-{seed}", ladder.descended, {"seed": seed, **rungs, **rows}))
    rules_settings = {"keep": 650, "epochs": 4 if quick else 40}
    todo.append(Job("rules", ladder.rules, {"seed": 0, **rules_settings, **rows}))
    plan = list(small.plan(quick).values())
    for i, settings in enumerate(plan):
        todo.append(Job(f"attempt-{i:02}", small.attempt, {"seed": 0, **settings}))
    best = plan[min(small.BEST, len(plan) - 1)]
    for seed in list(process_seeds)[1:]:
        todo.append(Job(f"best-{seed}", small.attempt, {"seed": seed, **best}))
    return todo


def reproduce(order: Order) -> list[Claim]:
    """Run the experiments, draw the figures and judge the paper's claims."""
    from sentei.papers.wsf import claims, figures

    results: dict[str, Result] = order.work(jobs(order.seeds, order.quick))
    figures.draw(order, results)
    storage.write(order.folder / "rules.md", claims.in_words(results).encode())
    return claims.judged(results, order.quick)
