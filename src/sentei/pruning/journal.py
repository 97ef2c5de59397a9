"""Write a pruning run to a folder, step by step, so that any step can be restored.

    run.json                  the run's identity: network, groups, proposal, floor, data, ...;
                              fingerprints of weights, data and the groups' slices
    start.safetensors         the untouched network, its description, the slices of its groups, and
                              some of the samples that it was measured on
    steps/00007.safetensors   step 7: alive members, a bit for each; what it removed, with its
                              scores; tensors that retraining or a repair changed; mixes, the
                              retrainer's state, measurements (see `step_files`)
    about.json                notes without effect: names, the command (see `note`)
    .lock                     while a process writes to the folder: its number (see `folder_lock`)

A file is written under another name and then renamed, so that the folder holds complete steps only,
even after a crash. Nothing in it depends on the clock: the same run writes the same bytes.

Every file holds its own checksum (see `checksums`), and each names the one before it: run.json that
of start.safetensors, step 0 that of run.json, step 7 that of step 6. So a file that was damaged, or
exchanged for one of another run, is noticed when the run is read or resumed.

Groups are stored with their slices. A run is therefore read without tracing the network again, and
a run folder stays readable when tracing changes.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentei.distributed import is_main
from sentei.errors import JournalError
from sentei.network.copying import copied
from sentei.network.encoding.packing import pack_groups
from sentei.network.mask import Mask
from sentei.pruning.checksums import KEY
from sentei.pruning.folder_lock import LOCK, FolderLock
from sentei.pruning.run_files import (
    ABOUT,
    IDENTITY,
    SLICES,
    START,
    VERSION,
    WEIGHTS,
    identity,
    read_card,
    read_json,
    read_tensors,
    reading,
    stored_groups,
    under,
    write_json,
    write_tensors,
)
from sentei.pruning.step_files import (
    OF_RECORD,
    Record,
    Snapshot,
    pack,
    unpack_record,
    unpack_snapshot,
)


class Journal:
    """Read and write one run folder; open one for writing with `Journal.open`.

    Args:
        folder: the run folder.
        model: the untouched network; it is copied.
        mask: all groups of the run, everything alive.
        first: the checksum of its run.json.
        lock: the lock on the folder; None for a reader.
        durable: wait until each file is on disk, so that it survives a power failure.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        mask: Mask,
        first: str,
        lock: FolderLock | None = None,
        durable: bool = True,
    ):
        self.folder, self.full, self.durable = folder, mask, durable
        self.template = copied(model)
        self.start = {name: t.detach().clone() for name, t in model.state_dict().items()}
        self._lock = lock
        self._chain = [first]  # checksums of run.json and of the steps, as far as they were read

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
        """Create the folder of a run, or open it to continue the run; lock it.

        Args:
            folder: its path; a temporary folder if None.
            model: the network before the first step.
            mask: all groups of the run, everything alive.
            about: plain data that identifies the run.
            resume: continue the run that the folder holds.
            start: tensors and plain data to store beside the untouched network.

        Raises:
            JournalError: the folder holds a run and `resume` is False, holds another run, was
                written in another version of this format, or is in use by another process.
            FileError: the folder cannot be written to.
        """
        path = Path(tempfile.mkdtemp(prefix="sentei-") if folder is None else folder)
        _is_new(path)  # before anything is written to a folder that is no run folder
        lock = FolderLock(path)
        try:
            first = _begun(path, model, mask, about, resume, start, durable=folder is not None)
            journal = cls(path, model, mask, first, lock, durable=folder is not None)
        except BaseException:
            lock.release()
            raise
        if folder is None:
            # Deleted with the last step that refers to it, or at the end of the process.
            weakref.finalize(journal, shutil.rmtree, path, ignore_errors=True)
        return journal

    def close(self) -> None:
        """Give up the lock; nothing can be written afterwards, but steps can still be read."""
        if self._lock is not None:
            self._lock.release()

    def write(self, record: Record, snapshot: Snapshot) -> None:
        """Write the step after the last one that was read or written.

        Its file is complete when this returns.

        Raises:
            FileError: the file cannot be written; the steps before it are unchanged.
            JournalError: the folder was removed or replaced; nothing is written.
        """
        number = record.number
        self._check_in_place(number)
        expected = self._expected(record.mask)
        moved = {n: t for n, t in snapshot.weights.items() if not torch.equal(t, expected[n])}
        tensors, about = pack(record, snapshot, self.full.groups, moved)
        about["before"] = self._chain[number]
        path = self._path(number)
        self._chain.append(write_tensors(path, tensors, about, durable=self.durable))

    def _check_in_place(self, number: int) -> None:
        if self._lock is None or not self._lock.holds or not self._before(number).exists():
            raise JournalError(
                f"{self.folder} was removed, replaced or closed while the run was writing to it, "
                f"so step {number} cannot be stored. The model holds the last step that was "
                "yielded; start again with it, and with another folder."
            )

    def records(self) -> Iterator[Record]:
        """Read every step in order, without its weights, up to the first that is missing.

        Raises:
            JournalError: a file is damaged, or belongs to another run.
        """
        for number in range(len(self._in_order()[0])):
            yield self._record(number, OF_RECORD)[0]

    def gap(self) -> str | None:
        """Return a sentence if steps are there although one before them is missing."""
        steps, later = self._in_order()
        if not later:
            return None
        return f"step {len(steps)} is missing, though step {later[-1]} is there"

    def read(self, number: int) -> tuple[Record, Snapshot]:
        """Read a step and the state after it.

        Raises:
            JournalError: there is no such step, or its file is damaged.
        """
        record, tensors, about = self._record(number, ("",))
        with reading(f"step {number}", self._path(number)):
            expected = {name: t.clone() for name, t in self._expected(record.mask).items()}
            return record, unpack_snapshot(expected, tensors, about)

    def network(self, number: int) -> nn.Module:
        """Return a full-size copy of the network as it was after a step."""
        _, snapshot = self.read(number)
        network = copied(self.template)
        network.load_state_dict(snapshot.weights)
        return network

    def _record(
        self, number: int, begins: tuple[str, ...]
    ) -> tuple[Record, dict[str, Tensor], dict[str, Any]]:
        """Read a step's record, and its tensors whose names begin with one of `begins`."""
        path, what = self._path(number), f"step {number}"
        tensors, about = read_tensors(path, what, begins)
        with reading(what, path):
            record = unpack_record(number, self.full, tensors, about)
            self._link(number, about)
        return record, tensors, about

    def _link(self, number: int, about: Mapping[str, Any]) -> None:
        """Check that a step's file is the one that was written, and follows the one before it."""
        chain = self._chain
        is_known = number + 1 < len(chain)
        if number < len(chain) and about["before"] != chain[number]:
            raise ValueError(f"it does not follow {self._before(number).name}; it is another run's")
        if is_known and about[KEY] != chain[number + 1]:
            raise ValueError("it was exchanged for another step since it was written or read")
        if number + 1 == len(chain):
            chain.append(about[KEY])

    def _in_order(self) -> tuple[list[int], list[int]]:
        """Return the numbers of the steps before which none is missing, and those of the others."""
        names = [path.name for path in self._path(0).parent.glob("*.safetensors")]
        matches = (re.fullmatch(r"(\d{5,})\.safetensors", name, re.ASCII) for name in names)
        numbers = sorted(int(match[1]) for match in matches if match)
        whole = [number for place, number in enumerate(numbers) if number == place]
        return whole, numbers[len(whole) :]

    def _expected(self, mask: Mask) -> dict[str, Tensor]:
        """Return the untouched network's tensors under a mask; a step stores only what differs.

        They are the template's own, which the next call changes.
        """
        self.template.load_state_dict(self.start)
        mask.apply_(self.template)
        return {name: tensor.detach() for name, tensor in self.template.state_dict().items()}

    def _path(self, number: int) -> Path:
        return self.folder / "steps" / f"{number:05}.safetensors"

    def _before(self, number: int) -> Path:
        """Return the path of the file before a step."""
        return self._path(number - 1) if number else self.folder / IDENTITY


