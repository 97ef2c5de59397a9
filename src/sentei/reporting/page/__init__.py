"""Write a self-contained HTML page about a pruning run or about one network.

May import `pruning`, `training`, `datasets`, and all that they may import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor, nn

from sentei import storage
from sentei.arguments import checked
from sentei.datasets import Split
from sentei.losses import PerSample
from sentei.reporting.page.bundle import joined
from sentei.reporting.page.document import document
from sentei.reporting.page.story import Names, Story, of_journal, of_network

__all__ = ["Names", "Story", "explain", "live", "of_journal", "of_network", "report", "write"]

Data = Annotated[Split | Sequence[Tensor], "a Split or (inputs, targets)"]


@checked
def report(
    journal: str | Path,
    path: str | Path,
    model: nn.Module | None = None,
    data: Data | None = None,
) -> Path:
    """Write one HTML file that shows what a run removed, what is left, and why.

    The page loads nothing else, and its script runs the network on inputs that the reader chooses.
    The page names data that the journal does not have. A run that is unfinished or was interrupted
    is shown up to its last complete step.

    Args:
        journal: the run's folder, given to `prune` as `journal=`.
        path: the file to write.
        model: a network of the run's class and unpruned size; needed unless the network is an
            `nn.Sequential` of torch's own layers.
        data: a Split, for the names of its classes and features; or (inputs, targets) to use in
            place of the samples that the journal keeps.

    Returns:
        `path`.

    Raises:
        JournalError: not a run folder, a run without a step, or a run of another model.
        DataError: `data` is neither a Split nor a pair of tensors.
        FileError: the file cannot be written; an existing one is unchanged.
    """
    storage.writable(path)
    return write(of_journal(journal, model, data), path)


@checked
def explain(
    network: nn.Module,
    path: str | Path,
    data: Data,
    loss: str | PerSample | None = None,
    **words: Any,
) -> Path:
    """Write an HTML page about one network: its drawing, its outputs and its units' scores.

    Args:
        network: any network; the page draws and runs it if it is an `nn.Sequential` of torch's own
            layers.
        path: the file to write.
        data: a Split, whose test samples are used, or (inputs, targets).
        loss: the loss that the network was trained with; as for `Probe` if None.
        words: metadata that the page shows, such as command=.

    Raises:
        DataError: `data` is neither a Split nor a pair, or the network cannot take it.
        LossError: the loss does not fit outputs and targets.
        FileError: the file cannot be written; an existing one is unchanged.
    """
    storage.writable(path)
    return write(of_network(network, data, loss=loss, words=words), path)


def live(journal: str | Path, model: nn.Module | None = None) -> bytes:
    """Return the page of a run that goes on, with its steps so far; see `reporting.live`.

    Raises:
        JournalError: as in `report`.
    """
    story = replace(of_journal(journal, model), running=True)
    return joined(document(story)).encode("utf-8")


def write(story: Story, path: str | Path) -> Path:
    """Build the page of a story and write it to a file."""
    storage.write(path, joined(document(story)).encode("utf-8"))
    return Path(path)
