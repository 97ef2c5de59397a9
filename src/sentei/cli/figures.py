"""The command `sentei figures`: draw the figures of a pruning run."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingDirectory

from sentei.cli.options import OutFolder, Run
from sentei.cli.screen import Result


def figures(
    journal: ExistingDirectory,
    *,
    into: OutFolder = Path("figures"),
    run: Run = Run(),
) -> Result:
    """Draw the figures of a pruning run for papers and slides, each as PNG and SVG.

    Parameters
    ----------
    journal
        Folder that `sentei prune --journal` wrote.
    into
        Folder to write the figures to.
    """
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page import of_journal

    run.start()
    drawn = {
        name: write(figure, into / name) for name, figure in gallery(of_journal(journal)).items()
    }
    return Result({"figures": drawn}, [", ".join(map(str, files)) for files in drawn.values()])
