"""Count the parameters that go with dead units."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from torch import Tensor, nn

from sentei.network.mask import Mask
from sentei.network.units import Branches, Neurons
from sentei.network.zeros import path_around


def smallest(groups: Iterable[Neurons | Branches]) -> Mask:
    """Return the mask in which each group keeps only as many units as torch's layers need."""
    groups = list(groups)
    return Mask.full(groups).without({g: range(g.least, g.size) for g in groups})


def removed_parameters(model: nn.Module, mask: Mask) -> int:
    """Return how many entries of parameters `shrink(model, mask)` removes.

    An entry counts once, whatever number of removed rows and columns cross in it, and so does a
    parameter that several modules share. Nothing is copied or cut.

    Raises:
        GroupError: the mask's groups are not the model's.
    """
    mask.check(model)
    left = shapes_left(model, mask)
    return sum(parameter.numel() - prod(shape) for parameter, shape in left.items())


def shapes_left(model: nn.Module, mask: Mask) -> dict[Tensor, list[int]]:
    """Return the shape that each parameter has after `shrink(model, mask)`."""
    named = dict(model.named_parameters(remove_duplicate=False))
    stay: set[Tensor | None] = {
        own for name, own in named.items() if not path_around(name, mask.stand_ins)
    }
    left: dict[Tensor, list[int]] = {
        own: list(own.shape) if own in stay else [0] for own in named.values()
    }
    for (name, dim), positions in mask.gone.items():
        if named.get(name) in stay:  # buffers, such as running means, are no parameters
            left[named[name]][dim] -= len(positions)
    return left
