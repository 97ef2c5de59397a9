"""The files of a run folder: names, format version, and how they are written, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sentei import storage
from sentei.errors import FileError, JournalError
from sentei.network.encoding.packing import unpack_groups
from sentei.network.units import Group
from sentei.pruning.checksums import KEY, check, sealed, with_room
from sentei.samples import fingerprint

VERSION = 4  # of run folders; raised with every change that an older sentei could not read
IDENTITY, START, ABOUT = "run.json", "start.safetensors", "about.json"
WEIGHTS, SAMPLE, SLICES = "weights/", "sample/", "slices/"  # prefixes of names in a start file

_REMEDY = "Restore the folder from a copy, or run again into another folder."
_DAMAGE = (
    *(OSError, SafetensorError, FileError, LookupError, TypeError, ValueError, AttributeError),
    *(RuntimeError, RecursionError),
)


def sentence(error: Exception) -> str:
    """Return an error's message without the full stop, space and line ends after it."""
    return str(error).rstrip(". \n")


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Turn an error that a damaged file causes into one that names the file and a remedy.

    Args:
        what: the part of the run that is read, for the message.
        path: the file.

    Raises:
        JournalError: anything inside failed.
    """
    try:
        yield
    except JournalError:
        raise
    except _DAMAGE as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else sentence(error)
        raise JournalError(f"{what} cannot be read from {path}: {reason}. {_REMEDY}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote; its checksum is among its values.

    Raises:
        JournalError: the file is not there, cannot be read, or is not as it was written.
    """
    data = _bytes(path)
    return _checked(path, data, _object(path, data))


def read_card(folder: Path) -> dict[str, Any]:
    """Read the run.json of a run folder.

    Raises:
        JournalError: as `read_json`; or another version of sentei wrote the folder.
    """
    path = folder / IDENTITY
    whole = _bytes(path)
    card = _object(path, whole)
    if KEY in card:  # versions 1 to 3 had no checksums
        _checked(path, whole, card)
    _check_version(folder, card)
    _checked(path, whole, card)
    with reading("the run's identity", path):
        texts = [card.get(name) for name in ("propose", "keeping", "retrain")]
        data = card.get("data", [])
        if not all(isinstance(text, str | None) for text in (*texts, *data)):
            raise TypeError(f"{texts} and {data!r} are no descriptions and fingerprints")
    return card


def read_tensors(
    path: Path, what: str, begins: tuple[str, ...] = ("",)
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors of a file that `write_tensors` wrote, and the plain data stored with them.

    Args:
        path: the file; all of it is compared with its checksum, which is among the plain data.
        what: the part of the run that is read, for the message.
        begins: only tensors whose names begin with one of these are read.

    Raises:
        JournalError: the file cannot be read or is not as it was written; the message names `what`.
    """
    with reading(what, path):
        checksum = check(path.read_bytes())
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["sentei"], object_pairs_hook=_once)
            if not isinstance(about, dict) or about[KEY] != checksum:
                raise TypeError("its metadata is no JSON object")
            names = [name for name in file.keys() if name.startswith(begins)]  # noqa: SIM118
            # Cloned: safetensors returns views of the mapped file, which may be deleted.
            return {name: file.get_tensor(name).clone() for name in names}, about


def write_json(path: Path, words: Mapping[str, Any], *, durable: bool = True) -> str:
    """Write plain data as a JSON file with a checksum; return the checksum.

    Raises:
        FileError: the file cannot be written; an existing one is unchanged.
    """
    data, checksum = sealed((with_room(words, indent=2) + "\n").encode())
    storage.write(path, data, durable=durable)
    return checksum


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, durable: bool = True
) -> str:
    """Write tensors and plain data as a safetensors file with a checksum; return the checksum.

    Raises:
        FileError: the file cannot be written; an existing one is unchanged.
    """
    whole = {key: tensor.contiguous().clone() for key, tensor in sorted(tensors.items())}
    data, checksum = sealed(save(whole, metadata={"sentei": with_room(about)}))
    storage.write(path, data, durable=durable)
    return checksum


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JournalError(
            f"{path} cannot be read: {error.strerror or error}. Name the folder that was given as "
            "journal=."
        ) from error


def _object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        if not isinstance(found, dict):
            raise TypeError("it holds no JSON object")
    except (ValueError, TypeError, RecursionError) as error:
        raise JournalError(f"{path} is damaged: {sentence(error)}. {_REMEDY}") from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a dict.

    Raises:
        ValueError: a key stands there twice; one of the values would be lost.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _checked(path: Path, data: bytes, found: dict[str, Any]) -> dict[str, Any]:
    try:
        check(data)
    except ValueError as error:
        raise JournalError(f"{path} is damaged: {sentence(error)}. {_REMEDY}") from error
    return found


def _check_version(folder: Path, card: Mapping[str, Any]) -> None:
    """Raise JournalError, with both versions, if another version of sentei wrote the folder."""
    found = card.get("version")
    if found != VERSION:
        why = " and does not hold the slices of its groups" if found in (1, 2) else ""
        raise JournalError(
            f"{folder} was written in version {found} of the run folder{why}; this sentei reads "
            f"version {VERSION}. Run it again into another folder, or read it with the sentei "
            "that wrote it."
        )


def identity(
    groups: Sequence[Group],
    slices: Mapping[str, Tensor],
    entries: Sequence[Mapping[str, Any]],
    weights: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Return what identifies the groups and the untouched weights of a run, as plain data.

    Args:
        groups: of the run, in its order.
        slices: first value of `pack_groups` of these groups.
        entries: second value of `pack_groups`.
        weights: the untouched network's `state_dict`.
    """
    words = json.dumps(entries, sort_keys=True).encode()
    names = torch.tensor(list(words), dtype=torch.uint8)
    return {
        "groups": [[group.kind, group.name, group.size] for group in groups],
        "slices": fingerprint([names, *(slices[name] for name in sorted(slices))]),
        "weights": fingerprint(weights[name] for name in sorted(weights)),
    }


def stored_groups(
    folder: Path, card: Mapping[str, Any], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> list[Group]:
    """Return the groups of a run with their slices, after comparing both files of its start.

    Args:
        folder: the run folder.
        card: the contents of its run.json.
        tensors: tensors of its start.safetensors.
        about: plain data of its start.safetensors.

    Raises:
        JournalError: the groups are missing or damaged, or the file, its groups, slices or weights
            are not those that run.json names.
    """
    path = folder / START
    with reading("the groups", path):
        slices, entries = stripped(SLICES, tensors), about["groups"]
        groups = unpack_groups(slices, entries)
        found = {
            "start": about[KEY],
            **identity(groups, slices, entries, stripped(WEIGHTS, tensors)),
        }
    differ = [key for key, value in found.items() if card.get(key) != value]
    if differ:
        raise JournalError(
            f"{path} does not belong to the {IDENTITY} beside it: {', '.join(differ)} differ. "
            f"{_REMEDY}"
        )
    return groups


def stripped(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without the prefix."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `prefix` before their names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}
