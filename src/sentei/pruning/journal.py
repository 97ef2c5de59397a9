"""The run folder: every step whole, so that nothing is lost and any step can be brought back.

    run.json                  what run this is: groups, proposal, floor; fingerprints of weights and
                              data
    start.safetensors         the untouched network, what built it, and a sample of what it was
                              measured on
    steps/00007.safetensors   what step 7 left: the dead, tensors that retraining or repair moved,
                              who took over, the retrainer's state, scores, measurements
    about.json                words that change nothing: names, the command (see `note`)

A step is written beside its place and renamed into it: whatever happens, the folder holds complete
steps only. Nothing in it depends on the clock; the same run writes the same bytes.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sentei import storage
from sentei.errors import JournalError
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.pruning.measuring import Measurement

VERSION = 2
ABOUT = "about.json"
WEIGHTS, SAMPLE = "weights/", "sample/"  # what names in a start file begin with


class Retrain(Protocol):
    """Called after every cut to mend the network; its state goes into undo and journal."""

    def __call__(self, model: nn.Module, mask: Mask) -> None:
        """Train `model`, keeping the dead of `mask` silent."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything the next call depends on: tensors, numbers, strings, lists and dicts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """Everything that has to come back when a step is undone, resumed or looked at again."""

    weights: dict[str, Tensor]
    retrain: dict[str, Any] | None
    random: Tensor | None
    undone: int

    @classmethod
    def take(cls, model: nn.Module, retrain: Retrain | None, undone: int) -> Snapshot:
        """Copy the present state."""
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if retrain is None:
            return cls(weights, None, None, undone)
        return cls(weights, copy.deepcopy(retrain.state_dict()), torch.get_rng_state(), undone)

    def restore_(self, model: nn.Module, retrain: Retrain | None) -> None:
        """Put the state back into the same tensors."""
        model.load_state_dict(self.weights)
        if retrain is not None and self.retrain is not None:
            retrain.load_state_dict(copy.deepcopy(self.retrain))
        if self.random is not None:
            torch.set_rng_state(self.random)


@dataclass(frozen=True)
class Record:
    """A step as the journal holds it.

    Attributes:
        number: 0 is the untouched network.
        mask: what is alive after it.
        removed: positions that went in it, swept ones included.
        measured: quality and size after it.
        scores: what the criterion said before it.
        by_class: (classes, 2) samples classified correctly, and samples; None without classes.
        mixes: who took over, by listening parameter; see `network.folding.fold_`.
    """

    number: int
    mask: Mask
    removed: dict[Group, Tensor]
    measured: Measurement
    scores: dict[Group, Tensor]
    by_class: Tensor | None = None
    mixes: dict[str, Tensor] = field(default_factory=dict)


class Journal:
    """One run's folder. Open it with `Journal.open`."""

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
        """Begin a run's folder, or go on with it.

        Args:
            folder: where; a temporary place if None.
            model: as it is before the first step.
            mask: in which everything is alive.
            about: what tells this run from others, as plain data.
            resume: go on with the run that is there.
            start: tensors and plain data to keep beside the untouched network.

        Raises:
            JournalError: the folder holds a run and `resume` was not asked for, or another run.
        """
        if folder is None:
            temporary = tempfile.mkdtemp(prefix="sentei-")
            journal = cls(Path(temporary), model, mask, durable=False)
            # It goes with the last step that refers to it, or with the process.
            weakref.finalize(journal, shutil.rmtree, temporary, ignore_errors=True)
        else:
            journal = cls(Path(folder), model, mask, durable=True)
        card = json.dumps({"version": VERSION, **about}, indent=2, sort_keys=True) + "\n"
        held = journal.folder / "run.json"
        if held.exists():
            journal._check_same(held.read_text(), card, resume)
            return journal
        if journal.folder.exists() and any(journal.folder.iterdir()):
            raise JournalError(
                f"{journal.folder} holds files but no run.json: it is no run folder. Name another."
            )
        journal._write(
            "start.safetensors", {**_under(WEIGHTS, journal.start), **start[0]}, start[1]
        )
        storage.write(held, card.encode(), durable=journal.durable)
        return journal

    def _check_same(self, held: str, card: str, resume: bool) -> None:
        if not resume:
            raise JournalError(
                f"{self.folder} already holds a run; go on with it (resume=True, --resume) or name "
                "another folder"
            )
        try:
            theirs = json.loads(held)
        except json.JSONDecodeError as error:
            raise JournalError(f"{self.folder}/run.json is damaged: {error}") from error
        ours = json.loads(card)
        differ = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if differ:
            key = differ[0]
            raise JournalError(
                f"{self.folder} holds another run: {', '.join(differ)} differ ({key}: "
                f"{theirs.get(key)!r} there, {ours.get(key)!r} here). Name another folder."
            )

    @property
    def last(self) -> int | None:
        """Number of the last complete step."""
        number = 0
        while self._path(number).exists():
            number += 1
        return number - 1 if number else None

    def write(self, record: Record, snapshot: Snapshot) -> None:
        """Add a step; it is in the folder whole once this returns.

        Raises:
            FileError: it could not be written; the steps before it are untouched.
        """
        expected = self._expected(record.mask)
        moved = {n: t for n, t in snapshot.weights.items() if not torch.equal(t, expected[n])}
        tensors = _under(WEIGHTS, moved)
        for i, group in enumerate(self.full.groups):
            tensors[f"dead/{i}"] = record.mask.dead(group).int()
            if group in record.removed:
                tensors[f"removed/{i}"] = record.removed[group].int()
            if group in record.scores:
                tensors[f"scores/{i}"] = record.scores[group]
        if record.by_class is not None:
            tensors["by_class"] = record.by_class.int()
        tensors |= _under("mix/", record.mixes)
        if snapshot.random is not None:
            tensors["random"] = snapshot.random
        about = {
            "number": record.number,
            "measured": record.measured.numbers(),
            "undone": snapshot.undone,
            "retrain": _flatten(snapshot.retrain, "retrain", tensors),
        }
        self._write(f"steps/{record.number:05}.safetensors", tensors, about)

    def read(self, number: int) -> tuple[Record, Snapshot]:
        """A step and its state.

        Raises:
            JournalError: there is no such step, or its file is damaged.
        """
        path = self._path(number)
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["sentei"])
                # Cloned: what safetensors gives is a window into the file, which may go.
                names = file.keys()
                tensors = {name: file.get_tensor(name).clone() for name in names}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise JournalError(f"step {number} cannot be read from {path}: {error}") from error
        groups = list(enumerate(self.full.groups))
        mask = self.full.without({group: tensors[f"dead/{i}"] for i, group in groups})
        held = {
            key: {group: tensors[f"{key}/{i}"] for i, group in groups if f"{key}/{i}" in tensors}
            for key in ("removed", "scores")
        }
        removed = {group: positions.long() for group, positions in held["removed"].items()}
        weights = {**self._expected(mask), **stripped(WEIGHTS, tensors)}
        state = _unflatten(about["retrain"], tensors)
        measured = Measurement(**about["measured"])
        right, mixes = tensors.get("by_class"), stripped("mix/", tensors)
        record = Record(number, mask, removed, measured, held["scores"], right, mixes)
        return record, Snapshot(weights, state, tensors.get("random"), about["undone"])

    def network(self, number: int) -> nn.Module:
        """A full-size copy of the network as it was at a step."""
        _, snapshot = self.read(number)
        network = copy.deepcopy(self.template)
        network.load_state_dict(snapshot.weights)
        return network

    def _expected(self, mask: Mask) -> dict[str, Tensor]:
        """The tensors of the untouched network with the mask applied: what need not be stored."""
        self.template.load_state_dict(self.start)
        mask.apply_(self.template)
        return {name: t.detach().clone() for name, t in self.template.state_dict().items()}

    def _path(self, number: int) -> Path:
        return self.folder / "steps" / f"{number:05}.safetensors"

    def _write(self, name: str, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> None:
        whole = {key: tensor.contiguous().clone() for key, tensor in sorted(tensors.items())}
        data = save(whole, metadata={"sentei": json.dumps(about, sort_keys=True)})
        storage.write(self.folder / name, data, durable=self.durable)


def note(folder: str | Path, words: Mapping[str, Any]) -> None:
    """Keep words about a run in its folder for whoever reads it later; the first ones stay.

    Args:
        folder: a run folder.
        words: plain data: the command, names of classes and features, versions.
    """
    path = Path(folder) / ABOUT
    if not path.exists():
        storage.write(path, (json.dumps(words, indent=2, sort_keys=True) + "\n").encode())


def stripped(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def described(part: Any) -> str | None:
    """Words for a schedule, limit, proposal or criterion that are the same in every process."""
    if part is None:
        return None
    words = getattr(part, "words", None) or getattr(part, "__name__", None)
    return words if isinstance(words, str) else repr(part).split(" at 0x", maxsplit=1)[0]


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Plain data in which tensors are replaced by their names in `tensors`."""
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
        f"a retrainer's state may hold tensors, numbers, strings, lists and dicts; {path} is "
        f"a {type(value).__name__}"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "list" in value:
            return [_unflatten(item, tensors) for item in value["list"]]
        return {key: _unflatten(item, tensors) for key, item in value["dict"]}
    return value
