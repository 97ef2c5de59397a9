"""Show on stderr how far a run is: on a terminal one line that changes, else a line a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from sentei.distributed import is_main
from sentei.pruning.run import Step


class ProgressLine:
    """Show the steps of a run as they come; a run that is not shown prints nothing.

    Args:
        shown: whether anything is shown. In a torch.distributed group only rank 0 shows it.
    """

    def __init__(self, shown: bool):
        self._console = None
        if shown and is_main():
            self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._begun = time.monotonic()

    @contextmanager
    def after(self, step: Step) -> Iterator[None]:
        """On a terminal, show the last step and the time while the next one is computed."""
        if self._console is None or not self._console.is_terminal:
            yield
            return
        line = Spinner("dots", Text(f"after {self._words(step)}"))
        with Live(line, console=self._console, transient=True, redirect_stdout=False):
            yield

    def kept(self, step: Step) -> None:
        """Print a line for a step, where there is no terminal."""
        if self._console is not None and not self._console.is_terminal:
            self._print(step)

    def end(self, step: Step) -> None:
        """On a terminal, print the last step: the line that changed is gone."""
        if self._console is not None and self._console.is_terminal:
            self._print(step)

    def _print(self, step: Step) -> None:
        if self._console is not None:
            self._console.print(self._words(step), soft_wrap=True)

    def _words(self, step: Step) -> str:
        took = time.monotonic() - self._begun
        return f"step {step.number}: {step.measured} ({took:.1f} s)"
