"""`per_byte`: units and synapses under one budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sentei.criteria import Criterion, criterion, scores
from sentei.errors import ScheduleError, StructureError
from sentei.network.encoding.size import bytes_in
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe, loss_with_mask
from sentei.pruning.rules.limits import check_format
from sentei.pruning.rules.proposals import Cut
from sentei.pruning.rules.schedules import Progress


@dataclass(frozen=True)
class per_byte:  # noqa: N801 - used like a function: per_byte("c-int8")
    """At each step, the batch of units or synapses whose going costs the least loss per byte saved.

    Every group offers its lowest scores, enough to save a share of the present bytes. What a batch
    costs is measured: the loss with all of it removed, against the loss now. What it saves is the
    difference of two whole plans, since a single synapse may save nothing. The scores only order
    the members of a group, so units and synapses may be scored by criteria that do not compare. A
    layer keeps one unit and one synapse.

    Args:
        format: whose bytes, such as "c-int8".
        units: criterion that orders the units of a group.
        synapses: criterion that orders the synapses of a layer.
        share: of the present bytes that a step saves, from 0 to 1.
        stops: sizes in bytes that a step comes down to but does not jump over, so that a budget is
            used up.

    Raises:
        ValueError: an unknown format or criterion.
        ScheduleError: a share outside 0 to 1.
    """

    format: str = "c-int8"
    units: str | Criterion = "magnitude"
    synapses: str | Criterion = "magnitude"
    share: float = 0.05
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_format(self.format)
        criterion(self.units)
        criterion(self.synapses)
        if not 0 < self.share < 1:
            raise ScheduleError(f"a step saves a share between 0 and 1; got {self.share}")

    def __call__(
        self,
        probe: Probe,
        groups: Sequence[Group],
        mask: Mask,
        progress: Progress,  # noqa: ARG002 - the bytes of now decide
    ) -> Cut | None:
        """The cheapest batch; None if nothing that may go saves a byte."""
        now, loss = self.size(probe, mask), probe.loss()
        best: tuple[float, Group, Tensor] | None = None
        judged: dict[Group, Tensor] = {}
        for group in groups:
            asked = self.units if isinstance(group, Neurons) else self.synapses
            judged[group] = scores(asked, probe, group)
            batch, saved = self._batch(probe, mask, group, judged[group], now)
            if saved <= 0:
                continue
            rise = loss_with_mask(probe, mask.without({group: batch})) - loss
            # A rise below zero is a gain however much is saved: then the larger saving is better.
            cost = rise / saved if rise > 0 else rise
            if best is None or cost < best[0]:
                best = cost, group, batch
        if best is None:
            return None
        _, group, batch = best
        return Cut({group: batch.sort().values}, scores=judged)

    def _batch(
        self, probe: Probe, mask: Mask, group: Group, judged: Tensor, now: int
    ) -> tuple[Tensor, int]:
        """The group's lowest members that together save the share, and what they save."""
        order = judged.argsort(stable=True)
        order = order[_there(mask, group)[order]]
        order = order[: max(len(order) - 1, 0)]

        def saved(count: int) -> int:
            return now - self.size(probe, mask.without({group: order[:count]}))

        room = now - max((stop for stop in self.stops if stop < now), default=0)
        asked = min(now * self.share / 2, room)
        count = min(math.ceil(len(order) * self.share), len(order))
        gain = saved(count)
        while gain < asked and count < len(order):
            count = min(count * 2, len(order))
            gain = saved(count)
        if gain > room:
            count = _fewest(saved, room, count)
            gain = saved(count)
        return order[:count], gain

    def size(self, probe: Probe, mask: Mask) -> int:
        """Bytes of the network as it would be shrunk; very many where a layer has nothing left."""
        try:
            return bytes_in(probe.model, mask, self.format, probe.example)
        except StructureError:
            if any(mask.dead(group).numel() for group in mask.groups):
                return 10**12  # nothing is left of a layer: never worth it
            raise


def _fewest(saved: Callable[[int], int], asked: int, most: int) -> int:
    """How many of an order save what is asked for; `most` do."""
    fewer = 0
    while most - fewer > 1:
        middle = (fewer + most) // 2
        fewer, most = (fewer, middle) if saved(middle) >= asked else (middle, most)
    return most


def _there(mask: Mask, group: Group) -> Tensor:
    """(size,) bool: which members are alive; a dead unit's synapses are not."""
    if isinstance(group, Neurons):
        return mask.alive(group)
    return mask.living(group.parameter, group.shape).reshape(-1) & mask.alive(group)
