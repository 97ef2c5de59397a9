"""Compute the names and positions of groups in the network after dead members are removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from sentei.network.units import Branches, Listener, Neurons, Synapses
from sentei.network.zeros import Form, path_around, widths

Place = tuple[str, int]  # a parameter and one of its dimensions


@dataclass(frozen=True)
class Reindexing:
    """How `shrink` changes the positions of groups and the names of layers.

    Attributes:
        gone: the positions removed from each place, ascending.
        wrapped: names of the layers that become the second module of a Sequential, after a Select.
        stand_ins: the form of the zeros that take the place of modules, by path.
    """

    gone: Mapping[Place, Tensor]
    wrapped: frozenset[str]
    stand_ins: Mapping[str, Form] = field(default_factory=dict)

    def synapses(self, group: Synapses, shape: tuple[int, ...]) -> Synapses:
        """Return the group of a layer whose weight has `shape` in the shrunk network."""
        layer = self._renamed(group.name + ".weight").removesuffix(".weight")
        parameter = self._renamed(group.parameter)
        return Synapses(layer, prod(shape), parameter, shape, columns=group.columns)

    def branches(self, group: Branches, kept: Tensor) -> Branches:
        """Return the branches that stay, (size,) bool."""
        left = tuple(
            replace(
                branch,
                parameters=tuple(map(self._renamed, branch.parameters)),
                gates=tuple(map(self._renamed, branch.gates)),
            )
            for branch, stays in zip(group.branches, kept.tolist(), strict=True)
            if stays
        )
        return Branches(group.name, len(left), left)

    def is_left(self, group: Neurons) -> bool:
        """Return whether parts of a group stay that compute its units, and that read them."""
        return all(
            not parts or any(self._path_of(part.parameter) is None for part in parts)
            for parts in (group.producers, group.listeners)
        )

    def renamed(self, group: Neurons, size: int) -> Neurons:
        """Return a group of units as it is named in the shrunk network, without its slices."""
        layer, colon, count = group.name.partition(":")
        if self._path_of(f"{layer}.") is not None:  # the layer that it was named after is gone
            left = (part for part in group.producers if self._path_of(part.parameter) is None)
            return Neurons(next(left).layer, group.kind, size)
        name = f"{_within(layer, '1')}{colon}{count}" if layer in self.wrapped else group.name
        return Neurons(name, group.kind, size)

    def with_places(self, bare: Neurons, group: Neurons, kept: Tensor) -> Neurons:
        """Return a renamed group with its slices; `kept`, (size,) bool, are the units that stay."""
        parts = {
            role: tuple(
                self._reindexed(kept, part)
                for part in getattr(group, role)
                if self._path_of(part.parameter) is None
            )
            for role in ("producers", "followers", "listeners")
        }
        parts["followers"] += tuple(self._widths(kept, group.producers))
        parts["followers"] += tuple(
            Listener(_within(part.layer, "0"), _within(part.layer, "0.index"), 0, left.index)
            for part in group.listeners
            if part.layer in self.wrapped
            for left in [self._reindexed(kept, part)]
        )
        return replace(bare, **parts)

    def _widths(self, kept: Tensor, producers: Sequence[Listener]) -> Iterator[Listener]:
        """Yield the parts of stand-ins that hold how many units a removed layer computed."""
        for part in producers:
            path = self._path_of(part.parameter)
            if path is not None:
                for name, parameter, dim, rows in widths(self.stand_ins[path]):
                    if (f"{path}.{parameter}", rows) == (part.parameter, part.dim):
                        index = self._reindexed(kept, part).index
                        yield Listener(path, f"{path}.{name}", dim, index)

    def _path_of(self, parameter: str) -> str | None:
        """Return the path of the stand-in for the module that owns a parameter; None if none."""
        return path_around(parameter, self.stand_ins)

    def _reindexed(self, kept: Tensor, part: Listener) -> Listener:
        """Return the kept units of a part, with their positions after the removal."""
        removed = self.gone.get((part.parameter, part.dim), torch.empty(0, dtype=torch.int64))
        index = part.index[kept]
        index = index - torch.searchsorted(removed, index.contiguous())
        parameter = self._renamed(part.parameter)
        return Listener(parameter.rpartition(".")[0], parameter, part.dim, index)

    def _renamed(self, parameter: str) -> str:
        """Return a parameter's name after the wrapped layers moved to index 1 of a Sequential."""
        layer, _, short = parameter.rpartition(".")
        return _within(layer, f"1.{short}") if layer in self.wrapped else parameter


def remaining_positions(size: int, gone: Tensor) -> Tensor:
    """Return the positions 0 … size - 1 without those in `gone`."""
    return torch.ones(size, dtype=torch.bool).index_fill(0, gone, False).nonzero().flatten()


def has_select(group: Neurons, layer: str) -> bool:
    """Return whether `layer` already reads the group's inputs through a Select before it."""
    container = layer.rpartition(".")[0]
    return any(part.layer == f"{container}.0".lstrip(".") for part in group.followers)


def _within(layer: str, name: str) -> str:
    """Return the qualified name of something inside a layer; the network itself is ""."""
    return f"{layer}.{name}" if layer else name
