"""Describe where a replay can write NaN: the rows of weights and the elements of inputs.

A row or element is *hot* in a replay that writes NaN there; see `replay.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from sentei.running import Example, ForwardCall

Place = tuple[str, int]  # a parameter or buffer and one of its dimensions

INPUT = -1  # stands for the "dimension" of a model input; its rows are the elements of a sample


@dataclass(frozen=True)
class Source:
    """The rows of one weight that computes units, or the elements of one model input.

    Attributes:
        place: the weight and the dimension that indexes its rows; (argument, INPUT) for an input.
        codes: (rows,) int64, ascending; the bits of a code decide in which replays its row is hot.
        function: the torch function that uses the weight; None for an input.
    """

    place: Place
    codes: np.ndarray
    function: Any = None


class Inputs:
    """The floating-point tensors of an example, each a source with one row for each element.

    Attributes:
        sources: one for each tensor, under the name of the model's argument.
    """

    def __init__(self, model: nn.Module, example: Example):
        names = [] if isinstance(example, ForwardCall) else _arguments(model)
        leaves, self._form = tree_flatten_with_path(example)
        self._leaves = [leaf for _, leaf in leaves]
        self._at: dict[Place, int] = {}
        self.sources: dict[Place, Source] = {}
        for at, (path, leaf) in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                place = _argument(names, path), INPUT
                self._at[place] = at
                self.sources[place] = Source(place, _codes(tuple(leaf.shape[1:])))

    def poisoned(self, hot: Mapping[Place, np.ndarray]) -> Example:
        """Return the example with NaN in its hot elements, in every sample.

        Args:
            hot: for each source with hot rows, which of its rows are hot, (rows,) bool.
        """
        leaves = list(self._leaves)
        for place, at in self._at.items():
            if place in hot and hot[place].any():
                where = torch.from_numpy(hot[place].reshape(leaves[at].shape[1:]))
                leaves[at] = leaves[at].masked_fill(where.to(leaves[at].device), torch.nan)
        return tree_unflatten(leaves, self._form)


def _codes(shape: tuple[int, ...]) -> np.ndarray:
    """Return a code for each element of a sample: the bits of its coordinates, one after another.

    The first coordinate has the highest bits, so a bit of the channel number splits an image by
    whole channels: columns that read different channels read NaN in different replays.
    """
    codes = np.zeros(shape, np.int64)
    for dim, size in enumerate(shape):
        coordinate = np.arange(size).reshape([-1 if d == dim else 1 for d in range(len(shape))])
        codes = (codes << max(size - 1, 0).bit_length()) + coordinate
    return codes.reshape(prod(shape))


def _arguments(model: nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _argument(names: Sequence[str], path: Any) -> str:
    """Return the name of the argument that an input is passed as, or "input" for a lone tensor."""
    keys = [getattr(key, "name", getattr(key, "key", getattr(key, "idx", ""))) for key in path]
    if not keys:
        return "input"
    first, *rest = keys
    name = names[first] if isinstance(first, int) and first < len(names) else first
    return ".".join(map(str, [name, *rest]))
