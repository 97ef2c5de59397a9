"""Decide which groups are offered: those that can be cut, by trying where that is in doubt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from sentei.network.example import Example
from sentei.network.surgery.surgery import Trial
from sentei.network.tracing.grouping import NotOffered
from sentei.network.tracing.inputs import Place
from sentei.network.units import Listener, Neurons

TRIED = 48  # groups; each takes a few passes of the network
ROLES = ("producers", "followers", "listeners")


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
    """Return the groups that can be cut.

    A group that has all rows of its producers is offered. Others are tried: a part of a layer that
    `chunk` or `split` divides can often be cut only together with the other parts, unit by unit.

    Args:
        model: the network.
        found: all groups of its units. Where too many are in doubt, as in a network that shuffles
            its channels, none is tried.
        unread: rows that no layer reads, by place; they go with others if shapes need it.
        example: inputs.
    """
    doubtful = _sharing_producers(model, found)
    if not 0 < sum(map(len, doubtful)) <= TRIED:
        return Offer([*found], {})
    trial = Trial(model, example)
    instead: dict[Neurons, list[Neurons]] = {}
    refused: dict[Neurons, str] = {}
    for parts in doubtful:
        whys = {group: trial.why_not([group]) for group in parts}
        failed = [group for group, why in whys.items() if why is not None]
        for alike in _of_one_size(failed):
            joined = _joined(alike)
            ways = [joined, _completed(joined, unread)]
            fitting = next((way for way in ways if trial.why_not([way]) is None), None)
            if fitting is None:
                refused |= {group: str(whys[group]) for group in alike}
            else:
                instead |= {group: [] for group in alike[1:]} | {alike[0]: [fitting]}
    kept = [g for group in found if group not in refused for g in instead.get(group, [group])]
    return Offer(kept, refused)


def _sharing_producers(model: nn.Module, found: Sequence[Neurons]) -> list[list[Neurons]]:
    """Return the groups that do not have all rows of a producer, those of one producer together."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers()),
    }
    by_place: dict[Place, list[Neurons]] = defaultdict(list)
    for group in found:
        for part in group.producers:
            if part.index.unique().numel() < tensors[part.parameter].shape[part.dim]:
                by_place[part.parameter, part.dim].append(group)
    together: list[list[Neurons]] = []
    for some in by_place.values():
        meeting = [each for each in together if any(group in each for group in some)]
        joined = list(dict.fromkeys([*(g for each in meeting for g in each), *some]))
        together = [*(each for each in together if each not in meeting), joined]
    return together


def _of_one_size(groups: Sequence[Neurons]) -> list[list[Neurons]]:
    by_form: dict[tuple[str, int], list[Neurons]] = defaultdict(list)
    for group in groups:
        by_form[group.kind, group.size].append(group)
    return [*by_form.values()]


def _completed(group: Neurons, unread: Mapping[Place, torch.Tensor]) -> Neurons:
    """Return the group with unread rows of its producers, as many for each unit, in their order."""
    none = torch.empty(0, dtype=torch.int64)
    producers = []
    for part in group.producers:
        rows = unread.get((part.parameter, part.dim), none)
        more = rows if len(rows) % group.size == 0 else none
        index = torch.cat([part.index, more.reshape(-1, group.size).T], 1)
        producers.append(replace(part, index=index))
    return replace(group, producers=tuple(producers))


def _joined(groups: Sequence[Neurons]) -> Neurons:
    """Return one group whose unit number i is unit number i of each of some groups."""
    parts: dict[str, tuple[Listener, ...]] = {}
    for role in ROLES:
        by_place: dict[Place, list[Listener]] = defaultdict(list)
        for group in groups:
            for part in getattr(group, role):
                by_place[part.parameter, part.dim].append(part)
        parts[role] = tuple(
            replace(some[0], index=torch.cat([part.index for part in some], 1))
            for some in by_place.values()
        )
    return replace(groups[0], **parts)
