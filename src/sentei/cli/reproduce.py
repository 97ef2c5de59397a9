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
    """
    from sentei.cli.screen import console, head, progress, say
    from sentei.papers import PAPERS, Order
    from sentei.papers import reproduce as reproduced
    from sentei.reporting.tables import claims

    for name in PAPERS if paper == "all" else (paper,):
        folder = into / name
        with progress(f"reproducing {name}", 1) as advance:

            def said(done: int, total: int, last: str, advance: Advance = advance) -> None:
                advance(done, last, total)

            report = reproduced(name, Order(folder, quick, seeds, processes, said))
        head(report.title)
        console.print(claims(report.claims))
        say(f"figures and claims lie in [bold]{folder}[/bold]")
