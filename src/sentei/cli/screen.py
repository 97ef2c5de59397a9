"""What commands print: results on stdout; progress, notes, log messages and errors on stderr.

A command returns a `Result`, which `show` prints at the end: as text, or as one JSON object.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from sentei.errors import FileError, visible

LINES = 10  # progress lines to print where no terminal shows a bar

quiet: ContextVar[bool] = ContextVar("quiet", default=False)  # print no progress, notes, warnings
as_json: ContextVar[bool] = ContextVar("as_json", default=False)  # print results as JSON


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def say(self, part: RenderableType) -> None:
        """Print and flush; a text is one line, not wrapped.

        Raises:
            FileError: the stream cannot be written; nothing is printed on it from now on.
        """
        try:
            self.print(part, soft_wrap=isinstance(part, str))
            self.file.flush()
        except OSError as error:
            self.on_broken_pipe()
            raise FileError(
                f"the result cannot be printed: {error.strerror or error}. All files are written."
            ) from error


# Without markup and emoji codes, so that brackets and colons in a name are printed as they are.
console = Screen(highlight=False, markup=False, emoji=False)
notes = Screen(stderr=True, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True)
class Result:
    """What a command found.

    Attributes:
        data: what `--json` prints: texts, numbers, paths, dataclasses and nests of them.
        shown: what is printed otherwise, from the same values: tables, and texts of one line each.
        code: exit code of the command.
    """

    data: Mapping[str, Any]
    shown: Sequence[RenderableType] = ()
    code: int = 0


def show(result: Result) -> None:
    """Print a result on stdout."""
    if as_json.get():
        console.say(json.dumps(plain(result.data), allow_nan=False))
    else:
        for part in result.shown:
            console.say(part)


def plain(value: Any) -> Any:
    """Return a value as JSON-able data; NaN and infinity, which JSON does not have, become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, (int, str, bool, type(None))) else str(value)


def head(text: str) -> Text:
    """Return a heading for a part of a result."""
    return Text(f"\n{visible(text)}", style="bold")


def note(text: str) -> None:
    """Print a line about the work on stderr, not with --quiet."""
    if not quiet.get():
        _remark(text)


def fail(message: str) -> None:
    """Print why a command failed: on stderr and, with --json, as the object `{"error": ...}`."""
    _remark(f"sentei: {message}")
    if as_json.get():
        with suppress(FileError):
            show(Result({"error": message}))


def _remark(text: str) -> None:
    """Print a line on stderr; a full disk there does not stop the work."""
    with suppress(FileError):
        notes.say(text)


class Advance(Protocol):
    """Report progress: items done, a short text, and the total if it has changed."""

    def __call__(self, done: int, words: str, total: int | None = None) -> None:  # noqa: D102
        ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show the progress of a task on stderr; yields the function that reports how far it is."""
    if not notes.is_terminal or quiet.get():
        yield _print_progress(what, total)
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        console=notes,
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
            note(f"{what} {done}/{total}  {words}")

    return advance


class _Notes(logging.Handler):
    """Print log messages on stderr: of other packages warnings, with --quiet errors only."""

    def emit(self, record: logging.LogRecord) -> None:
        least = logging.ERROR if quiet.get() else logging.WARNING
        own = record.name.startswith("sentei") and not quiet.get()
        if own or record.levelno >= least:
            _remark(self.format(record))


@contextmanager
def logs_shown() -> Iterator[None]:
    """Show the warnings of loggers, and of Python, on stderr, without breaking a progress bar."""
    handler, root = _Notes(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(before)
        root.removeHandler(handler)


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
