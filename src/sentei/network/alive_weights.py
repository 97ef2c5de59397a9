"""Which weights of one layer are alive, and the counts from which the sizes of files follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import prod

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AliveWeights:
    """Which weights of one layer are alive, after rows and columns of it were removed.

    Masks of a run share these where nothing of the layer changes. They hold the masks' own tensors
    and the counts that were asked for; the matrix is made anew each time.

    Attributes:
        whole: shape of the weight before anything is removed.
        members: which of its entries are alive, each (entries,) bool on the CPU; an entry is dead
            if it is dead in one of them. Empty if all are alive.
        gone: the positions that are removed, by dimension.
    """

    whole: tuple[int, ...]
    members: tuple[Tensor, ...] = ()
    gone: Mapping[int, Tensor] = field(default_factory=dict)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is left."""
        return tuple(
            side - (len(self.gone[dim]) if dim in self.gone else 0)
            for dim, side in enumerate(self.whole)
        )

    @property
    def size(self) -> int:
        """Number of weights that are left, dead ones included."""
        return prod(self.shape)

    def array(self) -> np.ndarray:
        """Return which weights are alive, bool in the shape that is left; not to be changed."""
        if not self.members:
            return np.ones(self.shape, dtype=bool)
        alive = reduce(np.logical_and, (each.numpy() for each in self.members))
        alive = alive.reshape(self.whole)
        for dim, positions in self.gone.items():
            stays = np.ones(self.whole[dim], dtype=bool)
            stays[positions.numpy()] = False
            alive = alive.take(np.flatnonzero(stays), dim)
        return alive

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns: the first dimension, and all others together."""
        return self.shape[0], prod(self.shape[1:])

    def matrix(self) -> np.ndarray:
        """Return `array` as a matrix, (rows, columns)."""
        return self.array().reshape(self.matrix_shape)

    @cached_property
    def count(self) -> int:
        """Number of alive weights."""
        return int(np.count_nonzero(self.array())) if self.members else self.size

    @cached_property
    def fullest(self) -> int:
        """Largest number of alive weights in a row."""
        return int(np.count_nonzero(self.matrix(), axis=1).max()) if self.size else 0

    def steps(self, jump: int) -> int:
        """Return the length of the list of gaps before each alive weight; see `coding.gaps8`.

        Args:
            jump: how many dead positions one entry without a weight stands for.
        """
        if jump not in self._steps:
            positions = np.flatnonzero(self.array())
            ends = positions[[0, -1]].tolist() if len(positions) else (0, -1)
            between = int(((np.diff(positions) - 1) // jump).sum())
            after = -(-(self.size - 1 - ends[1]) // jump)
            self._steps[jump] = len(positions) + ends[0] // jump + between + max(after, 1)
        return self._steps[jump]

    @cached_property
    def _steps(self) -> dict[int, int]:
        return {}
