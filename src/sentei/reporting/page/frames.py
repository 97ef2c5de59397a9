"""The weights of a run's steps, as few of them as a page can carry and still be exact."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.mask import Mask
from sentei.network.units import Neurons
from sentei.reporting.page.base64_arrays import Packed, length, packed
from sentei.reporting.page.operations import Operation, operations
from sentei.reporting.page.story import Story

ROOM = 1_650_000  # characters of base64 that weights may take


@dataclass(frozen=True)
class Frames:
    """Weights at chosen steps; between them, a step has those of the last one before it, masked.

    Attributes:
        packed: for each frame, the arrays of each operation.
        frame_of: for each step, its frame.
        exact: for each step, whether that frame with the step's dead taken out is the network.
        dtypes: of each frame: "f4", or "f2" where there was no room.
        said: what was left out, in words.
        has_start: whether the untouched network is there.
    """

    packed: list[dict[int, dict[str, Packed]]]
    frame_of: list[int]
    exact: list[bool]
    dtypes: list[str]
    said: tuple[str, ...]
    has_start: bool = False


def frames(story: Story) -> Frames:
    """Choose and pack: the last step first, the untouched network next, the rest evenly.

    Raises:
        StructureError: a page cannot run the network.
    """
    needed, networks = _needed(story)
    chosen: dict[int, tuple[str, dict[int, dict[str, Packed]]]] = {}
    room, said = ROOM, []
    whole = pack(operations(networks[0]), "f4")
    if length(whole) <= room:
        chosen[0] = "f4", whole
        room -= length(whole)
        wanted = [number for number in reversed(needed) if number]
    else:
        last = len(story.records) - 1
        wanted = [last] if last else []
    for number in _evenly(wanted):
        step = pack(operations(networks.get(number) or _silent(story, number)), "f4")
        if length(step) <= room:
            chosen[number] = "f4", step
            room -= length(step)
    if 0 not in chosen:
        half = pack(operations(networks[0]), "f2")
        if length(half) <= room:
            chosen[0] = "f2", half
            said.append(
                "The untouched network is kept with half precision, to keep the page small; its "
                f"outputs are off by {_off(story, networks[0]):.1e} at most on the samples here."
            )
    if not chosen:
        size = length(whole) / 1e6
        said.append(
            f"The network is too large for the page ({size:.1f} MB; there is room for "
            f"{ROOM / 1e6:.1f} MB), so it is not drawn and cannot be run here."
        )
        return Frames([], [], [], [], tuple(said))
    return _laid_out(story, needed, chosen, said)


def _laid_out(story: Story, needed: list[int], chosen: dict[int, Any], said: list[str]) -> Frames:
    numbers = sorted(chosen)
    frame_of, exact = [], []
    for number in range(len(story.records)):
        held = max((n for n in numbers if n <= number), default=numbers[0])
        own = max((n for n in needed if n <= number), default=0)
        frame_of.append(numbers.index(held))
        exact.append(held <= number and held >= own and chosen[held][0] == "f4")
    if not all(exact):
        said.append(
            f"Weights are kept for {len(numbers)} of {len(story.records)} steps; at others those "
            "of the step before them are shown, without what has died since."
        )
    parts = [chosen[number][1] for number in numbers]
    dtypes = [chosen[number][0] for number in numbers]
    if 0 not in chosen:
        said.append("There is no room for the untouched network, so it does not answer here.")
    return Frames(parts, frame_of, exact, dtypes, tuple(said), 0 in chosen)


def pack(row: list[Operation], dtype: str) -> dict[int, dict[str, Packed]]:
    """The arrays of each operation that has any, by its position."""
    return {
        position: {name: packed(tensor, dtype) for name, tensor in each.tensors.items()}
        for position, each in enumerate(row)
        if each.tensors
    }


def _needed(story: Story) -> tuple[list[int], dict[int, nn.Module]]:
    """Steps whose weights are not those of the last such step, masked; and their networks."""
    needed, held = [0], {0: _silent(story, 0)}
    for record in story.records[1:]:
        network = _silent(story, record.number)
        expected = silence_(copy.deepcopy(held[needed[-1]]), record.mask)
        if not _same(network, expected):
            needed.append(record.number)
            held[record.number] = network
    return needed, held


def _silent(story: Story, number: int) -> nn.Module:
    return silence_(story.network(number), story.records[number].mask)


@torch.no_grad()
def silence_(network: nn.Module, mask: Mask) -> nn.Module:
    """Zero all of the dead in place, what computes them too: the function stays the same."""
    mask.apply_(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for group in mask.groups:
        dead = mask.dead(group)
        if isinstance(group, Neurons) and dead.numel():
            for part in (*group.producers, *group.followers):
                held = tensors[part.parameter]
                if held.is_floating_point():
                    held.index_fill_(part.dim, part.index[dead].flatten(), 0)
    return network


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _evenly(numbers: list[int]) -> list[int]:
    """The first, then halves between, so that any beginning is spread over all."""
    order, gap = [], max(len(numbers), 1)
    while gap >= 1:
        order += [n for n in numbers[::gap] if n not in order]
        gap //= 2
    return order


def _off(story: Story, network: nn.Module) -> float:
    if story.samples is None:
        return float("nan")
    inputs = story.samples.inputs[:100]
    rough = copy.deepcopy(network)
    for parameter in rough.parameters():
        parameter.data = parameter.data.half().float()
    with torch.no_grad():
        outputs: list[Tensor] = [each.eval()(inputs) for each in (network, rough)]
    return float((outputs[0] - outputs[1]).abs().max())
