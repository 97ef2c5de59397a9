"""The five papers, reproduced: what each says, and what comes out.

A paper is a package here with `TITLE` and `reproduce(order) -> list[Claim]`. It says what to do as
jobs, draws its figures with `order.figure`, and returns its claims with what was measured.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sentei import storage
from sentei.errors import unknown
from sentei.papers import jobs
from sentei.papers.claims import Claim, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PAPERS", "Claim", "Order", "Report", "reproduce"]

PAPERS: tuple[str, ...] = ("annealing", "distinctiveness", "sensitivity", "shrinking", "wsf")


@dataclass(frozen=True)
class Order:
    """What was asked of a reproduction, and where its results go.

    Attributes:
        folder: of this paper: `results/*.json`, `figures/*`, `claims.md` and `claims.json`.
        quick: smaller experiments, about a minute; never published.
        seeds: how often each experiment is repeated; at least five where anything is published.
        processes: how many jobs run side by side.
        on_progress: called with (how many jobs are done, of how many, the name of the last).

    Raises:
        ValueError: no seed.
    """

    folder: Path
    quick: bool = False
    seeds: int = 5
    processes: int = 1
    on_progress: Callable[[int, int, str], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing can be measured with, before anything is."""
        if self.seeds < 1:
            raise ValueError(
                f"seeds is how often each experiment is repeated, at least 1; got {self.seeds}. "
                "Leave it out for 5."
            )

    def work(self, todo: Sequence[jobs.Job]) -> dict[str, jobs.Result]:
        """Results of jobs by name; what is there already is not done again."""
        finished = 0

        def done(job: jobs.Job) -> None:
            nonlocal finished
            finished += 1
            if self.on_progress is not None:
                self.on_progress(finished, len(todo), job.name)

        kind = "quick" if self.quick else "results"
        return jobs.run(todo, self.folder / kind, self.processes, done)

    def figure(self, name: str, figure: Figure) -> Path:
        """Keep a matplotlib figure as PNG and SVG; gives the PNG's path."""
        from sentei.reporting.figures import write

        return write(figure, self.folder / "figures" / name)[0]


def reproduce(paper: str, order: Order) -> Report:
    """Reproduce a paper: do its experiments, draw its figures, judge its claims.

    Args:
        paper: one of `PAPERS`.
        order: how, and where to.

    Returns:
        What came out, which also lies in the folder as `claims.md` and `claims.json`.

    Raises:
        ValueError: an unknown paper, with the nearest known name.
        JournalError: the folder holds results of other settings.
    """
    if paper not in PAPERS:
        raise ValueError(unknown("paper", paper, PAPERS))
    module = importlib.import_module(f"sentei.papers.{paper}")
    command = f"sentei reproduce {paper} --seeds {order.seeds}" + " --quick" * order.quick
    report = Report(paper, module.TITLE, command, order.quick, module.reproduce(order))
    storage.write(order.folder / "claims.md", report.markdown().encode())
    storage.write(order.folder / "claims.json", report.json().encode())
    return report
