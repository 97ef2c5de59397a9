"""Errors that end a command: one line of text, and an exit code, for each."""

from __future__ import annotations

import os
import traceback

from cyclopts import CycloptsError

from sentei.cli.references import own_line
from sentei.errors import PruningError, UnreachableError

REFUSED, USAGE, UNREACHED = 1, 2, 3
SHOW = "SENTEI_TRACEBACK"  # environment variable: print Python's traceback as well

_NO_MEMORY = "the memory does not suffice. Use fewer --samples, or a smaller network. Python says: "


def code(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, UnreachableError):
        return UNREACHED
    if isinstance(error, UnicodeError):
        return REFUSED
    usage = isinstance(error, (CycloptsError, ValueError, FileNotFoundError))
    return USAGE if usage else REFUSED


def words(error: BaseException) -> str:
    """Return what to print about an error: its message, with an explanation if it is not ours."""
    if os.environ.get(SHOW):
        return "".join(traceback.format_exception(error))
    said = " ".join(str(error).split("\n")).strip()
    if isinstance(error, MemoryError) or "not enough memory" in said or "out of memory" in said:
        return f"{_NO_MEMORY}{said or type(error).__name__}"
    if isinstance(error, UnicodeError):
        return f"a text is not in the encoding that is expected: {said}"
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, (CycloptsError, PruningError, ValueError)) and said:
        return said if (place := _own_place(error)) is None else f"{said} ({place})"
    said = f"{type(error).__name__}: {said}"
    if (place := own_line(error)) is None:
        place = "an error that sentei does not expect"
        said += (
            ". Please report it, with the command and what it prints if the environment variable "
            f"{SHOW} is 1."
        )
    return f"{place}: {said}"


def _own_place(error: BaseException) -> str | None:
    """Return the user's own line that an error, or what it came from, was raised in.

    None if there is none, or if the message names it already.
    """
    places: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        places += filter(None, [own_line(cause)])
        cause = cause.__cause__
    return places[-1] if places and places[-1] not in str(error) else None


def _of_system(error: OSError) -> str:
    """Return what the system refused, and for which file."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno is None:  # raised by sentei, in a sentence of its own
        return reason
    if error.filename is None:
        return f"the system refused: {reason}"
    return f"{error.filename}: {reason}"
