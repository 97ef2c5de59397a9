"""Keep the arguments of the running command, so that journals and pages can record them."""

from __future__ import annotations

import shlex
from contextvars import ContextVar

typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())


def command() -> str:
    """Return the running command as one line, quoted for a shell."""
    return shlex.join(["sentei", *typed.get()])
