"""Which members of one group are alive, and what follows from that for the weights they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy
import torch
from torch import Tensor

from sentei.network.reindex import Place
from sentei.network.units import Branch, Branches, Group, Listener, Neurons, Synapses


@dataclass(frozen=True, eq=False)
class Members:
    """The members of one group that are alive. Masks between which the group is the same share it.

    Attributes:
        group: the group.
        alive: (size,) bool on the CPU; on the meta device where only the count is known.
        known: the number of alive members if it is known; it is counted otherwise.
    """

    group: Group
    alive: Tensor
    known: int | None = None

    @cached_property
    def count(self) -> int:
        """Number of alive members."""
        # torch.sum takes 70 times as long.
        return int(numpy.count_nonzero(self.alive.numpy())) if self.known is None else self.known

    @property
    def dead(self) -> Tensor:
        """Positions of the dead members, int64, ascending."""
        return positions_where(~self.alive)

    @cached_property
    def gone(self) -> Mapping[str, Mapping[Place, Tensor]]:
        """For each role ("listeners", ...) the ascending positions of dead units, by place."""
        found: dict[str, dict[Place, Tensor]] = defaultdict(dict)
        if isinstance(self.group, Neurons) and self.count < self.group.size:
            dead = self.dead
            for role in ("producers", "followers", "listeners"):
                parts: tuple[Listener, ...] = getattr(self.group, role)
                for part in parts:
                    place = part.parameter, part.dim
                    before = found[role].get(place)
                    found[role][place] = ascending(part.index[dead].flatten(), before)
        return found

    @property
    def lost(self) -> list[Branch]:
        """The dead branches of a group of branches; none of another group."""
        branches = self.group.branches if isinstance(self.group, Branches) else ()
        return [branches[at] for at in self.dead.tolist()] if branches else []

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters of which the group's members are entries."""
        group = self.group
        if isinstance(group, Synapses):
            return {group.parameter}
        if isinstance(group, Branches):
            return {name for branch in group.branches for name in branch.parameters}
        return {part.parameter for part in (*group.producers, *group.followers, *group.listeners)}


def ascending(*positions: Tensor | None) -> Tensor:
    """Return the different numbers among positions, int64, ascending."""
    given = [each.numpy() for each in positions if each is not None]
    counts = numpy.bincount(given[0] if len(given) == 1 else numpy.concatenate(given))
    return torch.from_numpy(numpy.flatnonzero(counts))  # torch.unique takes several times as long


def positions_where(members: Tensor) -> Tensor:
    """Return the positions at which `members`, (size,) bool, is true, int64, ascending."""
    return torch.from_numpy(numpy.flatnonzero(members.numpy()))  # torch.nonzero: 5 times as long
