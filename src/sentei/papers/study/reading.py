"""The results of the study as one table, and what is read from it."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sentei.jobs.results import Job, Result
from sentei.papers.study.tasks import VARIANTS
from sentei.papers.study.ways import DURING, ITERATIVE, MEMBERS, ONE_SHOT, UNITS, Members

NONE, LEAST_SQUARES, LEAST_LOSS = (repair or "none" for repair in MEMBERS[UNITS].repairs)
SCRATCH = "from scratch"


class Way(NamedTuple):
    """How networks were pruned, apart from the criterion: schedule, repair, retrained or not."""

    schedule: str
    repair: str = NONE
    retrained: bool = False

    def __str__(self) -> str:
        repair = "" if self.repair == NONE else f", {self.repair.replace('_', ' ')}"
        return self.schedule + repair + ", retrained" * self.retrained


WAYS = tuple(
    Way(schedule, repair, retrained)
    for retrained in (False, True)
    for repair in (NONE, LEAST_SQUARES, LEAST_LOSS)
    for schedule in (ONE_SHOT, ITERATIVE)
)


class Network(NamedTuple):
    """A trained network: its task and its seed."""

    task: str
    seed: int


@dataclass(frozen=True)
class Study:
    """All that was measured where units are removed, or all where single weights are.

    Attributes:
        paths: for each way, network and criterion (quality, loss) at the operating points; the
            criterion of new networks is "".
        networks: what `ways.from_scratch` says of each network.
        scoring: for each network and criterion, the seconds of one scoring and the agreement with
            the reference.
        members: the name of what is removed; see `ways.MEMBERS`.
    """

    paths: Mapping[tuple[Way, Network, str], Sequence[tuple[float, float]]]
    networks: Mapping[Network, Result]
    scoring: Mapping[tuple[Network, str], tuple[float, float]]
    members: str = UNITS

    @property
    def what(self) -> Members:
        """What is removed, with its operating points and its reference."""
        return MEMBERS[self.members]

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks, without those that change one setting of another."""
        return list(dict.fromkeys(n.task for n in self.networks if n.task not in VARIANTS))

    @cached_property
    def criteria(self) -> list[str]:
        """The criteria that score them, in the order of their table."""
        return list(dict.fromkeys(name for _, name in self.scoring))

    def quality(self, way: Way, network: Network, criterion: str) -> float | None:
        """Return the mean accuracy, or R², over the operating points; None if not measured.

        An R² below 0 counts as 0, which the mean of the targets has: how far below it is says
        nothing more.
        """
        found = self.paths.get((way, network, criterion))
        if found is None:
            return None
        return statistics.fmean(max(quality, 0.0) for quality, _ in found)

    def measured(self, way: Way, tasks: Iterable[str] | None = None) -> list[Network]:
        """Return the networks of the tasks (all if None) that were pruned in a way."""
        wanted = set(self.tasks if tasks is None else tasks)
        pruned = dict.fromkeys(network for each, network, _ in self.paths if each == way)
        return [network for network in pruned if network.task in wanted]

    def qualities(
        self, way: Way, tasks: Iterable[str] | None = None
    ) -> tuple[list[str], list[Network], Tensor]:
        """Return the criteria that score all networks, the networks, (networks, criteria)."""
        networks = self.measured(way, tasks)
        table = {name: [self.quality(way, n, name) for n in networks] for name in self.criteria}
        whole = {name: found for name, found in table.items() if None not in found}
        return list(whole), networks, torch.tensor([*whole.values()], dtype=torch.float64).T

    def transferred(self, way: Way, networks: Sequence[Network]) -> list[float]:
        """Return the quality of each network by the criterion that is best on all other tasks."""
        found = []
        for network in networks:
            others = [task for task in self.tasks if task != network.task] or self.tasks
            names, _, table = self.qualities(way, others)
            order = (names[i] for i in table.mean(0).argsort(descending=True, stable=True))
            known = (self.quality(way, network, name) for name in order)
            found.append(next(quality for quality in known if quality is not None))
        return found


def read(jobs: Sequence[Job], results: Mapping[str, Result], members: str = UNITS) -> Study:
    """Collect the results of those jobs that remove such members."""
    paths: dict[tuple[Way, Network, str], Any] = {}
    networks, scoring = {}, {}
    for job in (each for each in jobs if each.settings.get("members", UNITS) == members):
        found, settings = results[job.name], job.settings
        network = Network(settings["task"], settings["seed"])
        criterion = settings.get("criterion", "")
        if "refused" in found:
            continue
        if "whole" in found:
            networks[network] = found
        if "seconds" in found:
            scoring[network, criterion] = found["seconds"], found["agreement"]
        for path in found["paths"]:
            way = Way(path["schedule"], path["repair"], path["retrained"])
            paths[way, network, criterion] = [*zip(path["quality"], path["loss"], strict=True)]
    return Study(paths, networks, scoring, members)


def as_csv(study: Study) -> str:
    """Write all qualities and losses as comma-separated values, a line for each path."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    percents = study.what.points
    points = [f"{name} at {percent} %" for name in ("quality", "loss") for percent in percents]
    writer.writerow(["task", "seed", "criterion", "schedule", "repair", "retrained", *points])
    for (way, network, criterion), found in study.paths.items():
        qualities, losses = zip(*found, strict=True)
        numbers = [f"{number:.4g}" for number in (*qualities, *losses)]
        writer.writerow([*network, criterion, *way[:2], int(way.retrained), *numbers])
    return file.getvalue()


PRUNED_WHILE_TRAINED, NEW = Way(DURING), Way(SCRATCH)
REPAIRED_WHILE_TRAINED = Way(DURING, LEAST_SQUARES)
