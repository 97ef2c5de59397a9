"""What groups are called, and where they lie, once the dead are gone."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sentei.network.units import Group, Listener, Neurons, Synapses

if TYPE_CHECKING:
    from sentei.network.mask import Mask


def renumbered(mask: Mask) -> dict[Group, Tensor]:
    """The groups of the shrunk network, each with what is alive in it, (size,) bool."""
    left: dict[Group, Tensor] = {}
    for group in mask.groups:
        if isinstance(group, Synapses):
            alive = mask.living_in_shrunk(group)
            left[_fewer_synapses(mask, group, tuple(alive.shape))] = alive.flatten()
        elif mask.count(group):
            left[_fewer_units(mask, group)] = torch.ones(mask.count(group), dtype=torch.bool)
    return left


def kept(size: int, gone: Tensor) -> Tensor:
    """Positions 0 … size - 1 without those `gone`."""
    return torch.ones(size, dtype=torch.bool).index_fill(0, gone, False).nonzero().flatten()


def selects(group: Neurons, layer: str) -> bool:
    """Whether `layer` already reads the group's inputs through a Select that stands before it."""
    container = layer.rpartition(".")[0]
    return any(part.layer == f"{container}.0".lstrip(".") for part in group.followers)


def _fewer_synapses(mask: Mask, group: Synapses, shape: tuple[int, ...]) -> Synapses:
    layer = _renamed(mask, group.name + ".weight").removesuffix(".weight")
    return Synapses(layer, prod(shape), _renamed(mask, group.parameter), shape)


def _fewer_units(mask: Mask, group: Neurons) -> Neurons:
    parts = {
        role: tuple(_reindexed(mask, group, part) for part in getattr(group, role))
        for role in ("producers", "followers", "listeners")
    }
    size = mask.count(group)
    if group.kind == "input":
        places = torch.arange(size).reshape(size, 1)
        parts["followers"] += tuple(
            Listener(_within(layer, "0"), _within(layer, "0.index"), 0, places)
            for layer in sorted(mask.wrapped.intersection(p.layer for p in group.listeners))
        )
    layer, colon, count = group.name.partition(":")
    name = f"{_within(layer, '1')}{colon}{count}" if layer in mask.wrapped else group.name
    return replace(group, name=name, size=size, **parts)


def _reindexed(mask: Mask, group: Neurons, part: Listener) -> Listener:
    gone = mask.gone.get((part.parameter, part.dim), torch.empty(0, dtype=torch.int64))
    index = part.index[mask.alive(group)]
    index = index - torch.searchsorted(gone, index.contiguous())
    parameter = _renamed(mask, part.parameter)
    return Listener(parameter.rpartition(".")[0], parameter, part.dim, index)


def _renamed(mask: Mask, parameter: str) -> str:
    """A parameter's name after the wrapped layers became the second part of a Sequential."""
    layer, _, short = parameter.rpartition(".")
    return _within(layer, f"1.{short}") if layer in mask.wrapped else parameter


def _within(layer: str, name: str) -> str:
    """The qualified name of something inside a layer; the network itself has no name."""
    return f"{layer}.{name}" if layer else name
