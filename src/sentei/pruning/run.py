"""The state of a pruning run between its steps: model, probes, journal, and how they change."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from sentei.card import card_of
from sentei.describing import described
from sentei.distributed import check_same, on_main, world
from sentei.errors import BudgetError, FileError, JournalError, StructureError, UnreachableError
from sentei.html_table import html_table
from sentei.network.encoding.architecture import describe
from sentei.network.encoding.carrying import carried
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.identity import mask_fingerprint, network_words
from sentei.pruning.journal import Journal
from sentei.pruning.judging import Judge
from sentei.pruning.measuring import Measurement
from sentei.pruning.rules.conditions import Limit
from sentei.pruning.rules.proposals import Cut, Paced, Proposal
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.run_files import SAMPLE, reading
from sentei.pruning.step_files import Record, Retrain, Snapshot
from sentei.samples import fingerprint

log = logging.getLogger("sentei")
ends = logging.getLogger("sentei.pruning")  # how runs ended: commands show it

SAMPLE_ROWS = 1000  # samples stored in a journal, at most


@dataclass(frozen=True)
class Step:
    """One step of a pruning run: what it removed, the mask after it, and what was measured.

    Attributes:
        number: 0 is the untouched network.
        mask: what is alive after it.
        removed: positions removed in it by group, those of the sweep included.
        measured: quality and size after it.
    """

    number: int
    mask: Mask
    removed: dict[Group, Tensor]
    measured: Measurement
    _journal: Journal | None = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The run folder; without `journal=` a temporary one, deleted with the run's last step.

        Raises:
            JournalError: on a rank of a torch.distributed group other than 0, which stores nothing.
        """
        return self._stored.folder

    def row(self) -> dict[str, float]:
        """Return the step as plain numbers by name, for a table or a logger.

        "step", "accuracy" where there is one, "loss", each metric, "units", "synapses",
        "parameters", "bytes", "multiply_adds" (for one sample; missing where they cannot be
        counted) and "removed", the members that the step removed.
        """
        return row(self.number, self.measured, self.removed)

    def _repr_html_(self) -> str:
        """Return a small HTML table, for notebooks."""
        words = "untouched" if self.number == 0 else f"step {self.number}"
        gone = {f"removed from {g.name}": _shortened(went) for g, went in self.removed.items()}
        numbers = self.measured.numbers()
        metrics = numbers.pop("metrics", {})
        return html_table(words, {**numbers, **metrics, **gone})

    def network(self) -> nn.Module:
        """Return a full-size copy of the network after this step: masked, repaired, retrained.

        Raises:
            JournalError: the step's file was removed, exchanged or damaged; or as for `folder`.
        """
        return self._stored.network(self.number)

    @property
    def _stored(self) -> Journal:
        if self._journal is None:
            raise JournalError(
                f"only rank 0 of a torch.distributed group stores the steps of a run; step "
                f"{self.number} can be read there"
            )
        return self._journal


