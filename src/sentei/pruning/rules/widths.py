"""Which widths groups may have: how much stays of each, multiples of a count, equal widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.errors import GroupError, ScheduleError
from sentei.network.mask import Mask
from sentei.network.picking import matches, pick
from sentei.network.units import Group, Neurons
from sentei.pruning.rules.schedules import Amount, amount


@dataclass(frozen=True)
class Widths:
    """The widths that the groups of a ranking may have; see `ranked` for what each means.

    Raises:
        ScheduleError: a share, a smallest width or a number that is none.
    """

    keep: Mapping[str, Amount]
    at_least: int
    multiples_of: int
    alike: tuple[str, ...]

    def __post_init__(self) -> None:
        for share in self.keep.values():
            amount(share, 100)
        if self.at_least < 0:
            raise ScheduleError(f"at_least= is a count of 0 or more; got {self.at_least}")
        if self.multiples_of < 1:
            raise ScheduleError(
                f"widths are multiples of a count, 1 or more; got multiples_of={self.multiples_of}"
            )

    @property
    def in_batches(self) -> bool:
        """Whether units go in batches: not every width is allowed."""
        return self.multiples_of > 1 or bool(self.alike)

    def check(self, groups: Sequence[Group], starts: Mapping[Group, int]) -> None:
        """Check that patterns match, and that what they ask of the groups can be.

        Args:
            groups: the groups that may be cut.
            starts: members of each group at the start; a missing group started with its size.

        Raises:
            GroupError: a pattern that matches no group; groups that shall be alike and are not; or
                a group that shall keep more than it has.
        """
        for pattern, share in self.keep.items():
            for group in pick(groups, [pattern]):
                if amount(share, start := starts.get(group, group.size)) > start:
                    raise GroupError(
                        f"keep={{{pattern!r}: {share!r}}}: {group.name!r} has only {start} "
                        "members; keep fewer, or a percentage"
                    )
        together: dict[Group, str] = {}
        for pattern in self.alike:
            first, *others = pick(groups, [pattern])
            for group in (first, *others):
                if group in together:
                    raise GroupError(
                        f"{group.name!r} matches two patterns of alike=: {together[group]!r} and "
                        f"{pattern!r}. Join them to one, or leave the group out of one."
                    )
                together[group] = pattern
                a, b = (starts.get(each, each.size) for each in (first, group))
                # A mask may begin with fewer members in one, and a sweep may leave fewer.
                if a != b and first.size != group.size:
                    raise GroupError(
                        f"groups that stay alike begin alike; {first.name!r} has {a} members and "
                        f"{group.name!r} has {b}. Use a pattern for each width."
                    )

    def sets(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Return the groups in sets that keep the same width, each at its first group's place."""
        found: dict[object, list[Group]] = {}
        for group in groups:
            found.setdefault(self._set_of(group), []).append(group)
        return list(found.values())

    def floors(self, groups: Sequence[Group], starts: Mapping[Group, int]) -> dict[Group, int]:
        """Return how many members each group keeps at least."""
        return {g: self._floor(g, starts.get(g, g.size)) for g in groups}

    def lowest(
        self,
        judged: Mapping[Group, Tensor],
        mask: Mask,
        scope: Sequence[Group],
        floors: Mapping[Group, int],
        now: int,
        in_all: int | None,
    ) -> tuple[dict[Group, Tensor], bool]:
        """Choose the batches with the lowest mean score that the schedule has room for.

        Args:
            judged: (size,) scores of each group.
            mask: what is alive.
            scope: the groups that are ranked together.
            floors: how many members each keeps at least.
            now: how many members the schedule removes in this step.
            in_all: how many it removes from now to its end; None if it counts down from what
                remains, and never ends. Then at least one batch goes.

        Returns:
            Positions for each group that loses any, and whether a batch waits for a later step.
        """
        batches = [
            (mean, place, batch)
            for place, each in enumerate(self.sets(scope))
            for mean, batch in self._batches(judged, mask, each, floors)
        ]
        batches.sort(key=lambda found: found[0])
        doomed: dict[Group, list[Tensor]] = {}
        over: set[int] = set()  # sets whose next batch is larger than all that is to go
        for _, place, batch in batches:
            size = sum(map(len, batch.values()))
            if place in over:
                continue
            if in_all is not None and size > in_all:
                over.add(place)
                continue
            if size > now and (in_all is not None or doomed):
                return _joined(doomed), in_all is not None
            now -= size
            in_all = None if in_all is None else in_all - size
            for group, members in batch.items():
                doomed.setdefault(group, []).append(members)
            if now <= 0:
                break
        return _joined(doomed), False

    def _batches(
        self,
        judged: Mapping[Group, Tensor],
        mask: Mask,
        each: Sequence[Group],
        floors: Mapping[Group, int],
    ) -> Iterator[tuple[float, dict[Group, Tensor]]]:
        """Yield the batches of one set in their order, with mean scores that do not fall."""
        places = {g: mask.alive(g).nonzero().flatten() for g in each}
        order = {g: at[judged[g][at].argsort(stable=True)] for g, at in places.items()}
        step = self.multiples_of
        least = max(floors[group] for group in each)
        least = -(-max(least, step if step > 1 else 0) // step) * step
        counts = {group: len(at) for group, at in order.items()}
        width = min(counts.values()) // step * step
        highest = -torch.inf
        while width >= least:
            batch = {g: order[g][len(order[g]) - counts[g] : len(order[g]) - width] for g in each}
            batch = {group: members for group, members in batch.items() if len(members)}
            if batch:
                scores = torch.cat([judged[group][members] for group, members in batch.items()])
                highest = max(highest, float(scores.double().mean()))
                yield highest, batch
            counts = dict.fromkeys(each, width)
            width -= step

    def _floor(self, group: Group, start: int) -> int:
        shares = [amount(s, start, up=True) for p, s in self.keep.items() if matches(group, p)]
        least = group.least if isinstance(group, Neurons) else 0
        return max(least, self.at_least, *shares, 0)

    def _set_of(self, group: Group) -> object:
        return next((pattern for pattern in self.alike if matches(group, pattern)), group)


def _joined(parts: Mapping[Group, Sequence[Tensor]]) -> dict[Group, Tensor]:
    return {group: torch.cat(list(each)).sort().values for group, each in parts.items()}
