"""What the user typed, for whoever keeps a record of it."""

from __future__ import annotations

import shlex
from contextvars import ContextVar

typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())


def command() -> str:
    """The command as one line."""
    return shlex.join(["sentei", *typed.get()])
