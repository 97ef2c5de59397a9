"""The command `sentei figures`: draw the figures of a pruning run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingDirectory

from sentei.cli.options import NETWORK, OutFolder, Run
from sentei.cli.screen import Result


def figures(
    journal: ExistingDirectory,
    *,
    model: Annotated[str | None, Parameter(group=NETWORK)] = None,
    into: OutFolder = Path("figures"),
    run: Run = Run(),
) -> Result:
    """Draw the figures of a pruning run for papers and slides, each as PNG and SVG.

    Parameters
    ----------
    journal
        Folder that `sentei prune --journal` wrote.
    model
        The network of the run, if it is of your own class: file.py:name or package.module:name.
    into
        Folder to write the figures to.
    """
    from sentei.cli.loading import untrained
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page import of_journal

    run.start()
    story = of_journal(journal, None if model is None else untrained(model))
    drawn = {name: write(figure, into / name) for name, figure in gallery(story).items()}
    return Result({"figures": drawn}, [", ".join(map(str, files)) for files in drawn.values()])
