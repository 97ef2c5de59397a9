"""Second moments of what the columns of layers' weights read, added up over the samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.distributed import sum_across
from sentei.network.calls import Call
from sentei.network.layout import Layout
from sentei.probe.recording.listener_inputs import read_calls
from sentei.probe.recording.recording import Pass, Recording
from sentei.probe.recording.synapse_inputs import (
    columns_read,
    places_read,
    products_read,
    squares_read,
)


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
    zeros = [
        torch.zeros(layout.groups, *[layout.width] * order).double().to(recording.device)
        for layout in layouts.values()
    ]

    def add(block: Pass, parts: list[Tensor]) -> None:
        def of_call(call: Call) -> None:
            sums, count = summed(call, layouts[call.weight])
            parts[place[call.weight]] += sums
            parts[-1][place[call.weight]] += count

        read_calls(recording, block, layouts.keys(), of_call)

    counts = torch.zeros(len(layouts), dtype=torch.float64)
    *totals, counts = _summed(recording, [*zeros, counts], add)
    return {
        name: InputMoments(layout, totals[place[name]] / counts[place[name]])
        for name, layout in layouts.items()
    }


def _summed(
    recording: Recording, totals: list[Tensor], add: Callable[[Pass, list[Tensor]], None]
) -> list[Tensor]:
    """Add up tensors over the blocks of all ranks, in the order of the blocks.

    Args:
        recording: the recording of the network.
        totals: zeros, to which the sums are added.
        add: adds a block's own sums to zeros of the same shapes.
    """
    own_passes = recording.own_passes
    number, block = next(own_passes, (-1, None))
    for i in range(len(recording.starts)):
        parts = [torch.zeros_like(total) for total in totals]
        if i == number and block is not None:  # else another rank has it
            add(block, parts)
            number, block = next(own_passes, (-1, None))
        for total in reversed(totals):
            total.add_(sum_across(parts.pop()[None]))
    return totals


@dataclass(frozen=True, eq=False)
class PairedMoments:
    """Moments of what a layer's columns read in a network, and in another version of it.

    Attributes:
        cross: (groups, columns, columns) float64, mean products of a column before and one after.
        products: (groups, columns, columns) float64, mean products of two columns after.
        before: (groups, columns) float64, means before.
        after: (groups, columns) float64, means after.
    """

    cross: Tensor
    products: Tensor
    before: Tensor
    after: Tensor


def paired_moments(
    before: Recording, after: Recording, weight: str, layout: Layout
) -> PairedMoments:
    """Compute moments of what one weight reads in two versions of a network, in a pass of each.

    Args:
        before: the recording of the one version.
        after: the recording of the other, on the same samples.
        weight: the name under which calls use the weight.
        layout: its layout.
    """
    matrix = torch.zeros(layout.groups, layout.width, layout.width, dtype=torch.float64)
    zeros = [matrix, matrix.clone(), matrix[..., 0].clone(), matrix[..., 0].clone()]
    zeros = [each.to(before.device) for each in zeros]

    def read(recording: Recording, block: Pass) -> list[tuple[Tensor, float]]:
        found: list[tuple[Tensor, float]] = []

        def note(call: Call) -> None:
            rows = columns_read(call, layout)
            found.append((rows, places_read(call, layout, rows)))

        read_calls(recording, block, [weight], note)
        return found

    def add(block: Pass, parts: list[Tensor]) -> None:
        pairs = zip(read(before, block), read(after, Pass(block.samples)), strict=True)
        for (x, places), (y, _) in pairs:
            sums = (x @ y.mT, y @ y.mT, x.sum(2), y.sum(2), places)
            for at, each in enumerate(sums):
                parts[at] += each

    *sums, count = _summed(before, [*zeros, torch.zeros(1, dtype=torch.float64)], add)
    return PairedMoments(*(each / count.to(each.device) for each in sums))


def reading_alike(recording: Recording, layouts: Mapping[str, Layout]) -> list[tuple[str, ...]]:
    """Return the weights in the order of their last calls; those that read one tensor together.

    Args:
        recording: the recording of the network.
        layouts: the layouts of the weights, by the names under which calls use them.
    """
    seen: list[tuple[str, Tensor, int]] = []  # tensors stay, so that no other takes their memory

    def note(call: Call) -> None:
        seen.append((call.weight, call.input, call.input._version))

    if layouts:
        read_calls(recording, recording.check_pass, layouts.keys(), note)
    times, last = Counter(name for name, *_ in seen), {each[0]: at for at, each in enumerate(seen)}
    found: dict[tuple[object, ...], list[str]] = {}
    for name, read, version in (seen[at] for at in sorted(last.values())):
        plain = times[name] == 1 and layouts[name].groups == 1 and len(layouts[name].shape) == 2
        place = (read.data_ptr(), version, read.shape, read.stride()) if plain else (name,)
        found.setdefault(place, []).append(name)
    return [tuple(names) for names in found.values()]
