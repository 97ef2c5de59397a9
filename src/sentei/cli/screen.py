"""Print the output of commands: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINES = 10  # progress lines to print where no terminal shows a bar


class _Screen(Console):
    """The console of commands; a command goes on when nobody reads what it prints any more."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on: `sentei prune ... | head -1` still writes its network."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Without markup, so that brackets in a file's name are printed as they are.
console = _Screen(highlight=False, markup=False)


class Advance(Protocol):
    """Report progress: items done, a short text, and the total if it has changed."""

    def __call__(self, done: int, words: str, total: int | None = None) -> None:  # noqa: D102
        ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show the progress of a task; yields the function that reports how far it is."""
    if not console.is_terminal:
        yield _print_progress(what, total)
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task(what, total=total, words="")
        yield lambda done, words, total=None: bar.update(
            task, completed=done, words=words, total=total
        )


def _print_progress(what: str, expected: int) -> Advance:
    shown = -1

    def advance(done: int, words: str, total: int | None = None) -> None:
        nonlocal shown
        total = expected if total is None else total
        part = done * LINES // max(total, 1)
        if part > shown or done >= total:
            shown = part
            console.print(f"{what} {done}/{total}  {words}", soft_wrap=True)

    return advance


def say(text: str) -> None:
    """Print a line of text, not wrapped."""
    console.print(text, soft_wrap=True)


@contextmanager
def logged_once(name: str, level: int) -> Iterator[None]:
    """Show the messages of a logger from this level on, each distinct message once."""
    logger, once = logging.getLogger(name), _FirstOccurrence()
    before = logger.level
    logger.setLevel(level)
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)
        logger.setLevel(before)


class _FirstOccurrence(logging.Filter):
    """A filter that passes each distinct message once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


def head(text: str) -> None:
    """Print a heading for a stage of a command."""
    console.print(f"\n{text}", style="bold")