def _is_new(folder: Path) -> bool:
    """Whether a folder is empty, or a run was killed in it before its first file was whole.

    It is created if necessary.

    Raises:
        JournalError: the folder holds other files, is a file, or cannot be made or read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        why = "Not a directory" if folder.is_file() else error.strerror or error
        raise JournalError(
            f"{folder} cannot be used as a run folder: {why}. Name another folder."
        ) from error
    unfinished = {name for name in names if name.startswith(".") and name.endswith(".part")}
    others = names - unfinished - {START, LOCK}
    if others and IDENTITY not in names:
        raise JournalError(
            f"{folder} holds files but no {IDENTITY}: it is no run folder. Name another folder."
        )
    return not others


def _begun(
    folder: Path,
    model: nn.Module,
    mask: Mask,
    about: Mapping[str, Any],
    resume: bool,
    start: tuple[Mapping[str, Tensor], Mapping[str, Any]],
    durable: bool,
) -> str:
    """Write the first files of a run, or check them; return the checksum of its run.json."""
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    slices, entries = pack_groups(mask.groups)
    card = {"version": VERSION, **identity(mask.groups, slices, entries, weights), **about}
    if not _is_new(folder):
        return _check_same(folder, json.loads(json.dumps(card)), resume)
    tensors = {**under(WEIGHTS, weights), **under(SLICES, slices), **start[0]}
    words = {**start[1], "groups": entries}
    card["start"] = write_tensors(folder / START, tensors, words, durable=durable)
    return write_json(folder / IDENTITY, card, durable=durable)


def _check_same(folder: Path, ours: Mapping[str, Any], resume: bool) -> str:
    """Check that a folder holds this run; return the checksum of its run.json."""
    theirs = read_card(folder)
    if not resume:
        raise JournalError(
            f"{folder} already holds a run; continue it (resume=True, --resume) or name another "
            "folder"
        )
    keys = {*ours, *theirs} - {KEY, "start"}
    differ = sorted(key for key in keys if ours.get(key) != theirs.get(key))
    if differ:
        key = differ[0]
        there, here = _apart(theirs.get(key), ours.get(key))
        raise JournalError(
            f"{folder} holds another run: {', '.join(differ)} differ ({key}: {there} there, "
            f"{here} here). Name another folder."
        )
    stored_groups(folder, theirs, *read_tensors(folder / START, "the untouched network"))
    read_notes(folder)
    return theirs[KEY]


def _apart(there: Any, here: Any, most: int = 200) -> tuple[str, str]:
    """Return two values as texts, long ones from shortly before the place where they differ."""
    texts = repr(there), repr(here)
    pairs = enumerate(zip(*texts, strict=False))
    begin = next((place for place, (a, b) in pairs if a != b), min(map(len, texts)))
    begin = max(begin - most // 4, 0) if max(map(len, texts)) > most else 0
    cut = [text[begin : begin + most] for text in texts]
    return (f"{'...' if begin else ''}{cut[0]}", f"{'...' if begin else ''}{cut[1]}")


def note(folder: str | Path, words: Mapping[str, Any]) -> None:
    """Store notes about a run in its folder; notes that are there already are not replaced.

    In a torch.distributed group only rank 0 stores them.

    Args:
        folder: a run folder.
        words: plain data: the command, names of classes and features, versions.

    Raises:
        JournalError: it is no run folder.
        FileError: the notes cannot be written.
    """
    folder = Path(folder)
    if is_main() and read_card(folder) and not (folder / ABOUT).exists():
        write_json(folder / ABOUT, words)


def read_notes(folder: Path) -> dict[str, Any]:
    """Return the notes that `note` stored, without their checksum; none if there are none.

    Raises:
        JournalError: the file is damaged.
    """
    path = folder / ABOUT
    if not path.exists():
        return {}
    notes = {key: value for key, value in read_json(path).items() if key != KEY}
    with reading("the notes", path):
        for key in ("names", "versions"):
            if not isinstance(notes.get(key, {}), dict):
                raise TypeError(f"{key} are {notes[key]!r}, no JSON object")
    return notes
