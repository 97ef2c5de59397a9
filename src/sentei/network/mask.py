"""What is left of a network: one immutable value for units and synapses together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.errors import GroupError
from sentei.html_table import html_table
from sentei.network.reindex import Place, Reindexing, has_select, remaining_positions
from sentei.network.units import Group, Listener, Neurons, Synapses, named


@dataclass(frozen=True, eq=False)
class Mask:
    """Which members of which groups are alive; the only state that pruning has.

    Built by `Mask.full(groups)` and changed by making new ones (`without`, `with_`). Two masks are
    equal if the same members are dead: a group that is all alive makes no difference.
    """

    _alive: Mapping[Group, Tensor]

    @classmethod
    def full(cls, groups: Iterable[Group]) -> Mask:
        """The mask in which everything is alive.

        Raises:
            GroupError: two groups have the same kind and name.
        """
        groups = list(groups)
        named(groups)
        return cls({group: torch.ones(group.size, dtype=torch.bool) for group in groups})

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order they were given."""
        return tuple(self._alive)

    def alive(self, group: Group) -> Tensor:
        """(size,) bool: which members are alive; a copy.

        Raises:
            GroupError: the mask does not hold the group.
        """
        return self._alive[self._own(group)].clone()

    def dead(self, group: Group) -> Tensor:
        """Positions of the dead members, int64, ascending."""
        return (~self._alive[self._own(group)]).nonzero().flatten()

    def count(self, group: Group) -> int:
        """How many members are alive."""
        return int(self._alive[self._own(group)].sum())

    def without(self, doomed: Mapping[Any, Tensor | Sequence[int]]) -> Mask:
        """The mask in which the members at these positions are dead as well."""
        return self._changed(doomed, alive=False)

    def with_(self, regrown: Mapping[Any, Tensor | Sequence[int]]) -> Mask:
        """The mask in which the members at these positions are alive again."""
        return self._changed(regrown, alive=True)

    def joined(self, other: Mask) -> Mask:
        """The mask in which what is dead in either is dead, over the groups of both."""
        dying = [group for group in other.groups if other.dead(group).numel()]
        others = [group for group in dying if group not in self._alive]
        alive = {**self._alive, **Mask.full(others)._alive}
        return Mask(alive).without({group: other.dead(group) for group in dying})

    def _changed(self, members: Mapping[Any, Tensor | Sequence[int]], *, alive: bool) -> Mask:
        changed = dict(self._alive)
        for group, given in members.items():
            own, positions = self._own(group), torch.as_tensor(given)
            if not positions.numel():
                continue
            if positions.dtype == torch.bool or positions.is_floating_point():
                raise GroupError(
                    f"members are named by integer positions; {group.name!r} was given "
                    f"{positions.dtype}. Pass bools through .nonzero().flatten()."
                )
            outside = positions[(positions < 0) | (positions >= own.size)]
            if outside.numel():
                raise GroupError(
                    f"positions in {own.kind} group {own.name!r} run from 0 to {own.size - 1}; "
                    f"got {outside.flatten().tolist()[:5]}"
                )
            changed[own] = changed[own].index_fill(0, positions.long().flatten(), alive)
        return Mask(changed)

    def _own(self, group: Group) -> Group:
        """The mask's own copy of the group: it is the one that knows its places."""
        for own in self._alive:
            if own == group:
                return own
        known = ", ".join(f"{g.kind} {g.name!r} ({g.size})" for g in self._alive) or "none"
        raise GroupError(
            f"the mask does not hold {group.kind} group {group.name!r} of size {group.size}; "
            f"it holds {known}. Take groups from find_units or find_synapses of this model."
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        mine, theirs = self._dead_sets(), other._dead_sets()
        return mine.keys() == theirs.keys() and all(torch.equal(mine[g], theirs[g]) for g in mine)

    def __hash__(self) -> int:
        return hash(frozenset((g, tuple(d.tolist())) for g, d in self._dead_sets().items()))

    def _dead_sets(self) -> dict[Group, Tensor]:
        dead = {group: self.dead(group) for group in self._alive}
        return {group: positions for group, positions in dead.items() if positions.numel()}

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        rows = {f"{g.kind} {g.name}": f"{self.count(g):,} of {g.size:,}" for g in self._alive}
        return html_table("alive", rows)

    def __repr__(self) -> str:
        parts = (f"{g.kind} {g.name!r}: {self.count(g)}/{g.size}" for g in self._alive)
        return f"Mask({', '.join(parts)})"

    # What the mask means for parameters.

    @cached_property
    def unread(self) -> dict[Place, Tensor]:
        """Columns nobody listens to any more, by listening parameter and dimension."""
        return self._places("listeners")

    @cached_property
    def gone(self) -> dict[Place, Tensor]:
        """Positions that `shrink` removes, by parameter and dimension."""
        return self._places("producers", "followers", "listeners")

    def _places(self, *roles: str) -> dict[Place, Tensor]:
        positions: dict[Place, list[Tensor]] = {}
        for group in self._alive:
            dead = self.dead(group)
            if isinstance(group, Neurons) and dead.numel():
                for role in roles:
                    for part in getattr(group, role):
                        place = part.parameter, part.dim
                        positions.setdefault(place, []).append(part.index[dead].flatten())
        return {place: torch.cat(found).unique() for place, found in positions.items()}

    def living(self, parameter: str, shape: Sequence[int]) -> Tensor:
        """Which entries of a weight are alive, in its shape; a dead unit's synapses are dead."""
        alive = self._ends(parameter, shape)
        for group, members in self._alive.items():
            if isinstance(group, Synapses) and group.parameter == parameter:
                alive &= members.reshape(alive.shape)
        return alive

    def ends_alive(self, synapses: Synapses) -> Tensor:
        """(size,) bool: which synapses, dead or alive, run between units that are alive."""
        return self._ends(synapses.parameter, synapses.shape).flatten()

    def _ends(self, parameter: str, shape: Sequence[int]) -> Tensor:
        alive = torch.ones(tuple(shape), dtype=torch.bool)
        for (name, dim), positions in self.gone.items():
            if name == parameter:
                alive.index_fill_(dim, positions, False)
        return alive

    def check(self, model: nn.Module) -> None:
        """Refuse a model that does not have the mask's groups.

        Raises:
            GroupError: a parameter is missing or too small, named with the group.
        """
        tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers()),
        }
        for group in self._alive:
            for parameter, fits, want in _demands(group):
                held = tensors.get(parameter)
                if held is None or not fits(held):
                    has = "no such parameter" if held is None else f"shape {tuple(held.shape)}"
                    raise GroupError(
                        f"group {group.name!r} is not this model's: it needs {parameter!r} with "
                        f"{want}, the model has {has}. Find this model's groups with find_units."
                    )

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Silence the dead in place: zero what listens to dead units, and dead synapses.

        Raises:
            GroupError: the groups are not the model's; nothing has changed then.
        """
        self.check(model)
        for parameter in self._zeroing:
            self.zero_(parameter, model.get_parameter(parameter))

    @torch.no_grad()
    def hold_(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Keep the dead silent in training: call after every update.

        Momentum and adaptive optimizers move a zeroed weight again through their buffers, so the
        optimizer's state of dead weights is zeroed as well.
        """
        for parameter in self._zeroing:
            weight = model.get_parameter(parameter)
            self.zero_(parameter, weight)
            state = optimizer.state.get(weight, {}) if optimizer is not None else {}
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    self.zero_(parameter, value)

    @torch.no_grad()
    def zero_(self, parameter: str, like: Tensor) -> None:
        """Zero what is dead of one parameter, in a tensor of its shape such as its gradient."""
        for part_ in self._zeroing.get(parameter, ()):
            part_(like)

    @cached_property
    def _zeroing(self) -> dict[str, list[Callable[[Tensor], object]]]:
        """What zeroes the dead in a tensor like a parameter, for each that has any."""
        zeroing: dict[str, list[Callable[[Tensor], object]]] = {}
        for (name, dim), where in self.unread.items():
            zeroing.setdefault(name, []).append(_columns(dim, where))
        for group, alive in self._alive.items():
            if isinstance(group, Synapses) and not alive.all():
                zeroing.setdefault(group.parameter, []).append(_entries(alive))
        return zeroing

    # What is left once the dead are gone.

    def shrunk(self) -> Mask:
        """The mask of the network that `shrink(model, self)` returns.

        Its units are all alive, under their new sizes and positions; synapses that are dead though
        both their ends are alive stay dead. Emptied groups are left out, as tracing would.
        """
        shrinking = Reindexing(self.gone, self.wrapped)
        return Mask(shrinking.groups_left(self._alive, self.living_in_shrunk))

    def living_in_shrunk(self, synapses: Synapses) -> Tensor:
        """As `living`, for one layer, with the rows and columns of dead units taken out."""
        alive = self.living(synapses.parameter, synapses.shape)
        for (parameter, dim), positions in self.gone.items():
            if parameter == synapses.parameter:
                alive = alive.index_select(dim, remaining_positions(alive.shape[dim], positions))
        return alive

    def without_kind(self, kind: str) -> Mask:
        """The mask with everything of this kind alive."""
        alive = {g: torch.ones_like(a) if g.kind == kind else a for g, a in self._alive.items()}
        return Mask(alive)

    @cached_property
    def touched(self) -> frozenset[str]:
        """Layers that compute, pass on or read a dead unit."""
        return frozenset(
            part.layer
            for group in self._alive
            if isinstance(group, Neurons) and self.dead(group).numel()
            for part in (*group.producers, *group.followers, *group.listeners)
        )

    @cached_property
    def wrapped(self) -> frozenset[str]:
        """Layers that will read removed inputs through a Select put in front of them."""
        return frozenset(
            part.layer
            for group in self._alive
            if isinstance(group, Neurons) and group.kind == "input" and self.dead(group).numel()
            for part in group.listeners
            if not has_select(group, part.layer)
        )


