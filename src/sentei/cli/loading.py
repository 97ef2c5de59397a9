"""Load the network that a command is given as a file, or train the one it is given by widths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sentei.errors import StructureError

if TYPE_CHECKING:
    from torch import nn

    from sentei.cli.options import Data
    from sentei.datasets import Split
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
        return network, mask, data.load(flat=training.takes_flat(network), predicts=predicts)
    try:
        network = training.build(str(model), seed=data.seed)
    except ValueError as error:
        raise FileNotFoundError(
            f"there is no file {model}, and it is not a network's name: {error}"
        ) from error
    split = data.load(flat=training.takes_flat(network))
    recipe = training.Recipe(seed=data.seed, loss=loss or data.default_loss())
    trained_(network, split, recipe, f"training {model}")
    return network.eval(), Mask.full([]), split


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
