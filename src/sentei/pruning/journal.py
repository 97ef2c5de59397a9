"""Write a pruning run to a folder, step by step, so that any step can be restored.

    run.json                  the run's identity: groups, proposal, floor; fingerprints of weights,
                              data and the groups' slices
    start.safetensors         the untouched network, its description, the slices of its groups, and
                              some of the samples that it was measured on
    steps/00007.safetensors   the state after step 7: dead members, tensors that retraining or a
                              repair changed, mixes, the retrainer's state, scores, measurements
    about.json                notes without effect: names, the command (see `note`)

A file is written under another name and then renamed, so that the folder holds complete steps only,
even after a crash. Nothing in it depends on the clock: the same run writes the same bytes.

Groups are stored with their slices. A run is therefore read without tracing the network again, and
a run folder stays readable when tracing changes.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sentei import storage
from sentei.errors import JournalError
from sentei.network.encoding.packing import pack_groups
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.pruning.measuring import Measurement
from sentei.pruning.rules.proposals import Proposal
from sentei.pruning.rules.states import restore_state_, state_of
from sentei.pruning.run_files import (
    ABOUT,
    IDENTITY,
    SLICES,
    START,
    VERSION,
    WEIGHTS,
    check_version,
    identity,
    read_json,
    read_tensors,
    reading,
    stored_groups,
    stripped,
    under,
)


class Retrain(Protocol):
    """A function called after every cut to restore accuracy.

    If it has methods `state_dict` and `load_state_dict`, undo and resume restore its state. It may
    hold tensors, numbers, strings, lists and dicts.
    """

    def __call__(self, model: nn.Module, mask: Mask, /) -> object:
        """Train `model`; what is dead in `mask` stays zero."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after a step, as undo and resume restore it.

    Attributes:
        weights: parameters and buffers by name.
        retrain: the retrainer's state; None if it has none.
        propose: the proposal's state; None if it has none.
        random: torch's random state, where a retrainer draws from it.
        undone: steps undone since the start of the run.
    """

    weights: dict[str, Tensor]
    retrain: dict[str, Any] | None
    propose: dict[str, Any] | None
    random: Tensor | None
    undone: int

    @classmethod
    def take(
        cls, model: nn.Module, retrain: Retrain | None, propose: Proposal, undone: int
    ) -> Snapshot:
        """Copy the present state of the model, the retrainer, the proposal and random numbers."""
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        random = None if retrain is None else torch.get_rng_state()
        return cls(weights, state_of(retrain), state_of(propose), random, undone)

    def restore_(self, model: nn.Module, retrain: Retrain | None, propose: Proposal) -> None:
        """Copy the stored state back into the model's own tensors, retrainer and proposal."""
        model.load_state_dict(self.weights)
        restore_state_(retrain, self.retrain)
        restore_state_(propose, self.propose)
        if self.random is not None:
            torch.set_rng_state(self.random)


@dataclass(frozen=True)
class Record:
    """What the journal stores of one step besides the weights.

    Attributes:
        number: 0 is the untouched network.
        mask: what is alive after it.
        removed: positions removed in it, those of the sweep included.
        measured: quality and size after it.
        scores: the criterion's scores before it.
        mixes: the mix at each listening parameter; see `network.folding.fold_`.
    """

    number: int
    mask: Mask
    removed: dict[Group, Tensor]
    measured: Measurement
    scores: dict[Group, Tensor]
    mixes: dict[str, Tensor] = field(default_factory=dict)


