"""`per_byte`: a proposal that removes units or synapses by the loss they cost per byte saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.criteria import Criterion, criterion, scores
from sentei.errors import ScheduleError, StructureError
from sentei.network.copying import copied
from sentei.network.encoding.format import format_named
from sentei.network.encoding.size import bytes_in, skeleton
from sentei.network.mask import Mask
from sentei.network.members import positions_where
from sentei.network.units import Group, Synapses
from sentei.probe.probe import Probe
from sentei.probe.summaries import loss_of
from sentei.pruning.rules.proposals import Cut, compensated
from sentei.pruning.rules.schedules import Progress
from sentei.running import Example


@checked
@dataclass(frozen=True)
class per_byte:  # noqa: N801 - used like a function: per_byte("c-int8")
    """At each step, remove the batch of units or synapses that costs the least loss per byte saved.

    Every group offers one batch: its members with the lowest scores, enough to save a share of the
    present bytes. The cost of a batch is measured: the loss with the whole batch removed, minus the
    loss now. Its saving is the difference in size between two whole networks, since a single
    synapse may save nothing. Scores are compared within a group only, so that units and synapses
    may have criteria on different scales. A layer keeps at least one unit and one synapse.

    Args:
        format: the format whose bytes are counted, such as "c-int8".
        units: criterion that orders the units of a group.
        synapses: criterion that orders the synapses of a layer. With "obs" the remaining synapses
            make up for the removed ones.
        share: the part of the present bytes that a step saves, approximately; between 0 and 1. A
            batch starts with this part of its group and doubles until it saves half of the share.
        stops: sizes in bytes. A batch that would pass the next lower stop is cut back to the fewest
            members that reach it, so that a budget is used up.

    Raises:
        ValueError: an unknown format or criterion.
        ScheduleError: a share that is not between 0 and 1.
    """

    format: str = "c-int8"
    units: str | Criterion = "magnitude"
    synapses: str | Criterion = "magnitude"
    share: float = 0.05
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        format_named(self.format)  # an unknown one is refused
        criterion(self.units)
        criterion(self.synapses)
        if not 0 < self.share < 1:
            raise ScheduleError(f"a step saves a share between 0 and 1; got {self.share}")

    def __call__(
        self,
        probe: Probe,
        groups: Sequence[Group],
        mask: Mask,
        progress: Progress,  # noqa: ARG002 - the present size decides, not the step
    ) -> Cut | None:
        """Return the batch of the lowest cost per byte; None if no batch saves a byte."""
        bones = skeleton(probe.model)  # one for all plans of a step

        def size(changed: Mask) -> int:
            return self._size(bones, changed, probe.example)

        loss = probe.loss()
        best: tuple[float, Cut] | None = None
        judged: dict[Group, Tensor] = {}
        for group in groups:
            order_by = self.synapses if isinstance(group, Synapses) else self.units
            judged[group] = scores(order_by, probe, group)
            batch, saved = self._batch(size, mask, group, judged[group])
            if saved <= 0:
                continue
            cut = self._cut(probe, mask, group, batch)
            rise = _loss_after(probe, mask, cut) - loss
            # A fall in loss is not divided by the bytes saved: that would favour small savings.
            cost = rise / saved if rise > 0 else rise
            if best is None or cost < best[0]:
                best = cost, cut
        return None if best is None else replace(best[1], scores=judged)

    def _cut(self, probe: Probe, mask: Mask, group: Group, batch: Tensor) -> Cut:
        """Return the cut that removes a batch; with new weights, if the criterion compensates."""
        doomed = {group: batch.sort().values}
        if not isinstance(group, Synapses):
            return Cut(doomed)
        return Cut(doomed, updates=compensated(self.synapses, probe, doomed, mask))

    def _batch(
        self, size: Callable[[Mask], int], mask: Mask, group: Group, judged: Tensor
    ) -> tuple[Tensor, int]:
        """Return the group's lowest-scoring members that save enough bytes, and the bytes saved."""
        now = size(mask)
        batch = torch.empty(0, dtype=torch.int64)

        def saved(count: int) -> int:
            return now - size(mask.without({group: batch[:count]}))

        to_stop = now - max((stop for stop in self.stops if stop < now), default=0)
        target = min(now * self.share / 2, to_stop)
        gain = 0
        for batch in _batches(judged, _alive_members(mask, group), self.share):
            gain = saved(len(batch))
            if gain >= target:
                break
        if gain > to_stop:
            batch = batch[judged[batch].argsort(stable=True)]
            batch = batch[: _fewest(saved, to_stop, len(batch))]
            gain = saved(len(batch))
        return batch, gain

    def size(self, probe: Probe, mask: Mask) -> int:
        """Return the bytes of the network after `shrink`; 10**12 if a layer would be empty."""
        return self._size(probe.model, mask, probe.example)

    def _size(self, model: nn.Module, mask: Mask, example: Example | None) -> int:
        try:
            return bytes_in(model, mask, self.format, example)
        except StructureError:
            if any(mask.count(group) < group.size for group in mask.groups):
                return 10**12  # so large that a cut which empties a layer is never chosen
            raise


def _loss_after(probe: Probe, mask: Mask, cut: Cut) -> float:
    """Return the loss of a copy of the network after a cut."""
    trial = copied(probe.model)
    with torch.no_grad():
        for name, weight in cut.updates.items():
            trial.get_parameter(name).copy_(weight)
    mask.without(cut.doomed).apply_(trial)
    return loss_of(probe, trial)


def _batches(judged: Tensor, alive: Tensor, share: float) -> Iterator[Tensor]:
    """Yield a share of the alive members, then twice as many, and so on: all but one at last.

    They are those of the lowest scores, in no order; of equals the first ones. The highest score of
    each batch is found for all at once: sorting all of a large layer takes ten times as long.
    """
    members = positions_where(alive)
    values, most = judged[members].numpy(), len(members) - 1
    if most < 1:
        return
    counts = [min(math.ceil(most * share), most)]
    while counts[-1] < most:
        counts.append(min(counts[-1] * 2, most))
    ends = numpy.array(counts) - 1
    for count, last in zip(counts, numpy.partition(values, ends)[ends], strict=True):
        below, equal = numpy.flatnonzero(values < last), numpy.flatnonzero(values == last)
        yield members[numpy.concatenate([below, equal[: count - len(below)]])]


def _fewest(saved: Callable[[int], int], target: int, most: int) -> int:
    """Return the smallest count that saves `target` bytes, by bisection; `most` saves enough."""
    fewer = 0
    while most - fewer > 1:
        middle = (fewer + most) // 2
        fewer, most = (fewer, middle) if saved(middle) >= target else (middle, most)
    return most


def _alive_members(mask: Mask, group: Group) -> Tensor:
    """Return (size,) bool: which members are alive; the synapses of a dead unit are dead."""
    if isinstance(group, Synapses):
        return mask.living(group.parameter, group.shape).reshape(-1)
    return mask.alive(group)
