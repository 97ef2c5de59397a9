"""Second moments of what the columns of layers' weights read, added up over the samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.distributed import sum_across
from sentei.network.calls import Call
from sentei.network.layout import Layout
from sentei.probe.recording.listener_inputs import read_calls
from sentei.probe.recording.recording import Recording
from sentei.probe.recording.synapse_inputs import products_read, squares_read


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Means of products of what a layer's columns read, over samples and positions.

    Attributes:
        layout: how the columns lie in the layer's weight.
        means: float64; (groups, columns) mean squares, or (groups, columns, columns) mean products.
    """

    layout: Layout
    means: Tensor


def layouts_of(recording: Recording, weights: Collection[str] | None = None) -> dict[str, Layout]:
    """Return the layout of each weight that has one, by the names under which calls use them.

    A weight has none if other functions use it too, or if its calls read it in several ways. An
    embedding looks rows up: what its weight reads has no size.

    Args:
        recording: the recording of the network.
        weights: which weights; all if None.
    """
    survey = recording.survey
    names = {call.weight for call in survey.calls} - survey.elsewhere
    names &= names if weights is None else set(weights)
    found: dict[str, set[Layout | None]] = {}

    def note(call: Call) -> None:
        found.setdefault(call.weight, set()).add(Layout.of(call))

    if names:
        read_calls(recording, recording.check_pass, names, note)
    alone = {name: each.pop() for name, each in found.items() if len(each) == 1}
    return {name: layout for name, layout in alone.items() if layout is not None}


def mean_squares(recording: Recording, layouts: Mapping[str, Layout]) -> dict[str, InputMoments]:
    """Compute the mean square of what each column reads, for all these weights in one pass."""
    return _means(recording, layouts, 1, squares_read)


def mean_products(recording: Recording, weight: str, layout: Layout) -> InputMoments:
    """Compute the mean products of what any two columns of one weight read, in one pass."""
    return _means(recording, {weight: layout}, 2, products_read)[weight]


def _means(
    recording: Recording,
    layouts: Mapping[str, Layout],
    order: int,
    summed: Callable[[Call, Layout], tuple[Tensor, float]],
) -> dict[str, InputMoments]:
    """Add up what `summed` returns for each call of some weights, and divide by the counts.

    Blocks are added in order on any number of ranks, and no activations are kept.

    Args:
        recording: the recording of the network.
        layouts: the layouts of the weights.
        order: how many dimensions of columns the sums have.
        summed: returns sums and the number of places they are over.
    """
    place = {name: i for i, name in enumerate(layouts)}
    totals = {
        name: torch.zeros(layout.groups, *[layout.width] * order).double().to(recording.device)
        for name, layout in layouts.items()
    }
    counts = torch.zeros(len(layouts), dtype=torch.float64)
    own_passes = recording.own_passes
    number, block = next(own_passes, (-1, None))
    for i in range(len(recording.starts)):
        parts = {name: torch.zeros_like(total) for name, total in totals.items()}
        seen = torch.zeros_like(counts)

        def add(call: Call, parts: dict[str, Tensor] = parts, seen: Tensor = seen) -> None:
            sums, count = summed(call, layouts[call.weight])
            parts[call.weight] += sums
            seen[place[call.weight]] += count

        if i == number and block is not None:  # else another rank has it
            read_calls(recording, block, layouts.keys(), add)
            number, block = next(own_passes, (-1, None))
        for name, total in totals.items():
            total.add_(sum_across(parts.pop(name)[None]))
        counts += sum_across(seen[None])
    return {
        name: InputMoments(layouts[name], total / counts[place[name]])
        for name, total in totals.items()
    }
