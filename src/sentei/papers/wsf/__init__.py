"""Reproduction of Bulin and Smidl, Insight of Neural Network by Removing Synapses (2017).

The paper's criterion, the weight significance factor (`wsf`), is the distance |w - w(0)| that
training moved a synapse. The synapses that moved least are removed, and the network is retrained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentei import storage
from sentei.jobs.results import Job, Result
from sentei.papers.wsf import few, ladder, procedure, small, together

if TYPE_CHECKING:
    from sentei.papers import Order
    from sentei.papers.claims import Claim

__all__ = ["TITLE", "jobs", "reproduce"]

TITLE = "Insight of Neural Network by Removing Synapses (Bulin and Smidl, 2017)"
CRITERIA = ("wsf", "magnitude", "karnin", "random")
EPOCHS, BRIEFLY = 2200, 120  # of networks of 1,259 synapses: of the aim, of each activation


def jobs(seeds: int, quick: bool) -> list[Job]:
    """Return the jobs of all experiments, ordered so that each dense network is trained once."""
    rows = {"rows": 3000} if quick else {}
    todo = []
    for seed in range(seeds):
        todo.append(Job(f"hypothesis-{seed}", procedure.hypothesis, {"seed": seed, **rows}))
        for name in CRITERIA:
            settings = {"seed": seed, "criterion": name, **rows}
            todo.append(Job(f"compared-{name}-{seed}", procedure.compared, settings))
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
        settings = {"seed": seed, "keep": 650, "epochs": 4 if quick else 40, **rows}
        todo.append(Job(f"rules-{seed}", ladder.rules, settings))
    plan = list(small.plan(quick).values())
    todo += [
        Job(f"attempt-{i:02}-{seed}", small.attempt, {"seed": seed, **settings})
        for seed in range(seeds)
        for i, settings in enumerate(plan)
    ]
    return todo + _side_by_side(seeds, quick)


def _side_by_side(seeds: int, quick: bool) -> list[Job]:
    """Return the jobs in which several networks are trained side by side."""
    smaller = {"epochs": 40, "copies": 1, "taught": 1, "rows": 3000}
    common = {"seeds": list(range(seeds)), "keep": 1259}
    todo = [
        Job("together", together.sought, common | (smaller if quick else {"epochs": EPOCHS})),
        Job("lists", few.without, {"rows": 3000} if quick else {}),
    ]
    for name in together.COMPARED:
        settings = {**common, "activation": name} | (smaller if quick else {"epochs": BRIEFLY})
        todo.append(Job(f"activation-{name}", together.sought, settings))
    chosen = {"rungs": list(few.RUNGS), "epochs": 6, "restarts": 10}
    if quick:
        chosen = {"rungs": [110, 38], "epochs": 30, "restarts": 3, "rows": 3000}
    return todo + [Job(f"few-{seed}", few.few, {"seed": seed, **chosen}) for seed in range(seeds)]


def reproduce(order: Order) -> list[Claim]:
    """Run the experiments, draw the figures and judge the paper's claims."""
    from sentei.papers.wsf import claims, figures, sentences

    results: dict[str, Result] = order.work(jobs(order.seeds, order.quick))
    figures.draw(order, results)
    for name, text in sentences.tables(results).items():
        storage.write(order.folder / f"{name}.md", text.encode())
    return claims.judged(results, order.quick)
