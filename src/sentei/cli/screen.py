"""What commands show: progress bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINES = 10  # of progress, where there is no terminal to draw a bar on

console = Console(highlight=False)


class Advance(Protocol):
    """Says how many are done, a few words, and of how many if that has become known."""

    def __call__(self, done: int, words: str, total: int | None = None) -> None:  # noqa: D102
        ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show how far something is: yields what to call as it goes on."""
    if not console.is_terminal:
        yield _plainly(what, total)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task(what, total=total, words="")
        yield lambda done, words, total=None: bar.update(
            task, completed=done, words=words, total=total
        )


def _plainly(what: str, expected: int) -> Advance:
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
    """A line of text, with rich's markup."""
    console.print(text, soft_wrap=True)


@contextmanager
def said_once(name: str, level: int) -> Iterator[None]:
    """Show what a logger has to say from this level on, each sentence once."""
    logger, once = logging.getLogger(name), _Once()
    before = logger.level
    logger.setLevel(level)
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)
        logger.setLevel(before)


class _Once(logging.Filter):
    """Lets every message through the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        new = said not in self.seen
        self.seen.add(said)
        return new


def head(text: str) -> None:
    """A heading for a stage of a command."""
    console.print(f"\n[bold]{text}[/bold]")


def column(target: str) -> str | int:
    """A column's name, or its position where it is a number."""
    return int(target) if target.lstrip("-").isdigit() else target
