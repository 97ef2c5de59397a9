"""`sentei reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentei.cli.screen import Advance


def reproduce(
    paper: str,
    *,
    into: Path = Path("reproduced"),
    quick: bool = False,
    seeds: int = 5,
    processes: int = 2,
    page: Path | None = None,
) -> None:
    """Reproduce a paper: its experiments, figures and claims, beside what came out.

    Stopped runs go on where they were.

    Parameters
    ----------
    paper
        Its key, or "all".
    into
        Folder for results, figures and the table of claims; each paper gets one of its own in it.
    quick
        Smaller experiments: about a minute, not for publication.
    seeds
        How often each experiment is repeated.
    processes
        How many experiments run side by side, one thread each.
    page
        Markdown to bring up to date: what stands between its <!-- claims --> marks, and the figures
        it shows. Of one paper, not of a quick run.
    """
    from sentei.cli.screen import console, head, progress, say
    from sentei.papers import PAPERS, Order
    from sentei.papers import reproduce as reproduced
    from sentei.papers.claims import SMALLER
    from sentei.papers.pages import publish
    from sentei.reporting.tables import claims

    if page is not None and (paper == "all" or quick):
        raise ValueError("--page is for a whole run of one paper: name it, without --quick")
    for name in PAPERS if paper == "all" else (paper,):
        folder = into / name
        with progress(f"reproducing {name}", 1) as advance:

            def said(done: int, total: int, last: str, advance: Advance = advance) -> None:
                advance(done, last, total)

            report = reproduced(name, Order(folder, quick, seeds, processes, said))
        head(report.title)
        console.print(claims(report.claims))
        if quick:
            say(SMALLER)
        say(f"figures and claims lie in [bold]{folder}[/bold]")
        if page is not None:
            left = publish(report, folder, page)
            say(f"{page} is up to date" + f"; it shows no {_names(left)}" * bool(left))


def _names(files: list[Path]) -> str:
    return ", ".join(file.name for file in files)
