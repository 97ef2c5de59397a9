"""The command `sentei tidy`: remove units whose removal leaves the outputs unchanged."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingFile


def tidy(
    model: ExistingFile,
    *,
    out: Path = Path("tidy.safetensors"),
    data: str = "mnist",
    target: str = "-1",
    samples: int = 10_000,
    proven: bool = False,
    norms: bool = False,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Remove unread, constant, repeated and dependent units: the outputs stay the same.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors).
    out
        File to write the smaller network to.
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. Units are compared on its training samples.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    samples
        Number of training samples that units are compared on.
    proven
        Remove only what provably changes the outputs for no input, not just for the samples.
    norms
        Also fold batch norms into the layer before them: equal in evaluation mode only.
    seed
        Seed of the random split into training, validation and test samples.
    threads
        Number of CPU threads that torch may use.
    """
    import torch

    from sentei import datasets, formats, training
    from sentei.cli.screen import column, console, head, say
    from sentei.pruning.tidying import examined
    from sentei.reporting.tables import finds

    torch.set_num_threads(threads)
    network = formats.load(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    done = examined(network, split.train.first(samples), proven=proven, norms=norms)
    head(f"{model}: units that can be removed without any change")
    console.print(finds(done))
    formats.save(done.network, out)
    say(
        f"outputs differ by {done.difference:.1e} at most on {done.samples:,} samples; "
        f"the network is in [bold]{out}[/bold]"
    )
