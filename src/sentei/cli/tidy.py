"""`sentei tidy`."""

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
    """Take out of a saved network everything that can go without any change.

    Parameters
    ----------
    model
        A network that sentei saved.
    out
        Where the smaller network goes.
    data
        As for train; training samples are looked at.
    target
        The column of a .csv to predict, by name or position.
    samples
        How many training samples to look at.
    proven
        Take out only what changes nothing for any input, whatever the samples say.
    norms
        Fold batch norms into the layer before them: equal in evaluation mode alone.
    seed
        Of the data's split.
    threads
        How many torch may use.
    """
    import torch

    from sentei import datasets, formats, training
    from sentei.cli.screen import column, console, head, say
    from sentei.pruning.tidying import examined
    from sentei.report.tables import finds

    torch.set_num_threads(threads)
    network = formats.load(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    done = examined(network, split.train.first(samples), proven=proven, norms=norms)
    head(f"{model}: what says nothing new")
    console.print(finds(done))
    formats.save(done.network, out)
    say(
        f"outputs changed by {done.difference:.1e} at most on {done.samples:,} samples; "
        f"the network is in [bold]{out}[/bold]"
    )
