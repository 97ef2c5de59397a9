"""The files of a run folder: names, format version, and how they are read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sentei.errors import FileError, JournalError
from sentei.network.encoding.packing import unpack_groups
from sentei.network.units import Group
from sentei.samples import fingerprint

VERSION = 3  # of run folders; raised with every change that an older sentei could not read
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
    """Read a JSON object.

    Raises:
        JournalError: the file is not there, cannot be read, or holds anything else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise JournalError(
            f"{path} cannot be read: {error.strerror or error}. Name the folder that was given as "
            "journal=."
        ) from error
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{path} is damaged: {sentence(error)}. {_REMEDY}") from error
    if not isinstance(found, dict):
        raise JournalError(f"{path} is damaged: it holds no JSON object. {_REMEDY}")
    return found


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file by name, and the plain data stored with them.

    Raises:
        JournalError: the file cannot be read; the message names `what`.
    """
    with reading(what, path), safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {})["sentei"])
        if not isinstance(about, dict):
            raise TypeError("its metadata is no JSON object")
        # Cloned: safetensors returns views of the mapped file, which may be deleted.
        return {name: file.get_tensor(name).clone() for name in file.keys()}, about  # noqa: SIM118


def check_version(folder: Path, card: Mapping[str, Any]) -> None:
    """Refuse a run folder that another version of sentei wrote.

    Args:
        folder: the run folder.
        card: the contents of its run.json.

    Raises:
        JournalError: names both versions and what to do.
    """
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
        JournalError: the groups are missing or damaged, or groups, slices or weights are not those
            that run.json names.
    """
    path = folder / START
    with reading("the groups", path):
        slices, entries = stripped(SLICES, tensors), about["groups"]
        groups = unpack_groups(slices, entries)
        found = identity(groups, slices, entries, stripped(WEIGHTS, tensors))
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
