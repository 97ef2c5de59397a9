"""Load the network that a command is given as a file, or train the one it is given by widths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sentei.errors import StructureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from sentei.datasets import Split
    from sentei.network.mask import Mask


def loaded(model: str, split: Callable[[bool], Split], seed: int) -> tuple[nn.Module, Mask, Split]:
    """Load a network from its file, or build it by name and train it as `sentei train` does.

    Args:
        model: a file that sentei saved, or a network's name as in `sentei train --model`.
        split: returns the data; its argument says whether inputs are flat.
        seed: seed of initial weights and of training.

    Returns:
        The network, its mask, and the data in the shape that the network takes.

    Raises:
        FileNotFoundError: `model` is neither a file nor a network's name.
        StructureError: a weight in the file is not finite.
    """
    from sentei import Mask, formats, training
    from sentei.cli.screen import progress

    if Path(model).exists():
        network = formats.load(model)
        for name, weight in network.named_parameters():
            if not bool(weight.isfinite().all()):
                raise StructureError(
                    f"weights must be finite; {name!r} in {model} has one that is not (NaN or "
                    "infinity). Train it again."
                )
        return network, formats.load_mask(model), split(training.takes_flat(network))
    try:
        network = training.build(model, seed=seed)
    except ValueError as error:
        raise FileNotFoundError(
            f"there is no file {model}, and it is not a network's name: {error}"
        ) from error
    data, recipe = split(training.takes_flat(network)), training.Recipe(seed=seed)
    with progress(f"training {model}", recipe.epochs) as advance:
        training.train(
            network,
            data.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
    return network.eval(), Mask.full([]), data