@dataclass
class Run:
    """A run of `prune`: its model, probes and journal, in the state of the last step kept."""

    model: nn.Module
    groups: list[Group]
    probe: Probe
    judge: Judge
    propose: Proposal
    until: Limit | None
    keeping: Limit | None
    retrain: Retrain | None
    given: Mask | None = None
    undone: int = 0
    told: bool = field(init=False, default=False)  # that dead weights were trained
    at_start: Measurement | None = field(init=False, default=None)
    folder: Path = field(init=False)
    start: Mask = field(init=False)
    journal: Journal | None = field(init=False, default=None)  # None where another rank writes
    last: Snapshot = field(init=False)
    untouched: Snapshot = field(init=False)
    first_masks: list[Mask] = field(init=False)

    def begin(self, folder: str | Path | None, resume: bool) -> None:
        """Check limits and groups, apply the given mask, then open the journal."""
        self.folder = Path(folder or "temporary folder")
        full = Mask.full(self.groups)
        self.start = full if self.given is None else full.joined(self.given)
        self.start.check(self.model)
        self.untouched = self._snapshot()
        self.first_masks = [probe.mask for probe in self.probes]
        with self.untouched_on_error():
            self.start.apply_(self.model)
            self.forget(self.start)
            if isinstance(self.propose, Paced):
                starts = {group: self.start.count(group) for group in self.groups}
                self.propose.check(self.groups, starts, None)
            if self.keeping is not None or self.until is not None:
                self.check_limits()
            on_main(lambda: self._open(folder, resume))

    def _open(self, folder: str | Path | None, resume: bool) -> None:
        both = self.probe, self.judge.probe
        about = {
            "propose": described(self.propose),
            "keeping": described(self.keeping),
            "retrain": described(self.retrain),
            "data": [probe.fingerprint() for probe in both],
            "loss": [described(probe.loss_name or probe.per_sample) for probe in both],
            "trajectory": described(self.probe.trajectory),
            "network": network_words(self.model),
            "may_be_cut": len(self.groups),  # of all groups, the first ones
            "dead": mask_fingerprint(self.start),
        }
        if any(probe.forward for probe in both):
            about["forward"] = [described(probe.forward) for probe in both]
        if self.judge.name is not None:
            about["evaluate"] = self.judge.name
        stored = start_record(self.model, self.judge.probe)
        everything = Mask.full(self.start.groups)
        self.journal = Journal.open(folder, self.model, everything, about, resume, stored)

    def close(self) -> None:
        """Let other processes write to the run folder."""
        if self.journal is not None:
            self.journal.close()

    def check_limits(self) -> None:
        """Refuse what no network can meet, a floor that step 0 breaches, and unknown metrics."""
        start = self.measured_start()
        for limit in (self.until, self.keeping):
            limit.check(start.metrics) if limit is not None else None
        if self.keeping is not None and not self.keeping(start, start):
            raise BudgetError(
                f"keeping={self.keeping} does not hold for the untouched network: {start}; "
                "lower the floor, or train longer"
            )
        if self.until is None or not self.until.is_size:
            return
        left = _smallest(self.start, self.groups, self.until.least)
        smallest = start.of(self.judge.outline, left)
        if not self.until(smallest, start):
            sizes = [told(smallest) for told in self.until.told]
            raise UnreachableError(
                f"until={self.until} cannot be reached: with everything removed that can be, the "
                f"network still has {'; '.join([smallest.size, *sizes])}. Allow more, or offer "
                "more groups."
            )

    def measured_start(self) -> Measurement:
        """Measure the network before the first step, the first time; later return the same."""
        if self.at_start is None:
            self.at_start = self.judge.measure(self.start)
        return self.at_start

    def steps_so_far(self) -> list[Step]:
        """Return the steps in the journal; in a new run, write and return step 0."""
        with self.untouched_on_error():
            records, last = on_main(self._stored)
            if last is None:
                return [self._first_step()]
            self.judge.expect_(records[0].measured.metrics)
            outline = self.judge.outline
            steps = [
                self._step(replace(r, measured=r.measured.of(outline, r.mask))) for r in records
            ]
            self.last, self.undone = last, last.undone
            with reading(f"the state after step {len(steps) - 1}", self.folder / "steps"):
                self.restore(steps[-1].mask)
            return steps

    def _stored(self) -> tuple[list[Record], Snapshot | None]:
        """Return the records in the run folder, and the state after the last of them."""
        journal = cast(Journal, self.journal)
        if gap := journal.gap():
            raise JournalError(
                f"{journal.folder} cannot be continued: {gap}. Restore the missing step from a "
                "copy, or delete the steps after it."
            )
        records = list(journal.records())
        return records, journal.read(records[-1].number)[1] if records else None

    def _first_step(self) -> Step:
        return self._write(Record(0, self.start, {}, self.measured_start()))

    def _write(self, record: Record) -> Step:
        """Write a step to the journal and return it."""
        snapshot = self._snapshot()
        self._agree(record.mask)
        on_main(lambda: cast(Journal, self.journal).write(record, snapshot))
        self.last = snapshot
        return self._step(record)

    def _agree(self, mask: Mask) -> None:
        """Check that all ranks of a torch.distributed group have the same weights and mask.

        Raises:
            StructureError: they have not: what retrains or proposes differs between the ranks.
        """
        if world() > 1:
            held = fingerprint(self.model.state_dict().values())
            what = (
                "the same weights, buffers and units after each step; a retrainer that trains on "
                "part of the data has to average gradients and the statistics of batch norms, and "
                "what draws random numbers needs one seed"
            )
            check_same(f"{held} {mask_fingerprint(mask)}", what, StructureError)

    def _step(self, record: Record) -> Step:
        return Step(record.number, record.mask, record.removed, record.measured, self.journal)

    def _snapshot(self) -> Snapshot:
        return Snapshot.take(self.model, self.retrain, self.propose, self.undone)

    def progress(self, step: Step) -> Progress:
        """Return how far the run has come, over all groups, as schedules need it."""
        alive = sum(step.mask.count(group) for group in self.groups)
        starts = {group: self.start.count(group) for group in self.groups}
        total = sum(starts.values())
        return Progress(step.number + 1, None, total, alive, self.undone, starts)

    def retrain_and_update_(self, mask: Mask, *, refit: bool = False) -> None:
        """Update the probes after a cut; then retrain, and drop what the probes recorded.

        Dead weights that the retrainer has changed are set to zero again, which is logged once.

        Args:
            mask: what is alive after the cut.
            refit: whether the cut also changed weights that stay.
        """
        for probe in self.probes:
            probe.update_(mask)
            if refit:
                probe.forget_()
        if self.retrain is None:
            return
        self.retrain(self.model, mask)
        trained = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        mask.apply_(self.model)
        revived = sum(int((p != trained[n]).sum()) for n, p in self.model.named_parameters())
        if revived and not self.told:
            self.told = True
            log.warning(
                "retrain= changed %s weights of dead units and synapses, which were set to zero "
                "again. Call mask.hold_(model, optimizer) after every update of the optimizer, so "
                "that the masked network is trained.",
                f"{revived:,}",
            )
        self.forget(mask)

    def keep(self, step: Step, cut: Cut, mask: Mask, measured: Measurement) -> Step:
        """Write the step to the journal and return it."""
        return self._write(Record.after(step.number + 1, step.mask, cut, mask, measured))

    def undo(self, mask: Mask) -> None:
        """Undo a step that breached the floor."""
        self.restore(mask)
        self.undone += 1

    def restore(self, mask: Mask) -> None:
        """Restore the last step that was kept; `mask` is that step's mask."""
        self.last.restore_(self.model, self.retrain, self.propose)
        self.forget(mask)

    def forget(self, mask: Mask) -> None:
        """Drop what the probes recorded, after weights have changed."""
        for probe in self.probes:
            probe.update_(mask)
            probe.forget_()

    @property
    def probes(self) -> list[Probe]:
        """The criterion's probe, and the one that measures steps if that is another."""
        judge = self.judge.probe
        return [self.probe] if judge is self.probe else [self.probe, judge]

    @contextmanager
    def untouched_on_error(self) -> Iterator[None]:
        """Restore model, probes, retrainer and proposal as `prune` got them if anything raises."""
        try:
            yield
        except BaseException:
            self.untouched.restore_(self.model, self.retrain, self.propose)
            for probe, mask in zip(self.probes, self.first_masks, strict=True):
                probe.update_(mask)
                probe.forget_()
            raise

    @contextmanager
    def restored_on_error(self, mask: Mask) -> Iterator[None]:
        """Restore the last step that was kept if anything inside raises, Ctrl-C included."""
        try:
            yield
        except BaseException:
            self.restore(mask)
            raise

    def tell_end(self, step: Step, start: Measurement) -> None:
        """Log how many steps were undone, and a warning if the budget was not reached."""
        if self.keeping is not None:
            ends.info(
                "Steps kept: %d, undone: %d. After each kept step %s holds.",
                *(step.number, self.undone, self.keeping),
            )
        if self.until is not None and not self.until(step.measured, start):
            floor = "" if self.keeping is None else f" that satisfies {self.keeping}"
            log.warning(
                "%s was not reached: the smallest network%s is that of step %d, with %s",
                *(self.until, floor, step.number, step.measured),
            )


