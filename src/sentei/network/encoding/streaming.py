"""Plan a network over windows of a signal that computes only what new steps of it change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from sentei.errors import StructureError
from sentei.network.encoding.blocks import Block
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.memory import places
from sentei.network.encoding.plans import Plan
from sentei.network.encoding.sliding import Window
from sentei.network.encoding.stages import (
    Kept,
    Pointwise,
    Pool,
    Scaled,
    Shape,
    Stage,
    Standardised,
    Sum,
    Weighted,
    size_of,
)

AnyStage = TypeVar("AnyStage", bound=Stage)


def streamed(plan: Plan, hop: int) -> tuple[Plan, tuple[int, ...]]:
    """Return the plan of a network that is given `hop` new steps of its window at each call.

    Convolutions compute their new outputs alone, from the inputs that they keep between calls. What
    follows the convolutions is computed from the whole window of their outputs.

    Args:
        plan: of a network over windows, (channels, 1, steps).
        hop: new steps in each call; the window is a multiple of it.

    Returns:
        The plan, and the block of `plan` that each of its blocks computes; -1 for blocks that only
        keep steps.

    Raises:
        StructureError: the network does not begin with convolutions over a signal, one of them
            pads, or the new steps or the window do not divide by its stride; the layer is named.
    """
    steps = plan.blocks[0].head.entering[-1]
    if len(plan.blocks[0].head.entering) != 3 or plan.blocks[0].head.entering[1] != 1:
        raise StructureError(
            "stream= takes a network over windows of a signal, (channels, steps); samples of this "
            f"one have shape {plan.blocks[0].head.entering}"
        )
    if hop < 1 or steps % hop:
        raise StructureError(
            f"a window of {steps} steps is not a multiple of stream={hop} new ones; choose another "
            "number, or another window"
        )
    parts = [part for index, block in enumerate(plan.blocks) for part in _apart(block, index)]
    blocks: list[Block] = []
    origins: list[int] = []
    new, count = hop, 0
    for block, origin in parts:
        if not _is_over_signals(block):
            break
        made, new = _narrow(block, new)
        blocks += made
        origins += [-1] * (len(made) - 1) + [origin]
        count += 1
    if not any(isinstance(block.head, Weighted) for block in blocks):
        raise _refused(plan.blocks[0].head, "is no convolution over a signal")
    rest = parts[count:]
    if rest:
        whole = parts[count - 1][0].last.leaving
        blocks += [_kept(blocks[-1].last.name, (*whole[:2], new), whole[2])]
        blocks += [block for block, _ in rest]
        origins += [-1, *(origin for _, origin in rest)]
    chained = [replace(each, sources=(place - 1,)) for place, each in enumerate(blocks)]
    return _planned(plan, chained, origins), tuple(origins)


def _apart(block: Block, index: int) -> list[tuple[Block, int]]:
    """Return a block with its index; apart from it, -1, a pool over the whole window."""
    if block.sources != (index - 1,):
        raise _refused(block.head, "does not read the layer before it alone")
    pool = block.pool
    if pool is None or block.after or pool.window.kernel[1] < pool.entering[2]:
        return [(block, index)]
    return [(replace(block, pool=None), index), (Block(pool), -1)]


def _planned(plan: Plan, blocks: Sequence[Block], origins: Sequence[int]) -> Plan:
    """Return the plan of other blocks, with the tables of those that they compute."""
    numbers = c_numbers(plan.format)
    kept = sum(size_of(block.head.leaving) for block in blocks if isinstance(block.head, Kept))
    begins, activations = places(blocks)
    work = max(block.work for block in blocks)
    return replace(
        plan,
        blocks=tuple(blocks),
        coding=tuple(() if origin < 0 else plan.coding[origin] for origin in origins),
        constants=tuple(0 if origin < 0 else plan.constants[origin] for origin in origins),
        places=begins,
        activations=activations,
        work=work,
        ram=(activations + kept) * numbers.activation + work * 4,
    )


def _is_over_signals(block: Block) -> bool:
    """Return whether a block computes each step from a few near it, so that new ones suffice."""
    head = block.head
    if len(head.entering) != 3 or head.entering[1] != 1 or len(block.last.leaving) != 3:
        return False
    if isinstance(head, Weighted):
        is_whole = block.pool is not None and block.pool.window.kernel[1] == block.pool.entering[2]
        return head.window is not None and not is_whole
    if isinstance(head, Pool):
        return head.window.kernel[1] < head.entering[2]
    if isinstance(head, Standardised):
        return head.index is None and len(head.mean) == head.entering[0]
    return isinstance(head, (Pointwise, Scaled)) or (isinstance(head, Sum) and len(head.reads) == 1)


def _narrow(block: Block, new: int) -> tuple[list[Block], int]:
    """Return the blocks that compute the new outputs of a block, and how many these are."""
    head, made = block.head, []
    if isinstance(head, Weighted):
        assert head.window is not None
        reach = head.window.dilation[1] * (head.window.kernel[1] - 1) + 1
        given = new
        new = _after(head, head.window, reach, new)
        needed = reach + (new - 1) * head.window.stride[1]
        if needed > given:
            made.append(_kept(head.name, (*head.entering[:2], given), needed))
        head = _sized(head, max(needed, given), new)
    elif isinstance(head, Pool):
        given, new = new, _pooled(head, new)
        head = _sized(head, given, new)
    else:
        head = _sized(head, new, new)
    before = tuple(_sized(point, new, new) for point in block.before)
    pool = block.pool
    if pool is not None:
        given, new = new, _pooled(pool, new)
        pool = _sized(pool, given, new)
    after = tuple(_sized(point, new, new) for point in block.after)
    return [*made, Block(head, before, pool, after)], new


def _after(stage: Stage, window: Window, reach: int, new: int) -> int:
    """Return how many outputs of a window new steps have; refuse what new steps would change."""
    steps, step = stage.entering[2], window.stride[1]
    if any(window.padding):
        raise _refused(stage, "pads its input, which new steps would move away from the edge")
    if new % step or (steps - reach) % step:
        raise _refused(
            stage, f"has a stride of {step}, by which {new} new of {steps} steps do not divide"
        )
    if new // step > stage.leaving[2]:
        raise _refused(stage, f"has fewer outputs for {steps} steps than {new} new ones would have")
    return new // step


def _pooled(pool: Pool, new: int) -> int:
    if pool.window.kernel[1] != pool.window.stride[1]:
        raise _refused(pool, "pools windows that overlap, or leaves steps out")
    return _after(pool, pool.window, pool.window.kernel[1], new)


def _sized(stage: AnyStage, entering: int, leaving: int) -> AnyStage:
    return replace(
        stage,
        entering=(*stage.entering[:2], entering),
        leaving=(*stage.leaving[:2], leaving),
    )


def _kept(name: str, entering: Shape, steps: int) -> Block:
    return Block(Kept(name, entering, (*entering[:2], steps)))


def _refused(stage: Stage, why: str) -> StructureError:
    return StructureError(
        f"layer {stage.name!r} {why}; stream= takes a row of convolutions over a signal without "
        "padding, with pooling by whole windows, and what follows them. Leave stream= out to give "
        "whole windows to each call."
    )
