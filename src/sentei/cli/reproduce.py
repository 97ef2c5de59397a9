"""The command `sentei reproduce`: repeat the experiments of a paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sentei.cli.bounds import Count, Threads
from sentei.cli.options import JOBS, OutFile, OutFolder, Parallel, Shown
from sentei.cli.screen import Result, head
from sentei.cli.stopping import resumed_by
from sentei.errors import IncompleteError

if TYPE_CHECKING:
    from sentei.cli.screen import Advance


def reproduce(
    paper: str,
    *,
    into: OutFolder = Path("reproduced"),
    quick: bool = False,
    seeds: Count = 5,
    images: Path | None = None,
    so_far: bool = False,
    page: OutFile | None = None,
    parallel: Parallel = Parallel(),
    processes: Annotated[Threads | None, Parameter(group=JOBS)] = None,
    shown: Shown = Shown(),
) -> Result:
    """Repeat a paper's experiments and figures, and compare its claims with the measured results.

    An interrupted reproduction continues where it stopped.

    Parameters
    ----------
    paper
        Key of the paper: annealing, distinctiveness, sensitivity, shrinking or wsf; "all" of them;
        or "study", which compares all criteria, repairs and schedules.
    into
        Folder for results, figures and the table of claims; each paper gets a subfolder.
    quick
        Run smaller experiments: about a minute, not for publication.
    seeds
        Number of random seeds that each experiment is repeated with.
    images
        A folder of IDX files, on which the study is made too.
    so_far
        Run nothing: judge the results of the study that are stored already. Of a task and seed,
        those count that all criteria have.
    page
        Markdown file to update: the text between its `<!-- claims -->` marks and the figures that
        it shows. Only for a full run of one paper.
    processes
        The former name of --jobs.
    """
    from sentei.cli.screen import progress
    from sentei.papers import PAPERS, STUDY, Order
    from sentei.papers import reproduce as reproduced
    from sentei.papers.claims import SMALLER
    from sentei.papers.pages import publish
    from sentei.reporting.tables import claims

    if page is not None and (paper == "all" or quick):
        raise ValueError("--page needs a full run of one paper: name it, and leave out --quick")
    for name, given in (("--images", images is not None), ("--so-far", so_far)):
        if given and paper != STUDY:
            raise ValueError(f"{name} has an effect on the study only; leave it out for {paper}")
    workers = (parallel if processes is None else replace(parallel, jobs=processes)).workers()
    shown.start()
    resumed_by(into)
    reports, lines, missing = [], [], []
    for name in PAPERS if paper == "all" else (paper,):
        folder = into / name
        with progress(f"reproducing {name}", 1) as advance:

            def on_progress(done: int, total: int, last: str, advance: Advance = advance) -> None:
                advance(done, last, total)

            order = Order(folder, quick, seeds, workers, on_progress, images, so_far)
            try:
                report = reproduced(name, order)
            except IncompleteError as error:
                missing.append(str(error))
                continue
        reports.append({**vars(report), "folder": folder})
        lines += [head(report.title), claims(report.claims)]
        lines += [SMALLER] * quick + [f"figures and claims are in {folder}"]
        if page is not None:
            unused = publish(report, folder, page)
            shows = f"; it does not show {_names(unused)}" * bool(unused)
            lines.append(f"{page} is up to date{shows}")
    return Result({"papers": reports, "missing": missing}, [*lines, *missing])


def _names(files: list[Path]) -> str:
    return ", ".join(file.name for file in files)
