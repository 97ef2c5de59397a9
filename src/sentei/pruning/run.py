"""What a run holds between its steps: the one place where things change."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import BudgetError, StructureError, UnreachableError
from sentei.html_table import html_table
from sentei.network.encoding.architecture import describe
from sentei.network.encoding.plans import C_FORMATS
from sentei.network.encoding.size import counts
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.journal import SAMPLE, Journal, Record, Retrain, Snapshot, described
from sentei.pruning.measuring import Measurement, by_class, measure
from sentei.pruning.rules.limits import Limit
from sentei.pruning.rules.proposals import Cut, Proposal
from sentei.pruning.rules.schedules import Progress
from sentei.samples import fingerprint

log = logging.getLogger("sentei")

SAMPLE_ROWS = 1000  # samples that a journal keeps


@dataclass(frozen=True)
class Step:
    """One round of the loop and everything measured in it.

    Attributes:
        number: 0 is the untouched network.
        mask: what is alive after it.
        removed: positions that went in it, swept ones included, by group.
        measured: quality and size after it.
    """

    number: int
    mask: Mask
    removed: dict[Group, Tensor]
    measured: Measurement
    _journal: Journal = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The run's folder; a temporary one, which goes with the last step, if none was named."""
        return self._journal.folder

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        words = "untouched" if self.number == 0 else f"step {self.number}"
        gone = {f"removed from {g.name}": _shortened(went) for g, went in self.removed.items()}
        return html_table(words, {**self.measured.numbers(), **gone})

    def network(self) -> nn.Module:
        """A full-size copy of the network as it was: masked, repaired and retrained."""
        return self._journal.network(self.number)


@dataclass
class Run:
    """A run of `prune`: model, probes and journal, always at the last step that was kept."""

    model: nn.Module
    groups: list[Group]
    probe: Probe
    judge: Probe
    propose: Proposal
    until: Limit | None
    keeping: Limit | None
    retrain: Retrain | None
    given: Mask | None = None
    undone: int = 0
    full: Mask = field(init=False)
    journal: Journal = field(init=False)
    last: Snapshot = field(init=False)

    def begin(self, folder: str | Path | None, resume: bool) -> None:
        """Check everything that can be checked, then open the journal."""
        mask = self.start
        self.full = Mask.full(mask.groups)
        mask.check(self.model)
        untouched = Snapshot.take(self.model, None, 0)
        mask.apply_(self.model)
        self.forget(mask)
        if self.keeping is not None or self.until is not None:
            try:
                self.check_limits(mask)
            except BaseException:
                untouched.restore_(self.model, None)
                raise
        weights = self.model.state_dict()
        about = {
            "groups": [[g.kind, g.name, g.size] for g in self.full.groups],
            "propose": described(self.propose),
            "keeping": described(self.keeping),
            "retrain": described(self.retrain),
            "weights": fingerprint(weights[name] for name in sorted(weights)),
            "data": [self.probe.fingerprint(), self.judge.fingerprint()],
        }
        start = start_record(self.model, self.judge)
        self.journal = Journal.open(folder, self.model, self.full, about, resume, start)

    @property
    def start(self) -> Mask:
        """What is alive before the first step."""
        full = Mask.full(self.groups)
        return full if self.given is None else full.joined(self.given)

    def check_limits(self, mask: Mask) -> None:
        """Refuse a budget below the smallest network and a floor above the untouched one."""
        start = measure(self.model, mask, self.judge)
        if self.keeping is not None and not self.keeping(start, start):
            raise BudgetError(
                f"keeping={self.keeping} does not hold for the untouched network: {start}; "
                "lower the floor, or train longer"
            )
        if self.until is None or not self.until.is_size:
            return
        # C has no layer without an input, so there one of everything stays.
        least = 1 if any(name.startswith("c") for name in self.until.formats) else 0
        left = _smallest(mask, self.groups, least)
        size = counts(self.model, left)
        smallest = replace(start, **vars(size)).of(self.model, left, self.judge.example)
        if not self.until(smallest, start):
            sizes = [_size_in(smallest, name) for name in self.until.formats]
            raise UnreachableError(
                f"until={self.until} cannot be reached: with everything removed that can be, the "
                f"network still has {'; '.join([str(size), *sizes])}. Allow more, or offer more "
                "groups."
            )

    def steps_so_far(self) -> list[Step]:
        """The steps that are there already; the untouched network in a new run."""
        last = self.journal.last
        if last is None:
            mask = self.start
            self.last = Snapshot.take(self.model, self.retrain, 0)
            measured = measure(self.model, mask, self.judge)
            self.journal.write(Record(0, mask, {}, measured, {}, by_class(self.judge)), self.last)
            return [Step(0, mask, {}, measured, self.journal)]
        steps = []
        for number in range(last + 1):
            record, self.last = self.journal.read(number)
            measured = record.measured.of(self.model, record.mask, self.judge.example)
            steps.append(Step(number, record.mask, record.removed, measured, self.journal))
        self.restore(steps[-1].mask)
        self.undone = self.last.undone
        return steps

    def progress(self, step: Step) -> Progress:
        """Where the run stands, over all groups."""
        alive = sum(step.mask.count(group) for group in self.groups)
        starts = {group: self.start.count(group) for group in self.groups}
        total = sum(starts.values())
        return Progress(step.number + 1, None, total, alive, self.undone, starts)

    def retrain_and_update_(self, cut: Cut, before: Mask, after: Mask) -> None:
        """Let the probes know what was cut; retrain, and let them forget."""
        whole = replace(cut, doomed=_difference(before, after))
        for probe in self.probes:
            probe.update_(whole)
            probe.mask = after
        if self.retrain is not None:
            self.retrain(self.model, after)
            self.forget(after)

    def keep(self, step: Step, cut: Cut, mask: Mask, measured: Measurement) -> Step:
        """Make the step safe: write it, then count on it."""
        snapshot = Snapshot.take(self.model, self.retrain, self.undone)
        removed = _difference(step.mask, mask)
        right = by_class(self.judge)
        mixes = {part.parameter: mix for part, mix in cut.mix.items()}
        number = step.number + 1
        record = Record(number, mask, removed, measured, dict(cut.scores), right, mixes)
        self.journal.write(record, snapshot)
        self.last = snapshot
        return Step(record.number, mask, removed, measured, self.journal)

    def undo(self, mask: Mask) -> None:
        """Take a step back that breached the floor."""
        self.restore(mask)
        self.undone += 1

    def restore(self, mask: Mask) -> None:
        """Go back to the last step that was kept, whose mask this is."""
        self.last.restore_(self.model, self.retrain)
        self.forget(mask)

    def forget(self, mask: Mask) -> None:
        """Drop what the probes have cached: weights have moved."""
        for probe in self.probes:
            probe.mask = mask
            probe.forget_()

    @property
    def probes(self) -> list[Probe]:
        """The criterion's evidence, and the judge's if that is another."""
        return [self.probe] if self.judge is self.probe else [self.probe, self.judge]

    @contextmanager
    def restored_on_error(self, mask: Mask) -> Iterator[None]:
        """Whatever goes wrong inside, the model holds the last step that was kept."""
        try:
            yield
        except BaseException:
            self.restore(mask)
            raise

    def warn_if_not_reached(self, step: Step, start: Measurement) -> None:
        """Say so if the budget was not reached."""
        if self.until is not None and not self.until(step.measured, start):
            floor = "" if self.keeping is None else f" that satisfies {self.keeping}"
            log.warning(
                "%s was not reached: the smallest network%s is that of step %d, with %s",
                *(self.until, floor, step.number, step.measured),
            )


