"""The command `sentei explain`: write an interactive page about one network."""

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
    """Write an HTML page that draws a saved network, runs it, and scores each of its units.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors).
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. The page uses its test samples.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    loss
        Loss that the network was trained with: cross_entropy, half_squared_error or
        binary_cross_entropy.
    seed
        Seed of the random split into training, validation and test samples.
    threads
        Number of CPU threads that torch may use.
    out
        The HTML file to write; it loads no other files.
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
