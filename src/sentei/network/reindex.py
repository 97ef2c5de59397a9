"""Compute the names and positions of groups in the network after dead members are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from sentei.network.units import Group, Listener, Neurons, Synapses

Place = tuple[str, int]  # a parameter and one of its dimensions


@dataclass(frozen=True)
class Reindexing:
    """How `shrink` changes the positions of groups and the names of layers.

    Attributes:
        gone: the positions removed from each place, ascending.
        wrapped: names of the layers that become the second module of a Sequential, after a Select.
    """

    gone: Mapping[Place, Tensor]
    wrapped: frozenset[str]

    def groups_left(
        self, alive: Mapping[Group, Tensor], living: Callable[[Synapses], Tensor]
    ) -> dict[Group, Tensor]:
        """Return the groups of the shrunk network, each with which members are alive, (size,) bool.

        Args:
            alive: for every group which members are alive, (size,) bool.
            living: returns for a layer which synapses are alive, bool in the shrunk weight's shape.
        """
        shrunk: dict[Group, Tensor] = {}
        for group, kept in alive.items():
            if isinstance(group, Synapses):
                synapses = living(group)
                shrunk[self._shrunk_synapses(group, tuple(synapses.shape))] = synapses.flatten()
            elif kept.any():
                shrunk[self._shrunk_units(group, kept)] = kept[kept]
        return shrunk

    def _shrunk_synapses(self, group: Synapses, shape: tuple[int, ...]) -> Synapses:
        layer = self._renamed(group.name + ".weight").removesuffix(".weight")
        return Synapses(layer, prod(shape), self._renamed(group.parameter), shape)

    def _shrunk_units(self, group: Neurons, kept: Tensor) -> Neurons:
        parts = {
            role: tuple(self._reindexed(kept, part) for part in getattr(group, role))
            for role in ("producers", "followers", "listeners")
        }
        size = int(kept.sum())
        parts["followers"] += tuple(
            Listener(_within(part.layer, "0"), _within(part.layer, "0.index"), 0, left.index)
            for part, left in zip(group.listeners, parts["listeners"], strict=True)
            if part.layer in self.wrapped
        )
        layer, colon, count = group.name.partition(":")
        name = f"{_within(layer, '1')}{colon}{count}" if layer in self.wrapped else group.name
        return replace(group, name=name, size=size, **parts)

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