class Journal:
    """Read and write one run folder; open one with `Journal.open`."""

    def __init__(self, folder: Path, model: nn.Module, mask: Mask, durable: bool):
        self.folder = folder
        self.durable = durable
        self.full = mask
        self.template = copy.deepcopy(model)
        self.start = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @classmethod
    def open(
        cls,
        folder: str | Path | None,
        model: nn.Module,
        mask: Mask,
        about: Mapping[str, Any],
        resume: bool = False,
        start: tuple[Mapping[str, Tensor], Mapping[str, Any]] = ({}, {}),
    ) -> Journal:
        """Create the folder of a run, or open it to continue the run.

        Args:
            folder: its path; a temporary folder if None.
            model: the network before the first step.
            mask: all groups of the run, everything alive.
            about: plain data that identifies the run.
            resume: continue the run that the folder holds.
            start: tensors and plain data to store beside the untouched network.

        Raises:
            JournalError: the folder holds a run and `resume` is False, holds another run, or was
                written in another version of this format.
        """
        if folder is None:
            temporary = tempfile.mkdtemp(prefix="sentei-")
            journal = cls(Path(temporary), model, mask, durable=False)
            # Deleted with the last step that refers to it, or at the end of the process.
            weakref.finalize(journal, shutil.rmtree, temporary, ignore_errors=True)
        else:
            journal = cls(Path(folder), model, mask, durable=True)
        slices, entries = pack_groups(mask.groups)
        ours = identity(mask.groups, slices, entries, journal.start)
        card = json.dumps({"version": VERSION, **ours, **about}, indent=2, sort_keys=True) + "\n"
        if not journal._is_new():
            journal._check_same(json.loads(card), resume)
            return journal
        tensors = {**under(WEIGHTS, journal.start), **under(SLICES, slices), **start[0]}
        journal._write(START, tensors, {**start[1], "groups": entries})
        storage.write(journal.folder / IDENTITY, card.encode(), durable=journal.durable)
        return journal

    def _is_new(self) -> bool:
        """Whether the folder is empty, or a run was killed in it before its first file was whole.

        Raises:
            JournalError: the folder holds other files, is a file, or cannot be read.
        """
        try:
            names = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        except OSError as error:
            raise JournalError(
                f"{self.folder} cannot be used as a run folder: {error.strerror or error}. Name "
                "another folder."
            ) from error
        unfinished = {name for name in names if name.startswith(".") and name.endswith(".part")}
        others = names - unfinished - {START}
        if others and IDENTITY not in names:
            raise JournalError(
                f"{self.folder} holds files but no {IDENTITY}: it is no run folder. Name another "
                "folder."
            )
        return not others

    def _check_same(self, ours: Mapping[str, Any], resume: bool) -> None:
        theirs = read_json(self.folder / IDENTITY)
        check_version(self.folder, theirs)
        if not resume:
            raise JournalError(
                f"{self.folder} already holds a run; continue it (resume=True, --resume) or name "
                "another folder"
            )
        differ = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if differ:
            key = differ[0]
            raise JournalError(
                f"{self.folder} holds another run: {', '.join(differ)} differ ({key}: "
                f"{theirs.get(key)!r} there, {ours.get(key)!r} here). Name another folder."
            )
        stored_groups(
            self.folder, theirs, *read_tensors(self.folder / START, "the untouched network")
        )

    @property
    def last(self) -> int | None:
        """Number of the last complete step before which none is missing; None before the first."""
        number = 0
        while self._path(number).exists():
            number += 1
        return number - 1 if number else None

    @property
    def after_gap(self) -> list[int]:
        """Numbers of the steps that are there although one before them is missing."""
        numbers = sorted(int(path.stem) for path in self._path(0).parent.glob("[0-9]*.safetensors"))
        last = self.last
        return [number for number in numbers if last is None or number > last]

    def write(self, record: Record, snapshot: Snapshot) -> None:
        """Write a step; its file is complete when this returns.

        Raises:
            FileError: the file cannot be written; the steps before it are unchanged.
        """
        expected = self._expected(record.mask)
        moved = {n: t for n, t in snapshot.weights.items() if not torch.equal(t, expected[n])}
        tensors = under(WEIGHTS, moved)
        for i, group in enumerate(self.full.groups):
            tensors[f"dead/{i}"] = record.mask.dead(group).int()
            if group in record.removed:
                tensors[f"removed/{i}"] = record.removed[group].int()
            if group in record.scores:
                tensors[f"scores/{i}"] = record.scores[group]
        if record.measured.by_class is not None:
            tensors["by_class"] = record.measured.by_class.int()
        tensors |= under("mix/", record.mixes)
        if snapshot.random is not None:
            tensors["random"] = snapshot.random
        about = {
            "number": record.number,
            "measured": record.measured.numbers(),
            "undone": snapshot.undone,
            "retrain": _flatten(snapshot.retrain, "retrain", tensors),
            "propose": _flatten(snapshot.propose, "propose", tensors),
        }
        self._write(f"steps/{record.number:05}.safetensors", tensors, about)

    def read(self, number: int) -> tuple[Record, Snapshot]:
        """Read a step and the state after it.

        Raises:
            JournalError: there is no such step, or its file is damaged.
        """
        path, what = self._path(number), f"step {number}"
        tensors, about = read_tensors(path, what)
        with reading(what, path):
            return self._unpacked(number, tensors, about)

    def _unpacked(
        self, number: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
    ) -> tuple[Record, Snapshot]:
        if about["number"] != number or type(about["undone"]) is not int:
            raise ValueError(f"it holds step {about['number']}, undone {about['undone']}")
        groups = list(enumerate(self.full.groups))
        mask = self.full.without({group: tensors[f"dead/{i}"] for i, group in groups})
        held = {
            key: {group: tensors[f"{key}/{i}"] for i, group in groups if f"{key}/{i}" in tensors}
            for key in ("removed", "scores")
        }
        removed = {group: positions.long() for group, positions in held["removed"].items()}
        weights, moved = self._expected(mask), stripped(WEIGHTS, tensors)
        for name, tensor in moved.items():
            if tensor.shape != weights[name].shape:
                raise ValueError(f"weight {name!r} has shape {tuple(tensor.shape)}")
        measured = Measurement.read(about["measured"], tensors.get("by_class"))
        mixes = stripped("mix/", tensors)
        record = Record(number, mask, removed, measured, held["scores"], mixes)
        retrain, propose = (_unflatten(about[key], tensors) for key in ("retrain", "propose"))
        random, undone = tensors.get("random"), about["undone"]
        return record, Snapshot({**weights, **moved}, retrain, propose, random, undone)

    def network(self, number: int) -> nn.Module:
        """Return a full-size copy of the network as it was after a step."""
        _, snapshot = self.read(number)
        network = copy.deepcopy(self.template)
        network.load_state_dict(snapshot.weights)
        return network

    def _expected(self, mask: Mask) -> dict[str, Tensor]:
        """Return the untouched network's tensors under a mask; a step stores only what differs."""
        self.template.load_state_dict(self.start)
        mask.apply_(self.template)
        return {name: t.detach().clone() for name, t in self.template.state_dict().items()}

    def _path(self, number: int) -> Path:
        return self.folder / "steps" / f"{number:05}.safetensors"

    def _write(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        whole = {key: tensor.contiguous().clone() for key, tensor in sorted(tensors.items())}
        data = save(whole, metadata={"sentei": json.dumps(about, sort_keys=True)})
        storage.write(self.folder / name, data, durable=self.durable)


def note(folder: str | Path, words: Mapping[str, Any]) -> None:
    """Store notes about a run in its folder; notes that are there already are not replaced.

    Args:
        folder: a run folder.
        words: plain data: the command, names of classes and features, versions.
    """
    path = Path(folder) / ABOUT
    if not path.exists():
        storage.write(path, (json.dumps(words, indent=2, sort_keys=True) + "\n").encode())


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as plain data; its tensors go into `tensors`, their names into the data."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        pairs = [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise JournalError(
        "the state of a retrainer or a proposal may hold tensors, numbers, strings, lists and "
        f"dicts; {path} is a {type(value).__name__}"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "list" in value:
            return [_unflatten(item, tensors) for item in value["list"]]
        return {key: _unflatten(item, tensors) for key, item in value["dict"]}
    return value
