"""Choose the steps whose weights a page stores, and pack them within a limited size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.copying import copied
from sentei.network.mask import Mask
from sentei.network.units import Neurons
from sentei.reporting.page.base64_arrays import Packed, length, packed
from sentei.reporting.page.operations import Operation, operations
from sentei.reporting.page.story import Story

ROOM = 1_650_000  # characters of base64 that all weights may take


@dataclass(frozen=True)
class Frames:
    """Weights of chosen steps; other steps use the last frame before them, with their own mask.

    Attributes:
        packed: for each frame, the arrays of each operation.
        frame_of: for each step, the index of its frame.
        exact: for each step, whether its frame with its mask applied equals its network.
        dtypes: number type of each frame: "f4", or "f2" if "f4" is too large.
        notes: sentences on what was left out.
        has_start: whether the unpruned network is among the frames.
    """

    packed: list[dict[int, dict[str, Packed]]]
    frame_of: list[int]
    exact: list[bool]
    dtypes: list[str]
    notes: tuple[str, ...]
    has_start: bool = False


def frames(story: Story) -> Frames:
    """Choose the steps whose weights the page stores, and pack them until the space is used up.

    The unpruned network has priority; then come the last step and others, spread evenly. If the
    unpruned network is too large as float32, the last step comes first, and the unpruned network is
    stored as float16 if that fits.

    Raises:
        StructureError: a page cannot run the network.
    """
    needed, start = _needed(story), _masked(story, 0)
    chosen: dict[int, tuple[str, dict[int, dict[str, Packed]]]] = {}
    room, notes = ROOM, []
    whole = pack(operations(start), "f4")
    if length(whole) <= room:
        chosen[0] = "f4", whole
        room -= length(whole)
        wanted = [number for number in reversed(needed) if number]
    else:
        last = len(story.records) - 1
        wanted = [last] if last else []
    for number in _evenly(wanted):
        step = pack(operations(_masked(story, number)), "f4")
        if length(step) <= room:
            chosen[number] = "f4", step
            room -= length(step)
    if 0 not in chosen:
        half = pack(operations(start), "f2")
        if length(half) <= room:
            chosen[0] = "f2", half
            error = _rounding_error(story, start)
            notes.append(
                "The untouched network is stored in half precision, to keep the page small; its "
                f"outputs differ by {error:.1e} at most on the samples here."
            )
    if not chosen:
        size = length(whole) / 1e6
        notes.append(
            f"The network is too large for the page ({size:.1f} MB; there is room for "
            f"{ROOM / 1e6:.1f} MB), so it is not drawn and cannot be run here."
        )
        return Frames([], [], [], [], tuple(notes))
    return _frames(story, needed, chosen, notes)


def _frames(story: Story, needed: list[int], chosen: dict[int, Any], notes: list[str]) -> Frames:
    """Assign a frame to each step, and note which steps are not exact."""
    numbers = sorted(chosen)
    frame_of, exact = [], []
    for number in range(len(story.records)):
        frame = max((n for n in numbers if n <= number), default=numbers[0])
        own = max((n for n in needed if n <= number), default=0)
        frame_of.append(numbers.index(frame))
        exact.append(frame <= number and frame >= own and chosen[frame][0] == "f4")
    if not all(exact):
        notes.append(
            f"Weights are stored for {len(numbers)} of {len(story.records)} steps; other steps "
            "show the weights of an earlier step, without what has died since."
        )
    parts = [chosen[number][1] for number in numbers]
    dtypes = [chosen[number][0] for number in numbers]
    if 0 not in chosen:
        notes.append("There is no room for the untouched network, so it cannot be run here.")
    return Frames(parts, frame_of, exact, dtypes, tuple(notes), 0 in chosen)


def pack(row: list[Operation], dtype: str) -> dict[int, dict[str, Packed]]:
    """Pack the arrays of each operation that has any, by the operation's position."""
    return {
        position: {
            name: packed(tensor, "f4" if each.kind == "standardise" else dtype)  # 65,504 is small
            for name, tensor in each.tensors.items()
        }
        for position, each in enumerate(row)
        if each.tensors
    }


def _needed(story: Story) -> list[int]:
    """Return the steps whose weights changed other than by masking."""
    needed, last = [0], _masked(story, 0)
    for record in story.records[1:]:
        if not record.moved and needed == [0]:
            continue  # the untouched network under the step's mask; nothing has to be read
        network = _masked(story, record.number)
        if not _same(network, silence_(copied(last), record.mask)):
            needed.append(record.number)
            last = network
    return needed


def _masked(story: Story, number: int) -> nn.Module:
    """Return a step's network with all dead members zeroed; see `silence_`."""
    return silence_(story.network(number), story.records[number].mask)


@torch.no_grad()
def silence_(network: nn.Module, mask: Mask) -> nn.Module:
    """Zero, in place, the weights that read and that compute dead units; outputs stay the same."""
    mask.apply_(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for group in mask.groups:
        dead = mask.dead(group)
        if isinstance(group, Neurons) and dead.numel():
            for part in (*group.producers, *group.followers):
                tensor = tensors[part.parameter]
                if tensor.is_floating_point():
                    tensor.index_fill_(part.dim, part.index[dead].flatten(), 0)
    return network


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _evenly(numbers: list[int]) -> list[int]:
    """Order numbers so that every prefix is spread over all of them, the first one first."""
    order, gap = [], max(len(numbers), 1)
    while gap >= 1:
        order += [n for n in numbers[::gap] if n not in order]
        gap //= 2
    return order


def _rounding_error(story: Story, network: nn.Module) -> float:
    """Measure how much half precision of the weights changes the outputs, at most."""
    if story.samples is None:
        return float("nan")
    inputs = story.samples.inputs[:100]
    rough = copied(network)
    for parameter in rough.parameters():
        parameter.data = parameter.data.half().float()
    with torch.no_grad():
        outputs: list[Tensor] = [each.eval()(inputs) for each in (network, rough)]
    return float((outputs[0] - outputs[1]).abs().max())
