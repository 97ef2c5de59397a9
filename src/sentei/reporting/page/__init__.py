"""One self-contained page: what was removed, what is left, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sentei import storage
from sentei.datasets import Split
from sentei.reporting.page.bundle import joined
from sentei.reporting.page.document import document
from sentei.reporting.page.story import Names, Story, of_journal, of_network

__all__ = ["Names", "Story", "explain", "of_journal", "of_network", "report", "write"]


def report(
    journal: str | Path,
    path: str | Path,
    model: nn.Module | None = None,
    data: Split | Sequence[Tensor] | None = None,
) -> Path:
    """Write one HTML file that shows what a run removed, what is left, and why.

    It is complete in itself: nothing is fetched, and the network runs in it, live. What the journal
    does not hold is said in the page. A run that is still going on, or was interrupted, shows what
    there is.

    Args:
        journal: the run's folder, given to `prune` as `journal=`.
        path: the file to write.
        model: one of the run's class and full size, for networks that are not torch's own layers in
            a row.
        data: a Split, for the names of its classes and features; or (inputs, targets) to look at in
            place of the sample that the journal keeps.

    Returns:
        `path`.

    Raises:
        JournalError: no run folder, one without a step, or another model's.
        DataError: `data` is neither.
        FileError: the file cannot be written; an old one is untouched.
    """
    return write(of_journal(journal, model, data), path)


def explain(
    network: nn.Module,
    path: str | Path,
    data: Split | Sequence[Tensor],
    loss: str = "cross_entropy",
    **words: Any,
) -> Path:
    """Write the same page for a network by itself: how it works, and what its units are worth.

    Args:
        network: any; run and drawn in the page if it is torch's own layers in a row.
        path: the file to write.
        data: a Split, whose test samples are looked at, or (inputs, targets).
        loss: what the network was trained on.
        words: to be shown, such as command=.

    Raises:
        DataError: `data` is neither, or the network cannot take it.
        FileError: the file cannot be written; an old one is untouched.
    """
    return write(of_network(network, data, loss=loss, words=words), path)


def write(story: Story, path: str | Path) -> Path:
    """Write a story's page."""
    storage.write(path, joined(document(story)).encode("utf-8"))
    return Path(path)
