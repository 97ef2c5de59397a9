"""The command `sentei explain`: write an interactive page about one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sentei.cli.options import NETWORK, Data, Loss, Model, OutFile, Run
from sentei.cli.screen import Result


def explain(
    model: Model,
    *,
    loss: Annotated[Loss, Parameter(group=NETWORK)] = "cross_entropy",
    data: Data = Data(),
    out: OutFile = Path("explain.html"),
    run: Run = Run(),
) -> Result:
    """Write an HTML page that draws a network, runs it on test samples, and scores its units.

    Parameters
    ----------
    out
        The HTML file to write; it loads no other files.
    """
    from sentei.cli.command_line import command
    from sentei.cli.loading import loaded
    from sentei.reporting.page import of_network, write

    run.start()
    network, mask, split = loaded(model, data)
    words = {"command": command(), "seed": data.seed}
    story = of_network(network, split, mask, loss, words)
    page = write(story, out)
    return Result({"out": page}, (f"Page: {page}",))
