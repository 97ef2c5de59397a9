"""Synapses that did not move go (Bulin and Smidl, 2017): its experiments, figures and claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentei import storage
from sentei.papers.jobs import Job, Result
from sentei.papers.wsf import ladder, procedure, small

if TYPE_CHECKING:
    from sentei.papers import Order
    from sentei.papers.claims import Claim

__all__ = ["TITLE", "jobs", "reproduce"]

TITLE = "Insight of Neural Network by Removing Synapses (Bulin and Smidl, 2017)"
CRITERIA = ("wsf", "magnitude", "karnin", "random")
PROCESSES = 3  # runs of the paper's own procedure, and of the best attempt


def jobs(seeds: int, quick: bool) -> list[Job]:
    """Everything that is measured, in an order in which a dense network is trained once a seed."""
    rows = {"rows": 3000} if quick else {}
    few = range(min(PROCESSES, seeds))
    todo = []
    for seed in range(seeds):
        todo.append(Job(f"hypothesis-{seed}", procedure.hypothesis, {"seed": seed, **rows}))
        for name in CRITERIA:
            settings = {"seed": seed, "criterion": name, **rows}
            todo.append(Job(f"compared-{name}-{seed}", procedure.compared, settings))
        if seed in few:
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
    ruled = {"keep": 650, "epochs": 4 if quick else 40}
    todo.append(Job("rules", ladder.rules, {"seed": 0, **ruled, **rows}))
    plan = list(small.plan(quick).values())
    for i, settings in enumerate(plan):
        todo.append(Job(f"attempt-{i:02}", small.attempt, {"seed": 0, **settings}))
    best = plan[min(small.BEST, len(plan) - 1)]
    for seed in list(few)[1:]:
        todo.append(Job(f"best-{seed}", small.attempt, {"seed": seed, **best}))
    return todo


def reproduce(order: Order) -> list[Claim]:
    """Do the experiments, draw the figures, judge the claims."""
    from sentei.papers.wsf import claims, figures

    results: dict[str, Result] = order.work(jobs(order.seeds, order.quick))
    figures.draw(order, results)
    storage.write(order.folder / "rules.md", claims.in_words(results).encode())
    return claims.judged(results, order.quick)
