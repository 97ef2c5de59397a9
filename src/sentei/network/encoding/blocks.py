"""Group the stages of a network into blocks: what one function of a C file computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sentei.errors import StructureError
from sentei.network.encoding.merging import uses
from sentei.network.encoding.stages import (
    Chosen,
    Joined,
    Pointwise,
    Pool,
    Recurrent,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Sum,
    Transposed,
    Weighted,
    size_of,
)


@dataclass(frozen=True)
class Block:
    """What one function of the C file computes: a stage, with element-wise functions and a pool.

    Attributes:
        head: the stage that reads the outputs of other blocks.
        before: element-wise functions before the pool.
        pool: pooling after a convolution, computed channel by channel.
        after: element-wise functions after the pool.
        sources: the blocks that the head reads, by their indices; -1 is the network's input.
    """

    head: Stage
    before: tuple[Pointwise, ...] = ()
    pool: Pool | None = None
    after: tuple[Pointwise, ...] = ()
    sources: tuple[int, ...] = ()

    @property
    def last(self) -> Stage:
        """The last stage of the block."""
        return [self.head, *self.before, *([self.pool] if self.pool else []), *self.after][-1]

    @property
    def out(self) -> int:
        """Number of values that the block outputs."""
        return size_of(self.last.leaving)

    @property
    def plane(self) -> int:
        """Number of values in one output channel of a convolution; 0 for other blocks."""
        head = self.head
        is_convolution = isinstance(head, Weighted) and head.window is not None
        return size_of(head.leaving[1:]) if is_convolution else 0

    @property
    def work(self) -> int:
        """Number of values that the block keeps while it computes, beside what it reads and gives.

        A convolution keeps one channel; a recurrent layer its state and both products of a step.
        """
        if isinstance(self.head, Recurrent):
            states = 2 if self.head.kind == "lstm" else 1
            return states * self.head.units + 2 * self.head.gates
        return self.plane


def blocks_of(stages: Sequence[Stage]) -> list[Block]:
    """Group stages into blocks: each head with the functions and the pool that follow it."""
    used = uses(stages)
    reader = {value: stage for stage in stages for value in stage.reads}
    taken: set[int] = set()

    def following(stage: Stage) -> Stage | None:
        """Return the stage that reads this one's value, if it is the only one."""
        return reader[stage.value] if used[stage.value] == 1 else None

    def functions_after(stage: Stage) -> list[Pointwise]:
        found: list[Pointwise] = []
        while isinstance(after := following([stage, *found][-1]), Pointwise):
            found.append(after)
        return found

    blocks: list[Block] = []
    for stage in stages:
        if stage.value in taken or type(stage) is Stage:  # another shape needs no code
            continue
        block = Block(stage)
        if isinstance(stage, (Weighted, Sum)):
            block = replace(block, before=tuple(functions_after(stage)))
            pool = following(block.last)
            if isinstance(stage, Weighted) and stage.window is not None and isinstance(pool, Pool):
                block = replace(block, pool=pool, after=tuple(functions_after(pool)))
        taken |= {each.value for each in (*block.before, block.pool, *block.after) if each}
        blocks.append(block)
    return _with_sources(blocks, stages)


def _with_sources(blocks: Sequence[Block], stages: Sequence[Stage]) -> list[Block]:
    """Return the blocks with the indices of those that they read."""
    index = {block.last.value: place for place, block in enumerate(blocks)} | {0: -1}
    for stage in stages:
        if type(stage) is Stage:
            index[stage.value] = index[stage.reads[0]]
    return [
        replace(block, sources=tuple(index[value] for value in block.head.reads))
        for block in blocks
    ]


def final(blocks: Sequence[Block]) -> int:
    """Return the index of the block that writes the caller's outputs.

    The blocks after it change these outputs in place.
    """
    index = len(blocks) - 1
    while index > 0 and (
        isinstance(blocks[index].head, (Softmax, Pointwise, Scaled))
        and blocks[index].sources == (index - 1,)
        and not any(index - 1 in block.sources for block in blocks[index + 1 :])
    ):
        index -= 1
    return index


def last_linear(blocks: Sequence[Block]) -> int:
    """Return the index of the last linear layer; -1 if there is none."""
    heads = [block.head for block in blocks]
    return max(
        (n for n, head in enumerate(heads) if isinstance(head, Weighted) and head.window is None),
        default=-1,
    )


def for_integers(blocks: Sequence[Block]) -> list[Block]:
    """Return blocks whose activations can be integers.

    The last linear layer outputs floats; only softmax and element-wise functions may follow it.
    Element-wise functions before it that follow no layer with weights are sums of one value.

    Raises:
        StructureError: a block that integer activations do not support; the layer is named.
    """
    last = last_linear(blocks)
    found = []
    for index, block in enumerate(blocks):
        head = block.head
        if index > last and (last < 0 or not isinstance(head, (Softmax, Pointwise))):
            raise _needs_floats(
                head, "comes after the last linear layer", "a network has to end with one"
            )
        if index < last and not isinstance(head, _INTEGERS):
            raise _needs_floats(
                head,
                "computes with floats",
                "all up to the last linear layer compute with integers",
            )
        if isinstance(head, Standardised) and (
            index or any(-1 in other.sources for other in blocks[1:])
        ):
            raise _needs_floats(
                head, "standardises", "only the first layer may, and it alone reads the inputs"
            )
        if index < last and isinstance(head, Pointwise):
            alone = Sum(head.name, head.entering, head.leaving, reads=head.reads, value=head.value)
            found.append(replace(block, head=alone, before=(head,)))
        else:
            found.append(_with_functions_before_pool(block))
    return found


_INTEGERS = (Weighted, Pool, Chosen, Standardised, Sum, Joined, Transposed, Pointwise)


def _needs_floats(head: Stage, what: str, rule: str) -> StructureError:
    return StructureError(
        f"layer {head.name!r} {what}; with int8 activations {rule}. Use format 'c-int8', whose "
        "activations are floats."
    )


def _with_functions_before_pool(block: Block) -> Block:
    """Move the functions after a max pool to before it, so that they see floats, not int8 values.

    Max pooling and a function that is monotonically increasing can be exchanged.
    """
    if block.pool is None or not block.after:
        return block
    if block.pool.how != "max" or any(point.function in _NOT_MONOTONIC for point in block.after):
        raise StructureError(
            f"layer {block.after[0].name!r} follows pooling; with int8 activations it has to come "
            "before the pooling. Use format 'c-int8', whose activations are floats."
        )
    return replace(block, before=(*block.before, *block.after), after=())


_NOT_MONOTONIC = {"silu", "gelu", "hard_swish"}  # these decrease on part of their range
