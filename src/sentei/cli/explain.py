"""The command `sentei explain`: write an interactive page about one network."""

from __future__ import annotations

from pathlib import Path

from sentei.cli.options import Data, Loss, Model, OutFile, RunOnDevice, Weights
from sentei.cli.screen import Result


def explain(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    data: Data = Data(),
    out: OutFile = Path("explain.html"),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Write an HTML page that draws a network, runs it on test samples, and scores its units.

    Parameters
    ----------
    out
        The HTML file to write; it loads no other files.
    """
    from sentei.cli.command_line import command
    from sentei.cli.loading import loaded, one_input, own_loss
    from sentei.reporting.page import of_network, write

    run.start()
    network, mask, split = loaded(model, data, loss, weights, run.place())
    one_input(split, "the page of sentei explain")
    words = {"command": command(), "seed": data.seed}
    page = write(of_network(network, split, mask, own_loss(loss), words), out)
    return Result({"out": page}, (f"Page: {page}",))
