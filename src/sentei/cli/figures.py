"""The command `sentei figures`: draw the figures of a pruning run."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingDirectory


def figures(
    journal: ExistingDirectory,
    *,
    threads: int = 1,
    into: Path = Path("figures"),
) -> None:
    """Draw the figures of a pruning run for papers and slides, each as PNG and SVG.

    Parameters
    ----------
    journal
        Folder that `sentei prune --journal` wrote.
    threads
        Number of CPU threads that torch may use.
    into
        Folder to write the figures to.
    """
    import torch

    from sentei.cli.screen import say
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page import of_journal

    torch.set_num_threads(threads)
    for name, figure in gallery(of_journal(journal)).items():
        say(", ".join(str(path) for path in write(figure, into / name)))