def _columns(dim: int, positions: Tensor) -> Callable[[Tensor], object]:
    return lambda tensor: tensor.index_fill_(dim, positions.to(tensor.device), 0)


_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def _entries(alive: Tensor) -> Callable[[Tensor], object]:
    # Training asks this of every update: masking the bits is many times as fast as filling, and
    # unlike a product with 0 it makes a zero of what is infinite or no number.
    bits: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def zero_(tensor: Tensor) -> None:
        kind = _WHOLE[tensor.element_size()], tensor.device
        if kind not in bits:
            bits[kind] = -alive.to(tensor.device, kind[0])
        tensor.view(kind[0]).bitwise_and_(bits[kind].view(tensor.shape))

    return zero_


def _demands(group: Group) -> list[tuple[str, Any, str]]:
    """What a model must have for a group to be its own: (parameter, test, words)."""
    if isinstance(group, Synapses):
        return [(group.parameter, lambda t: tuple(t.shape) == group.shape, f"shape {group.shape}")]

    def reaches(part: Listener) -> Any:
        top = int(part.index.max()) if part.index.numel() else -1
        return lambda tensor: tensor.ndim > part.dim and tensor.shape[part.dim] > top

    return [
        (
            part.parameter,
            reaches(part),
            f"{part.index.numel()} positions along dimension {part.dim}",
        )
        for part in (*group.producers, *group.followers, *group.listeners)
    ]
