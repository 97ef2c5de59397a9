"""A study of our own: which criterion, with which repair, schedule and retraining, and when.

Every criterion prunes the networks of several tasks to the same five sizes, beside random scores,
magnitude, and new networks of those sizes. The rules are those of Blalock, Gonzalez Ortiz, Frankle
and Guttag (2020), What is the state of neural network pruning?: the same networks, data, sizes and
retraining for all, several sizes, several seeds with their spread, and sizes in parameters and
multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sentei import storage
from sentei.criteria import CRITERIA
from sentei.errors import IncompleteError
from sentei.jobs.results import Job, Result
from sentei.papers.study import ways
from sentei.papers.study.tasks import IMAGES, TASKS, VARIANTS, task
from sentei.papers.study.ways import UNITS, WEIGHTS

if TYPE_CHECKING:
    from sentei.papers import Order
    from sentei.papers.claims import Claim

__all__ = ["TITLE", "jobs", "reproduce"]

TITLE = "Which criterion, when: a study of our own"
QUICK = ("ablation", "magnitude", "random")
# How many seeds prune while they train, at most: each run is five trainings.
DURING = {
    "mnist mlp": 5,
    "letter mlp": 5,
    "friedman mlp": 5,
    "mnist cnn": 2,
    "mnist transformer": 1,
}
WEIGHTS_DURING = {**DURING, "mnist transformer": 0}
DURING_REPAIRED = ("mnist mlp", "letter mlp", "friedman mlp")  # repaired on the way, too
# One scoring takes a pass over the samples for each weight; in perceptrons all are done at once.
SLOW_FOR_WEIGHTS = {"mnist cnn": ("taylor2",), "mnist transformer": ("taylor2",)}


def jobs(seeds: int, quick: bool, images: str = "") -> list[Job]:
    """Return all runs, seed by seed, so that each network is trained once in a process."""
    return list(_jobs(seeds, QUICK if quick else tuple(CRITERIA), quick, images))


def reproduce(order: Order) -> list[Claim]:
    """Run everything, draw the figures, write the tables, and answer the questions."""
    from sentei.papers.study import figures, judging, reading, tables

    todo = jobs(order.seeds, order.quick, str(order.images or ""))
    found = order.work(todo)
    whole = _whole(todo, found)
    units, weights = (reading.read(whole, found, members) for members in (UNITS, WEIGHTS))
    if not units.networks:
        raise IncompleteError(
            f"{order.folder} holds no task and seed that all criteria have pruned"
        )
    for study, prefix in ((units, ""), (weights, f"{WEIGHTS}-")):
        if study.networks:
            figures.draw(order, study)
            storage.write(order.folder / f"{prefix}results.csv", reading.as_csv(study).encode())
            for table in (tables.tasks, tables.criteria, tables.ways, tables.by_task):
                file = order.folder / f"{prefix}{table.__name__}.md"
                storage.write(file, table(study).encode())
    storage.write(order.folder / "settings.md", tables.settings(units).encode())
    return [*judging.judged(units), *(judging.judged(weights) if weights.networks else ())]


def _jobs(seeds: int, criteria: Sequence[str], quick: bool, images: str) -> Iterator[Job]:
    tasks = ["mnist mlp", "friedman mlp"] if quick else [*TASKS]
    if images:
        tasks.append(IMAGES + images)
        task(tasks[-1])  # a folder without images is refused before anything runs
    smaller = {"quick": True} if quick else {}
    for seed in range(seeds):
        for name in tasks:
            at = {"task": name, "seed": seed, **smaller}
            yield _job("scratch", ways.from_scratch, at)
            for criterion in criteria:
                yield from _units(criterion, at)
        for name in tasks:
            at = {"task": name, "seed": seed, **smaller, "members": WEIGHTS}
            yield _job("weights-scratch", ways.from_scratch, at)
            for criterion in criteria:
                if criterion not in SLOW_FOR_WEIGHTS.get(name, ()):
                    yield from _weights(criterion, at)
        for variant in () if quick else VARIANTS:
            at = {"task": variant, "seed": seed}
            yield _job("scratch", ways.from_scratch, at)
            for criterion in criteria:
                settings = {**at, "criterion": criterion, "short": True}
                yield _job("after", ways.after_training, settings)


def _units(criterion: str, at: Mapping[str, Any]) -> Iterator[Job]:
    """Yield the runs of one criterion that remove units of a network, after or while training."""
    settings = {**at, "criterion": criterion}
    yield _job("after", ways.after_training, settings)
    if at["seed"] < DURING.get(at["task"], 0):
        yield _job("during", ways.while_training, settings)
        if at["task"] in DURING_REPAIRED:
            repaired = {**settings, "repair": "least_squares"}
            yield _job("during-repaired", ways.while_training, repaired)


def _weights(criterion: str, at: Mapping[str, Any]) -> Iterator[Job]:
    """Yield the runs of one criterion that remove single weights."""
    settings = {**at, "criterion": criterion}
    yield _job("weights-after", ways.after_training, settings)
    if at["seed"] < WEIGHTS_DURING.get(at["task"], 0):
        yield _job("weights-during", ways.while_training, settings)


def _whole(todo: Sequence[Job], found: Mapping[str, Result]) -> list[Job]:
    """Return the jobs of each part, task and seed all of whose results are there.

    A task and seed without new networks, or not pruned after training, has no part.
    """

    def network(job: Job) -> tuple[Any, ...]:
        return job.settings.get("members"), job.settings["task"], job.settings["seed"]

    def part(job: Job) -> tuple[Any, ...]:
        return job.function, job.settings.get("repair"), network(job)

    missing = {part(job) for job in todo if job.name not in found}
    needed = (ways.from_scratch, ways.after_training)
    unknown = {whose for function, _, whose in missing if function in needed}
    return [job for job in todo if part(job) not in missing and network(job) not in unknown]


def _job(part: str, function: Callable[..., Result], settings: dict[str, Any]) -> Job:
    name = str(settings["task"]).removeprefix(IMAGES).replace("/", "_").replace(" ", "-")
    words = (part, name, settings.get("criterion", ""), str(settings["seed"]))
    return Job("-".join(filter(None, words)), function, settings)
