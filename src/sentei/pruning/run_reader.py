"""Read a run folder: the untouched network, its groups, samples, and every complete step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sentei.card import Card, set_card_
from sentei.errors import GroupError, JournalError, StructureError
from sentei.network.copying import copied
from sentei.network.encoding.architecture import build
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.pruning.checksums import KEY
from sentei.pruning.journal import Journal, read_notes
from sentei.pruning.run_files import (
    SAMPLE,
    START,
    WEIGHTS,
    read_card,
    read_tensors,
    reading,
    sentence,
    stored_groups,
    stripped,
)
from sentei.pruning.step_files import Record
from sentei.samples import Samples

_UNFIT = (
    "{} does not fit the model: {}. Pass a network of the run's class and full size as model= "
    "(--model)."
)


@dataclass(frozen=True)
class SavedRun:
    """What a run folder holds of a run.

    Attributes:
        folder: its path.
        start: the untouched network.
        runs: whether `start` can be run; if not, it only holds the weights.
        groups: the groups that could be cut, in the run's order.
        records: every step that can be read, step 0 first.
        samples: some of the samples that the run was measured on; None if it stored none.
        loss: name of the loss; None for a callable.
        card: the run's identity: proposal, floor, fingerprints.
        about: notes: command, names, versions.
        missing: what could not be read, as sentences.
    """

    folder: Path
    start: nn.Module
    runs: bool
    groups: list[Group]
    records: list[Record]
    samples: Samples | None
    loss: str | None
    card: Mapping[str, Any]
    about: Mapping[str, Any]
    missing: tuple[str, ...]
    _journal: Journal

    def network(self, number: int) -> nn.Module:
        """Return a full-size masked copy of the network as it was after a step."""
        return self._journal.network(number)


def read_run(
    folder: str | Path, model: nn.Module | None = None, *, runnable: bool = True
) -> SavedRun:
    """Read a run folder, also one whose run is not finished or was interrupted.

    The network is not run or traced: its groups are stored with their slices.

    Args:
        folder: given to `prune` as `journal=`.
        model: a network of the run's class and full size, needed where the folder cannot describe
            it; a copy is used.
        runnable: whether the network has to run.

    Raises:
        JournalError: no run folder, one of another version, one without a step, or one that does
            not fit the model.
    """
    folder = Path(folder)
    card = read_card(folder)
    tensors, words = read_tensors(folder / START, "the untouched network")
    groups = stored_groups(folder, card, tensors, words)
    weights, architecture = stripped(WEIGHTS, tensors), words.get("architecture")
    runs = runnable or model is not None or architecture is not None
    start = _network(folder, architecture, model, weights) if runs else _holder(weights)
    if model is None:
        with reading("what the network predicts", folder / START):
            set_card_(start, Card.from_data(words.get("card", {})))
    samples, loss = _measured_on(folder, tensors, words)
    full = Mask.full(groups)
    try:
        full.check(start)
    except GroupError as error:
        raise JournalError(_UNFIT.format(folder, sentence(error))) from error
    journal = Journal(folder, start, full, card[KEY])
    records, missing = _records(journal)
    return SavedRun(
        folder=folder,
        start=start,
        runs=runs,
        groups=groups,
        records=records,
        samples=samples,
        loss=loss,
        card=card,
        about=read_notes(folder),
        missing=missing,
        _journal=journal,
    )


def _measured_on(
    folder: Path, tensors: Mapping[str, Tensor], words: Mapping[str, Any]
) -> tuple[Samples | None, str | None]:
    """Return the samples and the name of the loss that the run stored; None where it has none."""
    sample, loss = stripped(SAMPLE, tensors), words.get("loss")
    with reading("the samples", folder / START):
        if not isinstance(loss, str | None):
            raise TypeError(f"{loss!r} is no name of a loss")
        if not sample:
            return None, loss
        inputs, targets = sample["inputs"], sample["targets"]
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets")
        return Samples(inputs, targets), loss


def _holder(weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a module that has weights of these names and cannot be run."""
    root = nn.Module()
    for name, tensor in weights.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if part not in dict(at.named_children()):
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        at.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return root


def _network(
    folder: Path, architecture: Any, model: nn.Module | None, weights: dict[str, Tensor]
) -> nn.Module:
    if model is None and architecture is None:
        raise JournalError(
            f"{folder} holds the run of a network that sentei cannot build from its description; "
            "pass a network of its class and full size as model= (--model)"
        )
    try:
        if model is None:
            network = build(architecture).to_empty(device="cpu")
        else:
            network = copied(model).cpu()
        for name, tensor in network.state_dict(keep_vars=True).items():
            if name in weights:  # the run's own dtype: a description does not hold it
                tensor.data = tensor.data.to(weights[name].dtype)
        network.load_state_dict(weights)
    except (StructureError, RuntimeError) as error:
        raise JournalError(_UNFIT.format(folder, sentence(error))) from error
    return network.eval()


def _records(journal: Journal) -> tuple[list[Record], tuple[str, ...]]:
    """Return the steps that can be read, and a sentence if there are others."""
    records: list[Record] = []
    try:
        for record in journal.records():
            records.append(record)
        why = journal.gap()
    except JournalError as error:
        if not records:
            raise
        why = sentence(error)
    if not records:
        raise JournalError(f"{journal.folder} has no step yet; look again when the run has begun")
    return records, (f"Steps from {len(records)} on: {why}.",) if why else ()
