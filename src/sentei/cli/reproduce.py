"""The command `sentei reproduce`: repeat the experiments of a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sentei.cli.bounds import Count, Threads
from sentei.cli.options import OutFile, OutFolder, Shown
from sentei.cli.screen import Result, head
from sentei.cli.stopping import resumed_by

if TYPE_CHECKING:
    from sentei.cli.screen import Advance


def reproduce(
    paper: str,
    *,
    into: OutFolder = Path("reproduced"),
    quick: bool = False,
    seeds: Count = 5,
    processes: Threads = 2,
    page: OutFile | None = None,
    shown: Shown = Shown(),
) -> Result:
    """Repeat a paper's experiments and figures, and compare its claims with the measured results.

    An interrupted reproduction continues where it stopped.

    Parameters
    ----------
    paper
        Key of the paper: annealing, distinctiveness, sensitivity, shrinking or wsf; or "all".
    into
        Folder for results, figures and the table of claims; each paper gets a subfolder.
    quick
        Run smaller experiments: about a minute, not for publication.
    seeds
        Number of random seeds that each experiment is repeated with.
    processes
        Number of experiments that run in parallel, each on one thread.
    page
        Markdown file to update: the text between its `<!-- claims -->` marks and the figures that
        it shows. Only for a full run of one paper.
    """
    from sentei.cli.screen import progress
    from sentei.papers import PAPERS, Order
    from sentei.papers import reproduce as reproduced
    from sentei.papers.claims import SMALLER
    from sentei.papers.pages import publish
    from sentei.reporting.tables import claims

    if page is not None and (paper == "all" or quick):
        raise ValueError("--page needs a full run of one paper: name it, and leave out --quick")
    shown.start()
    resumed_by(into)
    reports, lines = [], []
    for name in PAPERS if paper == "all" else (paper,):
        folder = into / name
        with progress(f"reproducing {name}", 1) as advance:

            def on_progress(done: int, total: int, last: str, advance: Advance = advance) -> None:
                advance(done, last, total)

            report = reproduced(name, Order(folder, quick, seeds, processes, on_progress))
        reports.append({**vars(report), "folder": folder})
        lines += [head(report.title), claims(report.claims)]
        lines += [SMALLER] * quick + [f"figures and claims are in {folder}"]
        if page is not None:
            unused = publish(report, folder, page)
            shows = f"; it does not show {_names(unused)}" * bool(unused)
            lines.append(f"{page} is up to date{shows}")
    return Result({"papers": reports}, lines)


def _names(files: list[Path]) -> str:
    return ", ".join(file.name for file in files)
