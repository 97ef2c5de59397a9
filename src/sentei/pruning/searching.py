"""`search`: among several ways down to a size, the most accurate network that fits."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sentei.criteria import Criterion
from sentei.errors import unknown
from sentei.network.encoding.plans import C_FORMATS
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, Neurons, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.journal import Retrain
from sentei.pruning.loop import prune
from sentei.pruning.rules.bytewise import per_byte
from sentei.pruning.rules.limits import Limit, MemoryBudget, all_of
from sentei.pruning.rules.proposals import Cut
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.run import Step

PATHS = ("both", "units", "synapses", "units:50")


@dataclass(frozen=True)
class restricted:  # noqa: N801 - used like a function: restricted("units:50", per_byte("c-int8"))
    """A path of a search: which kinds may go, and when.

    Args:
        path: "units", "synapses", "both" (whichever costs the least loss per byte), or "units:50":
            units until 50 % of them are left, then synapses.
        propose: what says which units and which synapses. At its last stop, where bytes are few
            enough, only units go: they alone save RAM.

    Raises:
        ValueError: no such path.
    """

    path: str
    propose: per_byte

    def __post_init__(self) -> None:
        if not re.fullmatch(r"units:[1-9][0-9]?", self.path) and self.path not in PATHS:
            raise ValueError(unknown("path", self.path, PATHS))

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The next batch; None at the path's end."""
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
        left = sum(mask.count(group) for group in units)
        start = sum(progress.starts.get(group, group.size) for group in units)
        return {"unit"} if 100 * left > int(percent) * start else {"synapse"}


def _kind(group: Group) -> str:
    return "unit" if isinstance(group, Neurons) else "synapse"


@dataclass(frozen=True)
class Found:
    """Where a path ended.

    Attributes:
        path: which; see `down`.
        step: the last one: its mask, what was measured, its network.
        steps: how many there were.
        fits: whether the network is within the room.
        bytes: in the room's format.
        ram: of its activations; None where the format is not C.
        accuracy: of what was judged; None where targets are not classes.
    """

    path: str
    step: Step
    steps: int
    fits: bool
    bytes: int
    ram: int | None
    accuracy: float | None


def paths_for(format: str, asked: Sequence[str] | None = None) -> list[str]:
    """The paths that a search takes; where the format keeps dead synapses as zeros, "units".

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
                f"leave {path!r} out, or write C"
            )
    return paths


def search(
    model: nn.Module,
    learn: Any,
    room: MemoryBudget,
    *,
    evaluate: Any = None,
    paths: Sequence[str] | None = None,
    loss: str = "cross_entropy",
    units: str | Criterion = "ablation",
    inputs: bool = False,
    mask: Mask | None = None,
    until: Limit | None = None,
    keeping: Limit | None = None,
    retrain: Callable[[], Retrain] | None = None,
    judge: Callable[[Step], float | None] | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[str, Step], object] | None = None,
) -> list[Found]:
    """Prune copies of a network along several paths until they fit, the most accurate first.

    Args:
        model: stays as it is.
        learn: (inputs, targets) that criteria look at.
        room: what it has to fit into.
        evaluate: (inputs, targets) that steps are measured and paths compared on; `learn` if None.
        paths: see `down`; those of `paths_for` if None.
        loss: as of `Probe`.
        units: criterion that orders the units of a group.
        inputs: whether input features may go as well.
        mask: what is dead to begin with.
        until: another budget to be reached besides.
        keeping: a floor; a path that meets it ends there.
        retrain: makes a `FineTune` for each path; there is no retraining if None.
        judge: accuracy of a path's last step, such as that of the file it would be written to; what
            was measured if None.
        journal: folder with a run folder for each path.
        resume: go on with the runs that are there.
        on_step: called with path and step after every step.

    Returns:
        Where each path ended: those that fit first, the most accurate of them before the others.

    Raises:
        UnreachableError: not even the smallest network fits; its size is in the message.
        ValueError: an unknown path, or one that saves nothing in the format.
    """
    ways = paths_for(room.format, paths)
    goal = room.limit if until is None else all_of(room.limit, until)
    found = []
    for way in ways:
        worker = copy.deepcopy(model)
        probe = Probe(worker, learn, loss)
        groups: list[Group] = [*find_units(worker, probe.example, inputs=inputs)]
        groups += find_synapses(worker) if room.format in C_FORMATS else []
        propose = per_byte(room.format, units=units, stops=(int(room.bytes),))
        run = prune(
            worker,
            groups,
            probe,
            restricted(way, propose),
            until=goal,
            keeping=keeping,
            retrain=None if retrain is None else retrain(),
            evaluate=evaluate,
            journal=None if journal is None else Path(journal) / way.replace(":", "-"),
            resume=resume,
            mask=mask,
        )
        steps = []
        for step in run:
            steps.append(step)
            if on_step is not None:
                on_step(way, step)
        found.append(_found(way, steps, room, goal, judge))
    return sorted(found, key=_order, reverse=True)


def _found(
    way: str,
    steps: Sequence[Step],
    room: MemoryBudget,
    goal: Limit,
    judge: Callable[[Step], float | None] | None,
) -> Found:
    start, last = steps[0].measured, steps[-1]
    return Found(
        path=way,
        step=last,
        steps=last.number,
        fits=goal(last.measured, start),
        bytes=last.measured.bytes_in(room.format),
        ram=last.measured.ram_in(room.format) if room.format in C_FORMATS else None,
        accuracy=last.measured.accuracy if judge is None else judge(last),
    )


def _order(found: Found) -> tuple[bool, float, float]:
    """Fitting first, then the more accurate, then the lower loss; else the smallest."""
    if not found.fits:
        return False, -float(found.bytes), 0.0
    right = 0.0 if found.accuracy is None else found.accuracy
    return True, right, -found.step.measured.loss
