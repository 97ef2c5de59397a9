"""A layer's weight as matrices: a row for each output, a column for each place that is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from sentei.network.calls import MIXING, Call


@dataclass(frozen=True)
class Layout:
    """How the entries of a layer's weight are arranged in matrices, one for each of its groups.

    Output r of a group is the product of row r and a vector of what the group reads. A column is
    one input of a linear layer, or one kernel position of one input channel of a convolution; the
    columns of one kernel position follow one another, in the order of the channels.

    Attributes:
        shape: the weight's shape.
        columns: the dimension of the weight, 0 or 1, that indexes inputs. The other one indexes
            outputs, and all further ones kernel positions.
        groups: the number of groups of a convolution; 3 where attention packs the weights of
            query, key and value into one, and they read different inputs; 1 elsewhere.
    """

    shape: tuple[int, ...]
    columns: int
    groups: int = 1

    @classmethod
    def of(cls, call: Call) -> Layout | None:
        """Return the layout of the weight of a call; None if the call multiplies nothing by it."""
        use = MIXING.get(call.function)
        if use is None or use.columns is None:
            return None
        weight: Tensor = call.given[use.weight]
        groups = call.given.get("groups", 1) if call.third is None else 3
        return cls(tuple(weight.shape), use.columns, groups)

    @property
    def inputs(self) -> int:
        """How many inputs each output reads: consecutive columns that have one kernel position."""
        return self.shape[self.columns] // (self.groups if self.columns == 0 else 1)

    @property
    def width(self) -> int:
        """How many columns a matrix has."""
        return self.inputs * prod(self.shape[2:])

    def matrices(self, weight: Tensor) -> Tensor:
        """Rearrange a tensor shaped like the weight to (groups, rows, columns)."""
        return weight.unflatten(0, (self.groups, -1)).permute(self._order).flatten(2)

    def weight(self, matrices: Tensor) -> Tensor:
        """Rearrange (groups, rows, columns) to the weight's shape: the inverse of `matrices`."""
        split = (self.groups, self.shape[0] // self.groups, *self.shape[1:])
        back = [self._order.index(dim) for dim in range(len(split))]
        return matrices.reshape([split[dim] for dim in self._order]).permute(back).flatten(0, 1)

    @property
    def _order(self) -> tuple[int, ...]:
        """The dimensions of the weight with its groups split off: groups, rows, kernel, inputs."""
        return 0, 2 - self.columns, *range(3, len(self.shape) + 1), 1 + self.columns
