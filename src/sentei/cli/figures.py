"""`sentei figures`."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingDirectory


def figures(
    journal: ExistingDirectory,
    *,
    threads: int = 1,
    into: Path = Path("figures"),
) -> None:
    """Draw a run's figures for papers and slides, each as PNG and SVG.

    Parameters
    ----------
    journal
        The folder that `sentei prune --journal` kept.
    threads
        How many torch may use.
    into
        Folder for the figures.
    """
    import torch

    from sentei.cli.screen import say
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page import of_journal

    torch.set_num_threads(threads)
    for name, figure in gallery(of_journal(journal)).items():
        say(", ".join(str(path) for path in write(figure, into / name)))
