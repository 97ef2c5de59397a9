"""Plan a network as C code: exact bytes of constants in flash and of activations in RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sentei.errors import StructureError
from sentei.network.encoding.coding import CODES, Code, smallest
from sentei.network.encoding.format import Numbers, c_numbers
from sentei.network.encoding.stages import (
    Chosen,
    Pointwise,
    Pool,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Weighted,
    folded,
)

CURVE = 257  # entries of the table of a function of integers


@dataclass(frozen=True)
class Block:
    """What one function of the C file computes: a stage, with element-wise functions and a pool.

    Attributes:
        head: the stage that reads the output of the previous block.
        before: element-wise functions before the pool.
        pool: pooling after a convolution, computed channel by channel.
        after: element-wise functions after the pool.
    """

    head: Stage
    before: tuple[Pointwise, ...] = ()
    pool: Pool | None = None
    after: tuple[Pointwise, ...] = ()

    @property
    def last(self) -> Stage:
        """The last stage of the block."""
        return [self.head, *self.before, *([self.pool] if self.pool else []), *self.after][-1]

    @property
    def out(self) -> int:
        """Number of values that the block outputs."""
        return size(self.last.leaving)

    @property
    def plane(self) -> int:
        """Number of values in one output channel of a convolution; 0 for other blocks."""
        head = self.head
        is_convolution = isinstance(head, Weighted) and head.window is not None
        return size(head.leaving[1:]) if is_convolution else 0


@dataclass(frozen=True)
class Plan:
    """The layout of a network as C code.

    Attributes:
        format: a C format, such as "c-int8".
        blocks: in the order in which they are computed.
        coding: the name of the code that lists the weights of each block, such as "bitmap"; None
            for blocks without weights.
        constants: bytes of the constant tables of each block.
        buffers: number of values in each of the two activation buffers.
        flash: bytes of all constants: weights, their positions, biases, scales and selections.
        ram: bytes of the activation buffers and of the plane, the buffer for one channel of a
            convolution.
    """

    format: str
    blocks: tuple[Block, ...]
    coding: tuple[str | None, ...]
    constants: tuple[int, ...]
    buffers: tuple[int, int]
    flash: int
    ram: int

    @cached_property
    def codes(self) -> tuple[Code | None, ...]:
        """How the weights of each block are listed; None for blocks without weights."""
        return tuple(map(_code, self.blocks, self.coding))


def c_plan(stages: Sequence[Stage], format: str) -> Plan:
    """Return the plan of a network in one of the C formats.

    Raises:
        ValueError: an unknown format.
        StructureError: a stage that the format does not support; the layer is named.
    """
    numbers = c_numbers(format)
    # Deviations in int8 weights would leave columns of large inputs no digits: they stay apart.
    blocks = _blocks(folded(stages) if numbers.weight == 4 else stages)
    if numbers.activation < 4:
        blocks = [_move_functions_before_pool(block) for block in blocks]
        _check_int8(blocks)
    listed = [_listed(block.head, numbers) for block in blocks]
    coding, constants = zip(*listed, strict=True)
    if numbers.activation < 4:
        curves = _curves(blocks)
        constants = [
            n + CURVE * numbers.activation * c for n, c in zip(constants, curves, strict=True)
        ]
    inner = [block.out for block in blocks[: final(blocks)]]
    buffers = max(inner[::2], default=0), max(inner[1::2], default=0)
    plane = max(block.plane for block in blocks)
    ram = sum(buffers) * numbers.activation + plane * 4
    return Plan(format, tuple(blocks), coding, tuple(constants), buffers, sum(constants), ram)


def is_curve(points: Sequence[Pointwise]) -> bool:
    """Return whether integer activations need a table for these functions: not only limits."""
    return any(point.function not in ("relu", "clip") for point in points)


def _curves(blocks: Sequence[Block]) -> list[bool]:
    """Return which blocks have a table; functions after the last linear layer take floats."""
    weighted = [n for n, block in enumerate(blocks) if isinstance(block.head, Weighted)]
    return [n != weighted[-1] and is_curve(block.before) for n, block in enumerate(blocks)]


def final(blocks: Sequence[Block]) -> int:
    """Return the index of the block that writes the caller's outputs.

    The blocks after it change these outputs in place.
    """
    index = len(blocks) - 1
    while index > 0 and isinstance(blocks[index].head, (Softmax, Pointwise, Scaled)):
        index -= 1
    return index


def index_bytes(positions: int) -> int:
    """Return the bytes of an integer that can index this many positions."""
    return 1 if positions <= 256 else 2 if positions <= 65536 else 4


def size(shape: Sequence[int]) -> int:
    """Return the number of values in a sample of this shape."""
    total = 1
    for side in shape:
        total *= side
    return total


def _code(block: Block, name: str | None) -> Code | None:
    head = block.head
    return CODES[name].encode(head.alive.matrix()) if name and isinstance(head, Weighted) else None


def _listed(head: Stage, numbers: Numbers) -> tuple[str | None, int]:
    """Return the name of the code that lists a block's weights, and the bytes of its constants."""
    if not isinstance(head, Weighted):
        return None, _constants(head)
    name, listed = smallest(head.alive, numbers.weight)
    each_row = 4 if numbers.weight == 4 else 4 + 4  # a bias, and a scale of int8 weights
    return name, listed + each_row * len(head.weight)


