"""Ctrl-C and SIGTERM: stop the running command, and say what it leaves and how to continue."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sentei.cli.command_line import command

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Resumable:
    """Work that a later command continues.

    Attributes:
        folder: where it is stored.
        command: the command that continues it.
    """

    folder: Path
    command: str


resumable: ContextVar[Resumable | None] = ContextVar("resumable", default=None)


def resumed_by(folder: Path, option: str = "") -> None:
    """Note that the running command, with an option added, continues the work in a folder."""
    line = command()
    added = f" {option}" if option and option not in line.split() else ""
    resumable.set(Resumable(folder, line + added))


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt; yields the list of those that came.

    Libraries turn a KeyboardInterrupt into other errors, or lose it; the list still has the signal.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def lost(error: sys.UnraisableHookArgs) -> None:
        """Raise a KeyboardInterrupt again that came in a destructor, where Python drops it."""
        if issubclass(error.exc_type, KeyboardInterrupt):
            # A little later: raised at once, it would be dropped in this function.
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            hook(error)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    hook, sys.unraisablehook = sys.unraisablehook, lost
    try:
        yield came
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler if not came else signal.SIG_IGN)


def ignore() -> None:
    """Ignore further signals, so that what is left can be said."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def left(files: Sequence[Path]) -> str:
    """Return a line about what a stopped command leaves; `files` are those that it has written."""
    work = resumable.get()
    inside = [file for file in files if work is not None and work.folder in file.parents]
    others = [str(file) for file in files if file not in inside and not _is_temporary(file)]
    said = "stopped. "
    if others:
        said += f"Complete and kept: {', '.join(dict.fromkeys(others))}. "
    elif not inside:
        said += "Nothing was written; files that were there are unchanged. "
    if work is not None and (inside or _steps(work.folder)):
        said += f"{work.folder} holds {_steps(work.folder) or 'all that was complete'}. Continue "
        said += f"with: {work.command}"
    return said.strip()


def _is_temporary(file: Path) -> bool:
    """Whether a file belongs to a run that cannot be continued, which is deleted at the end."""
    return any((folder / "run.json").exists() for folder in (file.parent, file.parent.parent))


def _steps(folder: Path) -> str:
    """Return the last complete step of the run, or of each run, in a folder."""
    runs = [path.parent for path in (folder / "run.json", *sorted(folder.glob("*/run.json")))]
    found = []
    for run in runs:
        steps = [int(path.stem) for path in run.glob("steps/*.safetensors") if path.stem.isdigit()]
        if steps:
            found.append(f"steps 0 to {max(steps)}" + f" of {run.name}" * (run != folder))
    return ", ".join(found)
