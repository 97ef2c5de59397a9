"""Decide which groups are offered: those that can be cut, by trying where that is in doubt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import torch
from torch import nn

from sentei.network.members import ascending
from sentei.network.surgery.surgery import Trial
from sentei.network.tracing.grouping import NotOffered
from sentei.network.tracing.inputs import Place
from sentei.network.units import Listener, Neurons
from sentei.running import Example

ALONE = 3  # groups, or fewer, are tried one by one at once
SMALL = 2  # units of a group that can lose one number of them only
ROLES = ("producers", "followers", "listeners")
_SINGLE = "they are one unit of a layer whose other units differ from it, and none would remain"


@dataclass(frozen=True)
class Offer:
    """The groups that are offered, and those that were found and cannot be cut.

    Attributes:
        groups: in the order in which they were found.
        refused: the others, with the reason of each.
        left_out: rows that are in none of the groups, with the reasons.
    """

    groups: list[Neurons]
    refused: dict[Neurons, str]
    left_out: list[NotOffered] = field(default_factory=list)


def offer(
    model: nn.Module,
    found: Sequence[Neurons],
    unread: Mapping[Place, torch.Tensor],
    example: Example,
) -> Offer:
    """Return the groups that can be cut, by trying.

    A part of a layer that `chunk` or `split` divides can often be cut only together with the other
    parts, and channels that are joined and shuffled only in equal shares: they are joined then.
    Groups of different layers that only go together are joined last: one number counts their units,
    such as the heads in a configuration that layers share.

    Args:
        model: the network.
        found: all groups of its units.
        unread: rows that no layer reads, by place; they go with others if shapes need it.
        example: inputs.
    """
    if not found:
        return Offer([], {})
    trial = Trial(model, example)
    divided = _Divided(model, found)
    refused = _refused(trial, found, divided)
    instead: dict[Neurons, list[Neurons]] = {}
    for roles in (("producers",), ROLES, ()) if refused else ():
        for together in divided.connected(roles) if roles else _of_one_size(found):
            for union in _unions(together, refused, instead):
                joined = _joined(union)
                ways = (joined, *_completed(joined, unread))
                fitting = next((way for way in ways if trial.why_not([way]) is None), None)
                if fitting is not None:
                    instead |= {group: [] for group in union[1:]} | {union[0]: [fitting]}
                    refused = {g: why for g, why in refused.items() if g not in union}
    kept = [g for group in found if group not in refused for g in instead.get(group, [group])]
    return Offer(kept, refused)


class _Divided:
    """Layers of which groups have a part: which groups share one decides what is tried together.

    Attributes:
        groups: those that lack positions of a layer that computes, passes on or reads them.
        rows: those that lack rows of a layer that computes them.
    """

    def __init__(self, model: nn.Module, found: Sequence[Neurons]):
        self._tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers()),
        }
        self._of = {role: self._in_part(role, found) for role in ROLES}
        every = {g for by_place in self._of.values() for some in by_place.values() for g in some}
        self.groups = [group for group in found if group in every]
        self.rows = {group for some in self._of["producers"].values() for group in some}

    def _in_part(self, role: str, found: Sequence[Neurons]) -> dict[Place, list[Neurons]]:
        """Return the groups that have a part of the positions of each place."""
        by_place: dict[Place, list[Neurons]] = defaultdict(list)
        for group in found:
            for part in getattr(group, role):
                size = self._tensors[part.parameter].shape[part.dim]
                if len(ascending(part.index.flatten())) < size:
                    by_place[part.parameter, part.dim].append(group)
        return by_place

    def connected(self, roles: Sequence[str]) -> list[list[Neurons]]:
        """Return the groups in sets that share layers with these roles, in their order."""
        number = {group: at for at, group in enumerate(self.groups)}
        sets = {at: {at} for at in number.values()}
        for some in (some for role in roles for some in self._of[role].values()):
            joined = set().union(*(sets[number[group]] for group in some))
            sets |= dict.fromkeys(joined, joined)
        every = {min(joined): joined for joined in sets.values()}
        return [[self.groups[at] for at in sorted(joined)] for joined in every.values()]


def _refused(trial: Trial, found: Sequence[Neurons], divided: _Divided) -> dict[Neurons, str]:
    """Return the groups that cannot be cut, with the reasons.

    All are cut at once in one trial, each by another number of units. Where that fails, those of
    one form are, then one half of them and the other. Groups of two units can only lose one, and
    are tried alone where they may depend on others.
    """
    refused: dict[Neurons, str] = {}

    def search(groups: Sequence[Neurons]) -> None:
        if len(groups) > ALONE:
            if trial.why_not(groups) is not None:
                for some in _apart(groups, divided):
                    search(some)
            return
        for group in groups:
            if (why := trial.why_not([group])) is not None:
                refused[group] = why

    fixed = [group for group in found if group.size <= group.least]
    refused |= {group: _SINGLE for group in fixed if group in divided.rows}
    small = [g for g in divided.groups if g.size <= SMALL and g not in fixed]
    search([group for group in found if group not in fixed and group not in small])
    for group in small:
        search([group])
    return refused


def _apart(groups: Sequence[Neurons], divided: _Divided) -> list[list[Neurons]]:
    """Return groups by their form, or halves of groups of one form."""
    forms: dict[tuple, list[Neurons]] = defaultdict(list)
    for group in groups:
        widths = {part.index.shape[1] for part in group.producers}
        forms[group.kind, group in divided.groups, frozenset(widths)].append(group)
    half = len(groups) // 2
    return [*forms.values()] if len(forms) > 1 else [[*groups[:half]], [*groups[half:]]]


def _unions(
    together: Sequence[Neurons], refused: Mapping[Neurons, str], taken: Mapping[Neurons, object]
) -> Iterator[list[Neurons]]:
    """Yield sets of groups that may be cut unit by unit, where each alone cannot.

    First those of one size, then also those that can be cut alone, then all.

    Args:
        together: groups that share layers.
        refused: groups that cannot be cut alone.
        taken: groups that have been joined to others already; read again at each step.
    """
    bad = [group for group in together if group in refused]
    tried = []
    for some in (*_of_one_size(bad), *_of_one_size(together), bad):
        free = [group for group in some if group not in taken]
        needed = any(group in refused for group in free)
        alike = len({group.kind for group in free}) == 1
        divisible = gcd(*(group.size for group in free)) > 1
        if len(free) > 1 and needed and alike and divisible and free not in tried:
            tried.append(free)
            yield free


def _of_one_size(groups: Sequence[Neurons]) -> list[list[Neurons]]:
    by_form: dict[tuple[str, int], list[Neurons]] = defaultdict(list)
    for group in groups:
        by_form[group.kind, group.size].append(group)
    return [*by_form.values()]


def _completed(group: Neurons, unread: Mapping[Place, torch.Tensor]) -> Iterator[Neurons]:
    """Yield the group with unread rows of its producers, as many for each unit, in their order."""
    none = torch.empty(0, dtype=torch.int64)
    producers = []
    for part in group.producers:
        rows = unread.get((part.parameter, part.dim), none)
        more = rows if len(rows) % group.size == 0 else none
        index = torch.cat([part.index, more.reshape(-1, group.size).T], 1)
        producers.append(replace(part, index=index))
    if tuple(producers) != group.producers:
        yield replace(group, producers=tuple(producers))


def _joined(groups: Sequence[Neurons]) -> Neurons:
    """Return one group whose units have units of each of some groups, equal shares in order."""
    size = gcd(*(group.size for group in groups))
    parts: dict[str, tuple[Listener, ...]] = {}
    for role in ROLES:
        by_place: dict[Place, list[Listener]] = defaultdict(list)
        for group in groups:
            for part in getattr(group, role):
                shares = replace(part, index=part.index.reshape(size, -1))
                by_place[part.parameter, part.dim].append(shares)
        parts[role] = tuple(
            replace(some[0], index=torch.cat([part.index for part in some], 1))
            for some in by_place.values()
        )
    return replace(groups[0], size=size, **parts)
