"""Five papers reproduced, and a study: run experiments, draw figures, and judge claims.

- `annealing`: Bartoldson's poster (2016), with FSA (Barbu and others, 2017).
- `distinctiveness`: Zheng, after Gedeon and Harris (1991).
- `sensitivity`: Singh (2018).
- `shrinking`: Sharma, Wolfe and Raj (arXiv 1701.04465).
- `wsf`: Bulin and Smidl (2017).
- `study`: our own, of which criterion to use when; its claims are questions.

A paper is a package here with `TITLE` and `reproduce(order) -> list[Claim]`. It describes its
experiments as jobs, draws its figures with `order.figure`, and returns its claims with the measured
values.

May import everything but `cli` and `integrations`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sentei import storage
from sentei.errors import unknown
from sentei.jobs import results
from sentei.jobs.workers import Workers
from sentei.papers.claims import Claim, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PAPERS", "STUDY", "Claim", "Order", "Report", "reproduce"]

PAPERS: tuple[str, ...] = ("annealing", "distinctiveness", "sensitivity", "shrinking", "wsf")
STUDY = "study"


@dataclass(frozen=True)
class Order:
    """The options of a reproduction, and the folder that its results are written to.

    Attributes:
        folder: the folder of this paper: `results/*.json`, `figures/*`, `claims.md` and
            `claims.json`.
        quick: run smaller experiments, about a minute in all; their results are never published.
        seeds: how often each experiment is repeated; at least five where results are published.
        workers: how many jobs run at once, where, and which share of them.
        on_progress: called after each job with (jobs done, jobs in all, name of the job).
        images: a folder of IDX files, on which the study is made too; only its own data if None.
        so_far: run nothing, and judge the results that are stored already; for the study only.

    Raises:
        ValueError: `seeds` is below 1.
    """

    folder: Path
    quick: bool = False
    seeds: int = 5
    workers: Workers = Workers()  # noqa: RUF009 - frozen
    on_progress: Callable[[int, int, str], object] | None = None
    images: Path | None = None
    so_far: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if `seeds` is below 1, before any experiment runs."""
        if self.seeds < 1:
            raise ValueError(
                f"seeds is how often each experiment is repeated, at least 1; got {self.seeds}. "
                "Leave it out for 5."
            )

    def work(self, todo: Sequence[results.Job]) -> dict[str, results.Result]:
        """Run the jobs without a stored result, and return all results by name.

        With `so_far` nothing is run, and the results of some jobs may be missing.

        Raises:
            IncompleteError: results of other shares of the jobs are missing.
        """
        folder = self.folder / ("quick" if self.quick else "results")
        if self.so_far:
            return results.stored(todo, folder)
        return results.run(todo, folder, self.workers, on_progress=self.on_progress)

    def figure(self, name: str, figure: Figure) -> Path:
        """Write a matplotlib figure as PNG and SVG; return the path of the PNG."""
        from sentei.reporting.figures import write

        return write(figure, self.folder / "figures" / name)[0]


def reproduce(paper: str, order: Order) -> Report:
    """Reproduce a paper: run its experiments, draw its figures, judge its claims.

    Args:
        paper: one of `PAPERS`, or `STUDY`.
        order: the options and the folder for results.

    Returns:
        The claims with the measured values. They are also written to the folder as `claims.md` and
        `claims.json`.

    Raises:
        ValueError: the paper is unknown; the message names the nearest known one.
        JournalError: the folder holds results of other settings; or (IncompleteError) results of
            other shares of the jobs are missing, and nothing is judged.
    """
    if paper not in (*PAPERS, STUDY):
        raise ValueError(unknown("paper", paper, (*PAPERS, STUDY)))
    module = importlib.import_module(f"sentei.papers.{paper}")
    command = f"sentei reproduce {paper} --seeds {order.seeds}" + " --quick" * order.quick
    command += "" if order.images is None else f" --images {order.images}"
    command += " --so-far" * order.so_far
    report = Report(paper, module.TITLE, command, order.quick, module.reproduce(order))
    storage.write(order.folder / "claims.md", report.markdown().encode())
    storage.write(order.folder / "claims.json", report.json().encode())
    return report
