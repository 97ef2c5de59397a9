"""The command `sentei figures`: draw the figures of a pruning run."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingDirectory

from sentei.cli.options import Run


def figures(
    journal: ExistingDirectory,
    *,
    into: Path = Path("figures"),
    run: Run = Run(),
) -> None:
    """Draw the figures of a pruning run for papers and slides, each as PNG and SVG.

    Parameters
    ----------
    journal
        Folder that `sentei prune --journal` wrote.
    into
        Folder to write the figures to.
    """
    from sentei.cli.screen import say
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page import of_journal

    run.start()
    for name, figure in gallery(of_journal(journal)).items():
        say(", ".join(str(path) for path in write(figure, into / name)))