def row(number: int, measured: Measurement, removed: Mapping[Group, Tensor]) -> dict[str, float]:
    """Return a step as plain numbers by name; see `Step.row`."""
    numbers = measured.numbers()
    found = {"step": number, **numbers.pop("metrics", {}), **numbers}
    with suppress(StructureError, ValueError):  # an unknown function, or no network to count in
        found["multiply_adds"] = measured.multiply_adds
    found["removed"] = sum(map(len, removed.values()))
    return {name: found[name] for name in found if found[name] is not None}


def start_record(model: nn.Module, judge: Probe) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a journal stores beside the weights, for reading the run without the model.

    Returns:
        Samples evenly spaced over those that the run is measured on (the first ones, where not all
        are in memory), where inputs and targets are one tensor each;
        and the network's description, its `Card` and the loss's name, where there are any.
    """
    try:
        carried(model)  # refuses hooks, for example, which a description would leave out
        architecture = describe(model)
    except (FileError, StructureError):
        architecture = None
    words = {"architecture": architecture, "loss": judge.loss_name}
    if known := card_of(model).data():
        words["card"] = known
    some = judge.samples.spread(SAMPLE_ROWS)
    kept = {"inputs": some.inputs, "targets": some.targets}
    if not all(isinstance(part, Tensor) for part in kept.values()):
        return {}, words
    return {SAMPLE + name: tensor.cpu() for name, tensor in kept.items()}, words


def _shortened(positions: Tensor, most: int = 12) -> str:
    shown = ", ".join(map(str, positions[:most].tolist()))
    return shown if len(positions) <= most else f"{shown} and {len(positions) - most:,} more"


def _smallest(mask: Mask, groups: Sequence[Group], least: int) -> Mask:
    """Return the smallest mask: `least` of each group, or as many units as torch needs."""
    doomed = {}
    for group in groups:
        alive = mask.alive(group).nonzero().flatten()
        stay = max(group.least, least) if isinstance(group, Neurons) else 0
        doomed[group] = alive[stay:]
    left = mask.without(doomed)
    if not least:
        return left
    for group in left.groups:
        # The size is the same whichever synapse of the layer stays.
        if isinstance(group, Synapses) and not left.living(group.parameter, group.shape).any():
            left = left.with_({group: left.ends_alive(group).nonzero()[:1].flatten()})
    return left
