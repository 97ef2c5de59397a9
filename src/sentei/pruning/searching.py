"""`search`: prune along several paths to a memory budget and rank the results by accuracy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sentei.arguments import checked
from sentei.criteria import Criterion
from sentei.errors import JournalError, unknown
from sentei.jobs.results import ENDING, Job, Result, run
from sentei.jobs.workers import Workers, own
from sentei.losses import PerSample
from sentei.network.copying import copied
from sentei.network.encoding.format import C_FORMATS
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, Synapses, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.identity import mask_fingerprint
from sentei.pruning.loop import prune
from sentei.pruning.rules.bytewise import per_byte
from sentei.pruning.rules.conditions import Condition, Limit, all_of
from sentei.pruning.rules.limits import MemoryBudget
from sentei.pruning.rules.proposals import Cut
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.run import Step
from sentei.pruning.step_files import Retrain

PATHS = ("both", "units", "synapses", "units:50")


@dataclass(frozen=True)
class restricted:  # noqa: N801 - used like a function: restricted("units:50", per_byte("c-int8"))
    """A proposal that limits `per_byte` to units or synapses, depending on the path of a search.

    Once the network is no larger than the smallest of the proposal's `stops`, only units are
    offered, since only they save RAM; the path "synapses" then ends.

    Args:
        path: "units", "synapses", "both" (whichever costs the least loss per byte), or "units:50":
            units until 50 % of them are left, then synapses.
        propose: the proposal that chooses among the groups offered.

    Raises:
        ValueError: an unknown path.
    """

    path: str
    propose: per_byte

    def __post_init__(self) -> None:
        if not re.fullmatch(r"units:[1-9][0-9]?", self.path) and self.path not in PATHS:
            raise ValueError(unknown("path", self.path, PATHS))

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """Return the next batch to remove; None at the end of the path."""
        kinds = self._kinds(groups, mask, progress)
        if self.propose.size(probe, mask) <= min(self.propose.stops, default=0):
            kinds = set() if self.path == "synapses" else {"unit"}
        offered = [group for group in groups if _kind(group) in kinds]
        return self.propose(probe, offered, mask, progress)

    def _kinds(self, groups: Sequence[Group], mask: Mask, progress: Progress) -> set[str]:
        name, _, percent = self.path.partition(":")
        if not percent:
            return {"units": {"unit"}, "synapses": {"synapse"}}.get(name, {"unit", "synapse"})
        units = [group for group in groups if _kind(group) == "unit"]
        alive = sum(mask.count(group) for group in units)
        start = sum(progress.starts.get(group, group.size) for group in units)
        return {"unit"} if 100 * alive > int(percent) * start else {"synapse"}


def _kind(group: Group) -> str:
    return "synapse" if isinstance(group, Synapses) else "unit"


@dataclass(frozen=True)
class Found:
    """The result of one path of a `search`.

    Attributes:
        path: the name of the path, such as "units:50"; see `restricted`.
        step: the last step of the path: its mask, its measurement, its network.
        steps: how many steps the path took.
        fits: whether the network meets the memory budget, and `until` if that was given.
        bytes: size of the network in the format of the memory budget.
        ram: bytes of activations; None if the format is not a C format.
        accuracy: as measured at the last step, or as `judge` returned it; None where targets are
            not classes.
    """

    path: str
    step: Step
    steps: int
    fits: bool
    bytes: int
    ram: int | None
    accuracy: float | None


def paths_for(format: str, asked: Sequence[str] | None = None) -> list[str]:
    """Return the paths that a search takes for a format, without duplicates.

    Args:
        format: a format of `export`. Only the C formats save bytes for a dead synapse; in the
            others it stays a zero, so that only the path "units" makes the file smaller.
        asked: the paths to take; if None, all of `PATHS` for a C format and "units" for others.

    Raises:
        ValueError: an unknown path, or one that saves nothing in the format.
    """
    saving = format in C_FORMATS
    paths = list(dict.fromkeys(asked or (PATHS if saving else ("units",))))
    for path in paths:
        restricted(path, per_byte(format))
        if not saving and path != "units":
            raise ValueError(
                f"in {format} a dead synapse stays a zero, so only the path 'units' saves bytes; "
                f"leave {path!r} out, or use a C format"
            )
    return paths


@checked
def search(
    model: nn.Module,
    learn: Any,
    room: MemoryBudget,
    *,
    evaluate: Any = None,
    paths: Sequence[str] | None = None,
    loss: str | PerSample | None = None,
    units: str | Criterion = "ablation",
    synapses: str | Criterion = "magnitude",
    inputs: bool = False,
    mask: Mask | None = None,
    until: Condition | None = None,
    keeping: Condition | None = None,
    retrain: Callable[[], Retrain] | None = None,
    judge: Callable[[Step], float | None] | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[str, Step], object] | None = None,
    workers: Workers = Workers(),  # noqa: B008 - frozen
) -> list[Found]:
    """Prune a copy of a network along each of several paths to a memory budget; best result first.

    Every path removes units, synapses or both, in the order that costs the least loss per byte
    saved (see `per_byte`), until the network fits.

    Args:
        model: the network to prune; it is not changed.
        learn: (inputs, targets) on which criteria score units and synapses.
        room: the memory budget: a format, its bytes and, for C formats, the RAM of activations.
        evaluate: (inputs, targets) on which every step is measured and the paths are compared;
            `learn` if None.
        paths: names of paths, see `restricted`; those of `paths_for` if None.
        loss: as for `Probe`.
        units: criterion that orders the units of a group.
        synapses: criterion that orders the synapses of a layer. With "obs" the remaining synapses
            make up for the removed ones.
        inputs: whether input features may be removed as well.
        mask: units and synapses that are dead from the start; none if None.
        until: another budget that has to be reached as well.
        keeping: floor; a path ends at the last step that satisfies it.
        retrain: called once per path; returns a new `FineTune` for it. No retraining if None.
        judge: returns the accuracy of a path's last step, such as that of the exported file; the
            measured accuracy if None.
        journal: folder that holds one run folder per path; temporary ones if None.
        resume: continue the runs in `journal`.
        on_step: called with the name of the path and the step, after every step; of paths that
            other processes prune, when the path is read back.
        workers: where paths are pruned, and which share of them. Paths that this process does not
            prune itself are read back from `journal`.

    Returns:
        One result per path. Those that fit come first, by falling accuracy, then rising loss; the
        others follow by rising size.

    Raises:
        IncompleteError: the share of `workers` is done, and other shares are missing in `journal`.
        UnreachableError: not even the smallest network fits; its size is in the message.
        ValueError: an unknown path, one that saves nothing in the format, or no journal for paths
            that other processes prune.
    """
    chosen = paths_for(room.format, paths)
    goal = room.limit if until is None else all_of(room.limit, until)
    asked = _Search(
        model, learn, room, evaluate, loss, units, synapses, inputs, mask, goal, keeping,
        retrain, None if journal is None else Path(journal), resume,
    )  # fmt: skip
    if workers != Workers():
        asked = asked.run(chosen, workers)
    found = []
    for path in chosen:
        steps = []
        for step in asked.steps(path):
            steps.append(step)
            if on_step is not None:
                on_step(path, step)
        found.append(_found(path, steps, room, goal, judge))
    return sorted(found, key=_order, reverse=True)


@dataclass(frozen=True, eq=False)
class _Search:
    """Arguments of `search` that all paths share."""

    model: nn.Module
    learn: Any
    room: MemoryBudget
    evaluate: Any
    loss: str | PerSample | None
    units: str | Criterion
    synapses: str | Criterion
    inputs: bool
    mask: Mask | None
    goal: Limit
    keeping: Condition | None
    retrain: Callable[[], Retrain] | None
    journal: Path | None
    resume: bool

    def steps(self, path: str) -> Iterator[Step]:
        """Prune a copy of the network along a path, or read how it was pruned."""
        worker = copied(self.model)
        probe = Probe(worker, self.learn, self.loss)
        groups: list[Group] = [*find_units(worker, probe.example, inputs=self.inputs)]
        groups += find_synapses(worker) if self.room.format in C_FORMATS else []
        stops = (int(self.room.bytes),)
        propose = per_byte(self.room.format, self.units, self.synapses, stops=stops)
        yield from prune(
            worker,
            groups,
            probe,
            restricted(path, propose),
            until=self.goal,
            keeping=self.keeping,
            retrain=None if self.retrain is None else self.retrain(),
            evaluate=self.evaluate,
            journal=None if self.journal is None else self.journal / _folder(path),
            resume=self.resume,
            mask=self.mask,
        )

    def run(self, paths: Sequence[str], workers: Workers) -> _Search:
        """Prune along the paths elsewhere; return the search that reads what was pruned there."""
        if self.journal is None:
            raise ValueError(
                "paths that other processes prune are read back from their run folders: name a "
                "folder for them with journal="
            )
        for path in () if self.resume else own(paths, workers):
            if (self.journal / f"{_folder(path)}{ENDING}").exists():
                raise JournalError(
                    f"{self.journal} already holds a search; continue it (resume=True, --resume) "
                    "or name another folder"
                )
        about = {"budget": repr(self.room), "mask": self.mask and mask_fingerprint(self.mask)}
        jobs = [Job(_folder(path), _walked, {"path": path}, about) for path in paths]
        run(jobs, self.journal, workers, common=(self,))
        return replace(self, resume=True)


def _walked(asked: _Search, path: str) -> Result:
    return {"steps": sum(1 for _ in asked.steps(path)) - 1}


def _folder(path: str) -> str:
    return path.replace(":", "-")


def _found(
    path: str,
    steps: Sequence[Step],
    room: MemoryBudget,
    goal: Limit,
    judge: Callable[[Step], float | None] | None,
) -> Found:
    start, last = steps[0].measured, steps[-1]
    return Found(
        path=path,
        step=last,
        steps=last.number,
        fits=goal(last.measured, start),
        bytes=last.measured.bytes_in(room.format),
        ram=last.measured.ram_in(room.format) if room.format in C_FORMATS else None,
        accuracy=last.measured.accuracy if judge is None else judge(last),
    )


def _order(found: Found) -> tuple[bool, float, float]:
    """Return a sort key, best highest: fits, then accuracy, then loss; by size if it does not."""
    if not found.fits:
        return False, -float(found.bytes), 0.0
    accuracy = 0.0 if found.accuracy is None else found.accuracy
    return True, accuracy, -found.step.measured.loss