def start_record(model: nn.Module, judge: Probe) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a journal keeps beside the weights, so that the run can be looked at without the model.

    Returns:
        Samples evenly spaced over what the run is measured on, where inputs are one tensor; and the
        network's description and the loss's name, where they have one.
    """
    try:
        architecture = describe(model)
    except StructureError:
        architecture = None
    words = {"architecture": architecture, "loss": judge.loss_name}
    inputs, targets = judge.samples.inputs, judge.samples.targets
    if not isinstance(inputs, Tensor):
        return {}, words
    rows = torch.linspace(0, len(targets) - 1, min(SAMPLE_ROWS, len(targets))).round().long()
    kept = {"inputs": inputs[rows.to(inputs.device)], "targets": targets[rows.to(targets.device)]}
    return {SAMPLE + name: tensor.cpu() for name, tensor in kept.items()}, words


def _shortened(positions: Tensor, most: int = 12) -> str:
    shown = ", ".join(map(str, positions[:most].tolist()))
    return shown if len(positions) <= most else f"{shown} and {len(positions) - most:,} more"


def _size_in(measured: Measurement, format: str) -> str:
    words = f"{measured.bytes_in(format):,} bytes as {format}"
    return f"{words} with {measured.ram_in(format):,} of RAM" if format in C_FORMATS else words


def _smallest(mask: Mask, groups: Sequence[Group], least: int) -> Mask:
    """What is left with everything gone that could go: `least` of each, and what torch needs."""
    doomed = {}
    for group in groups:
        alive = mask.alive(group).nonzero().flatten()
        stay = max(group.least, least) if isinstance(group, Neurons) else 0
        doomed[group] = alive[stay:]
    left = mask.without(doomed)
    if not least:
        return left
    for group in left.groups:
        # Which synapse is the layer's one makes no difference to the size.
        if isinstance(group, Synapses) and not left.living(group.parameter, group.shape).any():
            left = left.with_({group: left.ends_alive(group).nonzero()[:1].flatten()})
    return left


def _difference(before: Mask, after: Mask) -> dict[Group, Tensor]:
    gone = {g: (before.alive(g) & ~after.alive(g)).nonzero().flatten() for g in before.groups}
    return {group: positions for group, positions in gone.items() if positions.numel()}
