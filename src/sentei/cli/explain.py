"""`sentei explain`."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingFile


def explain(
    model: ExistingFile,
    *,
    data: str = "mnist",
    target: str = "-1",
    loss: str = "cross_entropy",
    seed: int = 0,
    threads: int = 1,
    out: Path = Path("explain.html"),
) -> None:
    """Write a page that shows how a saved network works: drawn, run live, every unit weighed.

    Parameters
    ----------
    model
        A network that sentei saved.
    data
        As for train; test samples are looked at.
    target
        The column of a .csv to predict, by name or position.
    loss
        What the network was trained on: cross_entropy, half_squared_error, binary_cross_entropy.
    seed
        Of the data's split.
    threads
        How many torch may use.
    out
        The page to write, one file complete in itself.
    """
    import torch

    from sentei import datasets, formats, training
    from sentei.cli.command_line import command
    from sentei.cli.screen import column, say
    from sentei.reporting.page import of_network, write

    torch.set_num_threads(threads)
    network = formats.load(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    words = {"command": command(), "seed": seed}
    story = of_network(network, split, formats.load_mask(model), loss, words)
    say(f"Page: {write(story, out)}")
