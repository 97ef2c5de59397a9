"""What groups are called, and where they lie, once the dead are gone."""

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
    """What happens to places and names.

    Attributes:
        gone: of a place, the positions that are taken out, ascending.
        wrapped: layers that become the second part of a Sequential.
    """

    gone: Mapping[Place, Tensor]
    wrapped: frozenset[str]

    def groups_left(
        self, alive: Mapping[Group, Tensor], living: Callable[[Synapses], Tensor]
    ) -> dict[Group, Tensor]:
        """The groups of the shrunk network, each with what is alive in it, (size,) bool.

        Args:
            alive: of every group, (size,) bool.
            living: of a layer, which of the synapses that are left in its shape are alive.
        """
        left: dict[Group, Tensor] = {}
        for group, still in alive.items():
            if isinstance(group, Synapses):
                synapses = living(group)
                left[self._fewer_synapses(group, tuple(synapses.shape))] = synapses.flatten()
            elif still.any():
                left[self._fewer_units(group, still)] = still[still]
        return left

    def _fewer_synapses(self, group: Synapses, shape: tuple[int, ...]) -> Synapses:
        layer = self._renamed(group.name + ".weight").removesuffix(".weight")
        return Synapses(layer, prod(shape), self._renamed(group.parameter), shape)

    def _fewer_units(self, group: Neurons, still: Tensor) -> Neurons:
        parts = {
            role: tuple(self._reindexed(still, part) for part in getattr(group, role))
            for role in ("producers", "followers", "listeners")
        }
        size = int(still.sum())
        if group.kind == "input":
            places = torch.arange(size).reshape(size, 1)
            parts["followers"] += tuple(
                Listener(_within(layer, "0"), _within(layer, "0.index"), 0, places)
                for layer in sorted(self.wrapped.intersection(p.layer for p in group.listeners))
            )
        layer, colon, count = group.name.partition(":")
        name = f"{_within(layer, '1')}{colon}{count}" if layer in self.wrapped else group.name
        return replace(group, name=name, size=size, **parts)

    def _reindexed(self, still: Tensor, part: Listener) -> Listener:
        gone = self.gone.get((part.parameter, part.dim), torch.empty(0, dtype=torch.int64))
        index = part.index[still]
        index = index - torch.searchsorted(gone, index.contiguous())
        parameter = self._renamed(part.parameter)
        return Listener(parameter.rpartition(".")[0], parameter, part.dim, index)

    def _renamed(self, parameter: str) -> str:
        """A parameter's name after the wrapped layers became the second part of a Sequential."""
        layer, _, short = parameter.rpartition(".")
        return _within(layer, f"1.{short}") if layer in self.wrapped else parameter


def remaining_positions(size: int, gone: Tensor) -> Tensor:
    """Positions 0 … size - 1 without those `gone`."""
    return torch.ones(size, dtype=torch.bool).index_fill(0, gone, False).nonzero().flatten()


def has_select(group: Neurons, layer: str) -> bool:
    """Whether `layer` already reads the group's inputs through a Select that stands before it."""
    container = layer.rpartition(".")[0]
    return any(part.layer == f"{container}.0".lstrip(".") for part in group.followers)


def _within(layer: str, name: str) -> str:
    """The qualified name of something inside a layer; the network itself has no name."""
    return f"{layer}.{name}" if layer else name
