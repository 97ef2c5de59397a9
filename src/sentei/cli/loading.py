"""Load the network that a command is given as a file, or train the one it is given by widths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sentei.errors import StructureError

if TYPE_CHECKING:
    from torch import nn

    from sentei.cli.options import Data
    from sentei.datasets import Scaling, Split
    from sentei.network.mask import Mask
    from sentei.training import Recipe


def opened(file: str | Path) -> tuple[nn.Module, Mask]:
    """Read a network and its mask from a file that sentei saved.

    Raises:
        ValueError: the path is a folder.
        FileError: the file is damaged or not sentei's.
        StructureError: a weight in the file is not finite.
    """
    from sentei import formats

    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder; name the file of a network that sentei saved")
    network = formats.load(file)
    for name, weight in (*network.named_parameters(), *network.named_buffers()):
        if not bool(weight.isfinite().all()):
            raise StructureError(
                f"weights must be finite; {name!r} in {file} has one that is not (NaN or "
                "infinity). Train it again."
            )
    return network, formats.load_mask(file)


def loaded(model: str | Path, data: Data) -> tuple[nn.Module, Mask, Split]:
    """Load a network from its file, or build it by name and train it as `sentei train` does.

    Args:
        model: a file that sentei saved, or a network's name as in `sentei train --model`.
        data: the samples; its seed is that of initial weights and of training too.

    Returns:
        The network, its mask, and the data in the shape that the network takes.

    Raises:
        FileNotFoundError: `model` is neither a file nor a network's name.
        ValueError: `model` is a folder.
        FileError: the file is damaged or not sentei's.
        StructureError: a weight in the file is not finite.
    """
    from sentei import Mask, training

    if Path(model).exists():
        network, mask = opened(model)
        return network, mask, _samples(network, data)
    try:
        network, split = untrained(str(model), data)
    except ValueError as error:
        raise FileNotFoundError(
            f"there is no file {model}, and it is not a network's name: {error}"
        ) from error
    trained_(network, split, training.Recipe(seed=data.seed), f"training {model}")
    return network.eval(), Mask.full([]), split


def untrained(model: str, data: Data) -> tuple[nn.Module, Split]:
    """Build a network by its name, and load data as it takes them.

    Where the data needs it, the network begins with a `Standardise` fitted on the training samples.
    So it takes inputs as they are in the data, and so does every file that is written from it.

    Raises:
        ValueError: an unknown network or option, with the nearest known one.
    """
    from sentei import card_of, set_card_, training

    network = training.build(model, seed=data.seed)
    split = data.load(flat=training.takes_flat(network), standardise=False)
    network = standardising(network, split)
    known = {"classes": split.named_classes, "features": split.named_features}
    set_card_(network, replace(card_of(network), **known))
    return network, split


def standardising(network: nn.Module, split: Split) -> nn.Module:
    """Return a network that takes the inputs of a Split: one that scales them first if needed."""
    from sentei import Standardise
    from sentei.network.layers import standardises

    if split.scaling is None or not split.raw or standardises(network):
        return network
    return Standardise.of(split.scaling).before(network)


def needed(split: Split) -> Scaling | None:
    """Return what callers of a network have to do; None if it takes inputs as they are."""
    return None if split.raw else split.scaling


def _samples(network: nn.Module, data: Data) -> Split:
    """Load data as a network takes them: in its shape, and as they are if it standardises them.

    A network saved by an older release, or trained in Python on standardised inputs, has no
    `Standardise` and still gets standardised inputs.
    """
    from sentei import training
    from sentei.network.layers import standardises

    flat, raw = training.takes_flat(network), standardises(network)
    return data.load(flat=flat, standardise=not raw)


def trained_(network: nn.Module, split: Split, recipe: Recipe, what: str) -> None:
    """Train a network in place on training samples, with a progress bar that is named `what`."""
    from sentei import training
    from sentei.cli.screen import progress

    with progress(what, recipe.epochs) as advance:
        training.train(
            network,
            split.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
