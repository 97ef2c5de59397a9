"""The network that a command is about: one that was saved, or one to be trained first."""

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
    """A network by its file, or by its widths: then it is trained as `sentei train` would.

    Args:
        model: a file that sentei saved, or a network's name as of `sentei train --model`.
        split: the data, flat or not.
        seed: of initial weights and of training.

    Returns:
        The network, what is dead in it, and the data in its shape.

    Raises:
        FileNotFoundError: neither.
        StructureError: a weight that is not finite.
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
        raise FileNotFoundError(f"there is no file {model}, and as a name: {error}") from error
    data, recipe = split(training.takes_flat(network)), training.Recipe(seed=seed)
    with progress(f"training {model}", recipe.epochs) as advance:
        training.train(
            network,
            data.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
    return network.eval(), Mask.full([]), data
