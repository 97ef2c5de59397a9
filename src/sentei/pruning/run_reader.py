"""A run folder read back without the run: what it was, and every step that is there."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sentei.errors import JournalError, StructureError
from sentei.network.encoding.architecture import build
from sentei.network.example import Example
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, find_synapses
from sentei.pruning.journal import ABOUT, SAMPLE, WEIGHTS, Journal, Record, stripped
from sentei.samples import Samples


@dataclass(frozen=True)
class SavedRun:
    """A run, as far as its folder has it.

    Attributes:
        folder: where it lies.
        start: the untouched network.
        groups: what could be cut, in the run's order.
        records: every step that can be read, step 0 first.
        samples: those that the run kept of what it was measured on; None if it could keep none.
        loss: its name; None for a callable.
        card: what tells this run from others: proposal, floor, fingerprints.
        about: the words that were noted: command, names, versions.
        missing: what could not be read, in words.
    """

    folder: Path
    start: nn.Module
    groups: list[Group]
    records: list[Record]
    samples: Samples | None
    loss: str | None
    card: Mapping[str, Any]
    about: Mapping[str, Any]
    missing: tuple[str, ...]
    _journal: Journal

    def network(self, number: int) -> nn.Module:
        """A full-size masked copy of the network as it was at a step."""
        return self._journal.network(number)


def read_run(
    folder: str | Path, model: nn.Module | None = None, example: Example | None = None
) -> SavedRun:
    """Read a run folder; a run that is still going on, or was interrupted, has what it has.

    Args:
        folder: given to `prune` as `journal=`.
        model: one of the run's class and full size, where the folder cannot describe it; a copy is
            used.
        example: inputs that it runs on, where the folder kept none.

    Raises:
        JournalError: no run folder, another version's, without a step, or not this model's.
    """
    folder = Path(folder)
    card = _json(folder / "run.json")
    tensors, words = _start(folder)
    sample = stripped(SAMPLE, tensors)
    samples = Samples(sample["inputs"], sample["targets"]) if sample else None
    start = _network(folder, words.get("architecture"), model, stripped(WEIGHTS, tensors))
    if example is None:
        example = None if samples is None else samples.inputs[:64]
    groups = _groups(folder, card, start, example)
    journal = Journal(folder, start, Mask.full(groups), durable=True)
    records, missing = _records(journal)
    about = _json(folder / ABOUT) if (folder / ABOUT).exists() else {}
    return SavedRun(
        folder=folder,
        start=start,
        groups=groups,
        records=records,
        samples=samples,
        loss=words.get("loss"),
        card=card,
        about=about,
        missing=missing,
        _journal=journal,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise JournalError(
            f"{path} cannot be read: {error}. Name the folder that was given as journal=."
        ) from error
    if not isinstance(found, dict):
        raise JournalError(f"{path} is damaged: it holds no object")
    return found


def _start(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = folder / "start.safetensors"
    try:
        with safe_open(path, "pt") as file:
            words = json.loads(file.metadata()["sentei"])
            return {name: file.get_tensor(name).clone() for name in file.keys()}, words  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise JournalError(f"the untouched network cannot be read from {path}: {error}") from error


def _network(
    folder: Path, architecture: Any, model: nn.Module | None, weights: dict[str, Tensor]
) -> nn.Module:
    if model is None and architecture is None:
        raise JournalError(
            f"{folder} holds the run of a network that cannot be built from words; pass a model of "
            "its class and full size as model="
        )
    try:
        if model is None:
            network = build(architecture).to_empty(device="cpu")
        else:
            network = copy.deepcopy(model).cpu()
        network.load_state_dict(weights)
    except (StructureError, RuntimeError) as error:
        raise JournalError(f"{folder} does not fit the model: {error}") from error
    return network.eval()


def _groups(
    folder: Path, card: Mapping[str, Any], network: nn.Module, example: Example | None
) -> list[Group]:
    asked = [tuple(entry) for entry in card.get("groups", [])]
    kinds = {kind for kind, _, _ in asked}
    found: list[Group] = list(find_synapses(network))
    if kinds - {"synapse"}:
        if example is None:
            raise JournalError(
                f"{folder} keeps no inputs to run the network on; pass some as data=(inputs, "
                "targets)"
            )
        found += find_units(network, example, inputs="input" in kinds)
    known = {(group.kind, group.name, group.size): group for group in found}
    lost = [entry for entry in asked if entry not in known]
    if lost:
        raise JournalError(
            f"{folder} has {lost[0][0]} group {lost[0][1]!r} of {lost[0][2]}, which the network "
            "does not have; pass the model of that run"
        )
    return [known[entry] for entry in asked]


def _records(journal: Journal) -> tuple[list[Record], tuple[str, ...]]:
    last = journal.last
    if last is None:
        raise JournalError(f"{journal.folder} has no step yet; look again when the run has begun")
    records: list[Record] = []
    with torch.no_grad():
        for number in range(last + 1):
            try:
                records.append(journal.read(number)[0])
            except JournalError as error:
                if not records:
                    raise
                return records, (f"Steps from {number} on: {error}",)
    return records, ()
