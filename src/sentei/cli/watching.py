"""Serve the page of a run in a process of its own, with the command `sentei watch`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentei.cli import screen
from sentei.cli.references import is_reference


@contextmanager
def watched(journal: Path | None, model: str) -> Iterator[None]:
    """Serve the page of a run in a process of its own, which ends with this one.

    Args:
        journal: the run's folder; None to serve nothing.
        model: the network, as the command names it.
    """
    if journal is None:
        yield
        return
    own = ["--model", model] if is_reference(model) else []
    words = [sys.executable, "-m", "sentei", "watch", str(journal), "--until-input-ends", *own]
    low = {**os.environ, "OMP_NUM_THREADS": "1"}  # the run needs the processors more
    process = subprocess.Popen(
        words, env=low, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:  # closes the pipes, and waits
        assert process.stdout is not None
        if not screen.quiet.get():
            screen.notes.say(f"Watch the run at {process.stdout.readline().decode().strip()}")
        yield
