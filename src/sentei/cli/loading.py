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


def untrained(model: str | Path) -> nn.Module:
    """Read a network from its file, or build it by name; its weights need not be trained.

    Raises:
        FileNotFoundError, ValueError, FileError, StructureError: as `loaded`.
    """
    return opened(model)[0] if Path(model).exists() else _built(str(model), seed=0)


def _built(model: str, seed: int) -> nn.Module:
    from sentei import training

    try:
        return training.build(model, seed=seed)
    except ValueError as error:
        raise FileNotFoundError(
            f"there is no file {model}, and it is not a network's name: {error}"
        ) from error


def loaded(model: str | Path, data: Data, loss: str | None = None) -> tuple[nn.Module, Mask, Split]:
    """Load a network from its file, or build it by name and train it as `sentei train` does.

    The network's `Card` then names its loss and says whether it predicts values; everything that
    measures takes the loss from there, and files that are written say both.

    Args:
        model: a file that sentei saved, or a network's name as in `sentei train --model`.
        data: the samples; its seed is that of initial weights and of training too.
        loss: name of the loss; if None, that of the network's `Card`, else that of the data.

    Returns:
        The network, its mask, and the data in the shape that the network takes.

    Raises:
        FileNotFoundError: `model` is neither a file nor a network's name.
        ValueError: `model` is a folder, or an unknown loss.
        FileError: the file is damaged or not sentei's.
        StructureError: a weight in the file is not finite.
    """
    from sentei import Mask, training
    from sentei.card import card_of, set_card_
    from sentei.losses import per_sample

    if loss is not None:
        per_sample(loss)
    if Path(model).exists():
        network, mask = opened(model)
        card = card_of(network)
        predicts = "values" if data.regression else card.predicts
        known = loss or card.loss or data.default_loss()
        set_card_(network, replace(card, loss=known, predicts=predicts))
        return network, mask, _samples(network, data)
    network, split = with_samples(_built(str(model), data.seed), data)
    recipe = training.Recipe(seed=data.seed, loss=loss or data.default_loss())
    trained_(network, split, recipe, f"training {model}")
    return network.eval(), Mask.full([]), split


def with_samples(network: nn.Module, data: Data) -> tuple[nn.Module, Split]:
    """Load data for a network that is to be trained; return the network as it takes them.

    Where the data needs it, the network begins with a `Standardise` fitted on the training samples.
    So it takes inputs as they are in the data, and so does every file that is written from it. Its
    `Card` names classes and features.
    """
    from sentei import card_of, set_card_, training

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
    from sentei import card_of, training
    from sentei.network.layers import standardises

    return data.load(
        flat=training.takes_flat(network),
        standardise=not standardises(network),
        predicts=card_of(network).predicts,
    )


def trained_(network: nn.Module, split: Split, recipe: Recipe, what: str) -> None:
    """Train a network in place on training samples, with a progress bar that is named `what`.

    Its `Card` then says what it was trained with, and what it predicts.
    """
    from sentei import training
    from sentei.card import card_of, set_card_
    from sentei.cli.screen import progress

    with progress(what, recipe.epochs) as advance:
        done = training.train(
            network,
            split.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
    predicts = "classes" if split.classes else "values"
    set_card_(network, replace(card_of(network), loss=done.loss, predicts=predicts))
