"""Print the output of commands: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from sentei.errors import visible

LINES = 10  # progress lines to print where no terminal shows a bar


class Screen(Console):
    """The console of commands: nobody need read it, and names cannot change how it looks."""

    def render_str(self, text: str, **style: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make a text of a string, with control characters spelled out before it is measured."""
        return super().render_str(visible(text), **style)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render with control characters in texts spelled out."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def on_broken_pipe(self) -> None:
        """Print nothing from now on: `sentei prune ... | head -1` still writes its network."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Without markup, so that brackets in a file's name are printed as they are.
console = Screen(highlight=False, markup=False)


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


class Visible(logging.Formatter):
    """Format the messages of loggers with control characters spelled out."""

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        return visible(super().format(record))


def head(text: str) -> None:
    """Print a heading for a stage of a command."""
    console.print(f"\n{text}", style="bold")
