"""The mask of a network: an immutable record of which units and synapses are alive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.arguments import checked
from sentei.errors import GroupError, unknown
from sentei.html_table import html_table
from sentei.network.alive_weights import AliveWeights
from sentei.network.belonging import check_groups, positions_in
from sentei.network.members import Members, ascending, positions_where
from sentei.network.optimizer_state import states_of
from sentei.network.reindex import Place, Reindexing, has_select
from sentei.network.units import (
    BRANCH,
    KINDS,
    Branches,
    Group,
    Neurons,
    Synapses,
    named,
    refuse_shared_positions,
    tensor_of,
)
from sentei.network.zeroing import zero_columns, zero_entries
from sentei.network.zeros import path_around


@checked
@dataclass(frozen=True, eq=False)
class Mask:
    """Which units and synapses of a network are alive: the only state that pruning keeps.

    `Mask.full(groups)` builds a mask; `without` and `with_` return changed copies. Two masks are
    equal if the same members are dead in both: a group without dead members makes no difference.
    """

    _alive: Mapping[Group, Tensor]

    @classmethod
    def full(cls, groups: Iterable[Group]) -> Mask:
        """Return the mask in which all members of the groups are alive.

        Raises:
            GroupError: two groups have the same kind and name, or hold the same row or column.
        """
        groups = list(groups)
        named(groups)
        refuse_shared_positions(groups)
        return cls({group: torch.ones(group.size, dtype=torch.bool) for group in groups})

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order they were given."""
        return tuple(self._alive)

    def alive(self, group: Group) -> Tensor:
        """Return which members of a group are alive, (size,) bool; a copy.

        Raises:
            GroupError: the mask does not hold the group.
        """
        return self._of(group).alive.clone()

    def dead(self, group: Group) -> Tensor:
        """Return the positions of a group's dead members, int64, ascending."""
        return self._of(group).dead

    def count(self, group: Group) -> int:
        """Return how many members of a group are alive."""
        return self._of(group).count

    def without(self, doomed: Mapping[Any, Tensor | Sequence[int]]) -> Mask:
        """Return a mask in which the members at these positions of each group are dead too."""
        return self._changed(doomed, alive=False)

    def with_(self, regrown: Mapping[Any, Tensor | Sequence[int]]) -> Mask:
        """Return a mask in which the members at these positions of each group are alive again."""
        return self._changed(regrown, alive=True)

    def with_alive(self, alive: Mapping[Group, Tensor]) -> Mask:
        """Return a mask in which these members of these groups are alive: (size,) bool, not copied.

        The groups must be the mask's own.
        """
        return self._with([Members(self._of(g).group, members) for g, members in alive.items()])

    def joined(self, other: Mask) -> Mask:
        """Return a mask in which every member that is dead in either mask is dead.

        It holds the groups of this mask, and those of the other that have dead members.

        Raises:
            GroupError: two groups of the joined mask hold the same row or column.
        """
        with_dead = [group for group in other.groups if other.dead(group).numel()]
        others = [group for group in with_dead if group not in self._alive]
        alive = {**self._alive, **Mask.full(others)._alive}
        refuse_shared_positions(alive)
        return Mask(alive).without({group: other.dead(group) for group in with_dead})

    def _changed(self, members: Mapping[Any, Tensor | Sequence[int]], *, alive: bool) -> Mask:
        changed = []
        for group, given in members.items():
            own = self._of(group)
            positions = positions_in(own.group, given)
            changed.append(Members(own.group, own.alive.index_fill(0, positions, alive)))
        return self._with(changed)

    def _with(self, changed: Sequence[Members]) -> Mask:
        """Return a mask with these members of these groups.

        What was counted of other groups, and of weights of which these have no entries, is kept:
        after a small cut in a large network little is counted again.
        """
        mask = Mask._holding(
            [*{**self._members, **{each.group: each for each in changed}}.values()]
        )
        touched = set[str]().union(*(each.parameters for each in changed))
        mask._left.update((name, left) for name, left in self._left.items() if name not in touched)
        return mask

    @classmethod
    def _holding(cls, members: Iterable[Members]) -> Mask:
        """Return the mask with these members, which it shares."""
        found = {each.group: each for each in members}
        mask = cls({group: each.alive for group, each in found.items()})
        mask._members.update(found)
        return mask

    @cached_property
    def _members(self) -> dict[Group, Members]:
        return {group: Members(group, alive) for group, alive in self._alive.items()}

    @cached_property
    def _left(self) -> dict[str, AliveWeights]:
        """What `weights_left` returned, by parameter."""
        return {}

    def died_since(self, before: Mask) -> dict[Group, Tensor]:
        """Return the positions that are dead in this mask and alive in `before`.

        A group that one of the masks does not hold counts as alive there.

        Returns:
            Ascending int64 positions, for each group that has any.
        """
        died = {}
        for group, alive in self._alive.items():
            was_alive = before._alive.get(group, torch.ones_like(alive))
            positions = positions_where(was_alive & ~alive)
            if positions.numel():
                died[group] = positions
        return died

    def _of(self, group: Group) -> Members:
        """Return the members of the mask's own group: an equal group may hold other indices."""
        if group in self._members:
            return self._members[group]
        held = ", ".join(f"{g.kind} {g.name!r} ({g.size})" for g in self._alive) or "none"
        raise GroupError(
            f"the mask does not hold {group.kind} group {group.name!r} of size {group.size}; "
            f"it holds {held}. Take groups from find_units or find_synapses of this model."
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        own, others = self._dead_sets(), other._dead_sets()
        return own.keys() == others.keys() and all(torch.equal(own[g], others[g]) for g in own)

    def __hash__(self) -> int:
        return hash(frozenset((g, tuple(d.tolist())) for g, d in self._dead_sets().items()))

    def _dead_sets(self) -> dict[Group, Tensor]:
        """Return the positions of the dead members of each group that has any."""
        dead = {group: self.dead(group) for group in self._alive}
        return {group: positions for group, positions in dead.items() if positions.numel()}

    def _repr_html_(self) -> str:
        """Return an HTML table of alive counts by group, for notebooks."""
        rows = {f"{g.kind} {g.name}": f"{self.count(g):,} of {g.size:,}" for g in self._alive}
        return html_table("alive", rows)

    def __repr__(self) -> str:
        parts = (f"{g.kind} {g.name!r}: {self.count(g)}/{g.size}" for g in self._alive)
        return f"Mask({', '.join(parts)})"

    # The parameter entries that the mask affects.

    @cached_property
    def unread(self) -> dict[Place, Tensor]:
        """Columns that read dead units, by the listener's parameter and dimension."""
        return self._places(lambda _: ("listeners",))

    @cached_property
    def computing(self) -> dict[Place, Tensor]:
        """Positions that compute or pass on dead units, by parameter and dimension."""
        return self._places(lambda _: ("producers", "followers"))

    @cached_property
    def silent(self) -> dict[Place, Tensor]:
        """Positions that are zero in a masked network, by parameter and dimension.

        These are the columns that read dead units; of a stream, whose norms count its dead units,
        also what computes and passes them on.
        """
        roles = {"stream": ("producers", "followers", "listeners")}
        return self._places(lambda kind: roles.get(kind, ("listeners",)))

    @cached_property
    def gone(self) -> dict[Place, Tensor]:
        """Positions that `shrink` removes, by parameter and dimension."""
        return self._places(lambda _: ("producers", "followers", "listeners"))

    @cached_property
    def silenced(self) -> frozenset[str]:
        """Names of the parameters of dead branches, which are zero as a whole."""
        return frozenset(
            name
            for each in self._members.values()
            for lost in each.lost
            for name in lost.parameters
        )

    @cached_property
    def stand_ins(self) -> dict[str, Any]:
        """What `shrink` puts into the place of modules that dead branches alone need, by path."""
        lost = (branch for each in self._members.values() for branch in each.lost)
        return {path: form for branch in lost for path, form in branch.zeros.items()}

    @cached_property
    def outside_branches(self) -> Mask:
        """The mask in which units that go with a dead branch as a whole are not removed as well."""
        if not self.stand_ins:
            return self
        left = Reindexing({}, frozenset(), self.stand_ins)
        own = (g for g in self._alive if isinstance(g, Neurons) and not left.is_left(g))
        return self._with([Members(g, torch.ones_like(self._alive[g])) for g in own])

    def _places(self, roles: Callable[[str], tuple[str, ...]]) -> dict[Place, Tensor]:
        """Return the positions of dead units in some parts of their groups, sorted, by place.

        Args:
            roles: takes the kind of a group, returns the roles of the parts.
        """
        positions: dict[Place, list[Tensor]] = {}
        for each in self._members.values():
            for role in roles(each.group.kind):
                for place, where in each.gone.get(role, {}).items():
                    positions.setdefault(place, []).append(where)
        return {
            place: found[0] if len(found) == 1 else ascending(*found)
            for place, found in positions.items()
        }

    def living(self, parameter: str, shape: Sequence[int]) -> Tensor:
        """Return which entries of a weight are alive, bool in the weight's shape.

        Entries in the rows and columns of dead units are dead.
        """
        alive = self._between_alive_units(parameter, shape)
        for members in self._synapses(parameter):
            alive &= members.alive.reshape(alive.shape)
        return alive

    def weights(self, parameter: str, shape: Sequence[int]) -> AliveWeights:
        """Return `living` with counts."""
        if self.outlines:
            return self._left.get(parameter) or AliveWeights(tuple(shape))
        return AliveWeights(tuple(shape), (self.living(parameter, shape).flatten(),))

    def ends_alive(self, synapses: Synapses) -> Tensor:
        """Return which synapses, dead or alive, connect units that are alive, (size,) bool."""
        return self._between_alive_units(synapses.parameter, synapses.shape).flatten()

    def _synapses(self, parameter: str) -> list[Members]:
        """Return the groups of synapses that are the entries of a weight."""
        return [
            members
            for group, members in self._members.items()
            if isinstance(group, Synapses) and group.parameter == parameter
        ]

    def _between_alive_units(self, parameter: str, shape: Sequence[int]) -> Tensor:
        alive = torch.full(tuple(shape), parameter not in self.silenced)
        for dim, positions in self._gone_of(parameter, shape).items():
            alive.index_fill_(dim, positions, False)
        return alive

    def _gone_of(self, parameter: str, shape: Sequence[int]) -> dict[int, Tensor]:
        """Return the positions that `shrink` removes from a weight, by dimension."""
        gone = {dim: where for (name, dim), where in self.gone.items() if name == parameter}
        for dim, positions in gone.items():
            if dim >= len(shape) or int(positions.max()) >= shape[dim]:
                raise GroupError(
                    f"{parameter!r} has {int(positions.max()) + 1} or more positions along "
                    f"dimension {dim}; shape={tuple(shape)} has not. Pass its own shape."
                )
        return gone

    def check(self, model: nn.Module) -> None:
        """Raise GroupError if a model does not have the mask's groups.

        Raises:
            GroupError: a parameter of a group is missing or too small; the message names both.
        """
        check_groups(model, self._alive)

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Zero in place columns that read dead units, dead synapses, and dead branches' parameters.

        Raises:
            GroupError: the groups are not the model's; nothing has changed then.
        """
        self.check(model)
        for parameter in self._zeroing:
            self.zero_(parameter, tensor_of(model, parameter))

    @torch.no_grad()
    def hold_(
        self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None
    ) -> None:
        """Zero dead weights again during training: call it after every update.

        Momentum and adaptive optimizers change a zeroed weight again through their buffers. So the
        optimizer's state of dead weights is zeroed too; of several optimizers, that of each.

        Raises:
            GroupError: the groups are not the model's; nothing has changed then.
        """
        if id(model) not in self._fitting:  # checked once: this runs after every update
            self.check(model)
            self._fitting.add(id(model))
        for parameter in self._zeroing:
            weight = tensor_of(model, parameter)
            self.zero_(parameter, weight)
            for state in states_of(optimizer, weight):
                for value in state.values():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        self.zero_(parameter, value)

    @torch.no_grad()
    def zero_(self, parameter: str, like: Tensor) -> None:
        """Zero the dead entries of one parameter in a tensor of its shape, such as its gradient.

        Raises:
            GroupError: the tensor has another shape.
        """
        try:
            for zero_part_ in self._zeroing.get(parameter, ()):
                zero_part_(like)
        except (IndexError, RuntimeError) as error:
            raise GroupError(
                f"a tensor of the shape of {parameter!r} is wanted; this one has shape "
                f"{tuple(like.shape)}: {error}"
            ) from error

    @cached_property
    def _fitting(self) -> set[int]:
        """Ids of the models that have the mask's groups."""
        return set()

    @cached_property
    def _zeroing(self) -> dict[str, list[Callable[[Tensor], object]]]:
        """Functions that zero the dead entries of a tensor in place, by parameter."""
        zeroing: dict[str, list[Callable[[Tensor], object]]] = {}
        for (name, dim), where in self.silent.items():
            zeroing.setdefault(name, []).append(zero_columns(dim, where))
        for name in sorted(self.silenced):
            zeroing.setdefault(name, []).append(Tensor.zero_)
        for group, alive in self._alive.items():
            if isinstance(group, Synapses) and not alive.all():
                zeroing.setdefault(group.parameter, []).append(zero_entries(alive))
        return zeroing

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Names of the parameters in which `apply_` zeroes entries."""
        return tuple(self._zeroing)

    # The network after `shrink`.

    def shrunk(self) -> Mask:
        """Return the mask of the network that `shrink(model, self)` returns.

        All its units are alive, with their new sizes and positions. A dead synapse between two
        alive units stays dead. Groups without an alive unit are left out, as `find_units` would.
        """
        return Mask({left: self._alive_in(own, left) for own, left in self._groups_left()})

    def groups_left(self) -> list[Group]:
        """Return the groups that `shrunk` has, as they are before, in its order."""
        return [group for group, _ in self._groups_left(places=False)]

    def outline(self) -> Mask:
        """Return `shrunk` as counts: its members are on the meta device, without positions."""
        left, members = {}, []
        for own, after in self._groups_left(places=False):
            count = after.size
            if isinstance(own, Synapses) and isinstance(after, Synapses):
                found = left[after.parameter] = self.weights_left(own)
                count = found.count
            nowhere = torch.empty(after.size, dtype=torch.bool, device="meta")
            members.append(Members(after, nowhere, count))
        outline = Mask._holding(members)
        outline._left.update(left)
        return outline

    @property
    def outlines(self) -> bool:
        """Whether this mask is an `outline`, in which no member has a position."""
        return any(members.is_meta for members in self._alive.values())

    def _groups_left(self, *, places: bool = True) -> Iterator[tuple[Group, Group]]:
        """Yield each group of which `shrink` leaves members, before and after it.

        Without `places` the groups of units have names and sizes, and no slices.
        """
        shrinking = Reindexing(self.gone, self.wrapped, self.stand_ins)
        for group, alive in self._alive.items():
            if isinstance(group, Synapses):
                if path_around(group.parameter, self.stand_ins) is None:
                    yield group, shrinking.synapses(group, self.weights_left(group).shape)
            elif not (count := self.count(group)):
                continue
            elif isinstance(group, Branches):
                yield group, shrinking.branches(group, alive)
            elif shrinking.is_left(group):
                bare = shrinking.renamed(group, count)
                yield group, shrinking.with_places(bare, group, alive) if places else bare

    def _alive_in(self, own: Group, left: Group) -> Tensor:
        if isinstance(own, Synapses):
            return self.living_in_shrunk(own).flatten()
        return torch.ones(left.size, dtype=torch.bool)

    def weights_left(self, synapses: Synapses) -> AliveWeights:
        """Return `living` for one layer, without the rows and columns of dead units, as counts."""
        name = synapses.parameter
        if name not in self._left:
            members = [m.alive for m in self._synapses(name) if m.count < m.group.size]
            gone = self._gone_of(name, synapses.shape)
            self._left[name] = AliveWeights(synapses.shape, tuple(members), gone)
        return self._left[name]

    def living_in_shrunk(self, synapses: Synapses) -> Tensor:
        """Return `living` for one layer without the rows and columns of dead units."""
        return torch.from_numpy(self.weights_left(synapses).array().copy())

    def without_kind(self, kind: str) -> Mask:
        """Return the mask with all members of the groups of one kind alive.

        Raises:
            ValueError: an unknown kind, with the nearest known one.
        """
        if kind not in (*KINDS, "synapse", BRANCH):
            raise ValueError(unknown("kind", kind, (*KINDS, "synapse", BRANCH)))
        return self._with(
            [Members(g, torch.ones_like(a)) for g, a in self._alive.items() if g.kind == kind]
        )

    @cached_property
    def touched(self) -> frozenset[str]:
        """Names of the layers that compute, pass on or read a dead unit of a group of units."""
        return frozenset(
            part.layer
            for group in self._alive
            if isinstance(group, Neurons) and self.dead(group).numel()
            for part in (*group.producers, *group.followers, *group.listeners)
        )

    @cached_property
    def wrapped(self) -> frozenset[str]:
        """Names of the layers before which `shrink` inserts a Select that drops dead inputs."""
        return frozenset(
            part.layer
            for group in self._alive
            if isinstance(group, Neurons) and group.kind == "input" and self.dead(group).numel()
            for part in group.listeners
            if not has_select(group, part.layer)
        )