def _constants(head: Stage) -> int:
    """Return the bytes of the constant tables of a block without weights."""
    if isinstance(head, Scaled):
        return 2 * 4 * head.entering[0]
    if isinstance(head, Chosen):
        return len(head.index) * index_bytes(head.entering[0])
    if isinstance(head, Standardised):
        chosen = 0 if head.index is None else len(head.index) * index_bytes(head.entering[0])
        return 2 * 4 * len(head.mean) + chosen
    return 0


def _blocks(stages: Sequence[Stage]) -> list[Block]:
    """Group stages into blocks: each head with the functions and the pool that follow it."""
    remaining = [stage for stage in stages if type(stage) is not Stage]  # flattening needs no code
    blocks = []
    while remaining:
        head = remaining.pop(0)
        before, pool, after = [], None, []
        if isinstance(head, Weighted):
            before = _take_pointwise(remaining)
            if head.window is not None and remaining and isinstance(remaining[0], Pool):
                pool = remaining.pop(0)
                after = _take_pointwise(remaining)
        assert pool is None or isinstance(pool, Pool)
        blocks.append(Block(head, tuple(before), pool, tuple(after)))
    return blocks


def _take_pointwise(remaining: list[Stage]) -> list[Pointwise]:
    """Remove and return the element-wise stages at the start of the list."""
    taken = []
    while remaining and isinstance(remaining[0], Pointwise):
        taken.append(remaining.pop(0))
    return taken


def _move_functions_before_pool(block: Block) -> Block:
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


def _check_int8(blocks: Sequence[Block]) -> None:
    """Raise StructureError for a block that int8 activations do not support.

    The last linear layer outputs floats; only softmax and element-wise functions may follow it.
    Before it, a function or a scale has to follow a layer with weights; only the first block may
    standardise, because only it reads floats.
    """
    last = max(
        (
            index
            for index, block in enumerate(blocks)
            if isinstance(block.head, Weighted) and block.head.window is None
        ),
        default=-1,
    )
    for index, block in enumerate(blocks):
        if index > last and (last < 0 or not isinstance(block.head, (Softmax, Pointwise))):
            raise StructureError(
                f"layer {block.head.name!r} comes after the last linear layer; with int8 "
                "activations a network has to end with one. Use format 'c-int8', whose activations "
                "are floats."
            )
        is_late = index > 0 and isinstance(block.head, Standardised)
        if index < last and (isinstance(block.head, (Scaled, Softmax, Pointwise)) or is_late):
            raise StructureError(
                f"layer {block.head.name!r} does not follow a layer with weights; with int8 "
                "activations it has to. Use format 'c-int8', whose activations are floats."
            )
