"""What a network takes as C, planned to the byte: constants in flash, activations in RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sentei.errors import StructureError, unknown
from sentei.network.encoding.coding import Code, smallest
from sentei.network.encoding.stages import Chosen, Pointwise, Pool, Scaled, Softmax, Stage, Weighted


@dataclass(frozen=True)
class Numbers:
    """What a C format keeps its numbers in: bytes of a weight and of an activation."""

    weight: int
    activation: int


# The first word is the weights', the second the activations'.
C_FORMATS = {"c": Numbers(4, 4), "c-int8": Numbers(1, 4), "c-int8-int8": Numbers(1, 1)}


@dataclass(frozen=True)
class Block:
    """What one function of the C file does: a stage, and what is done to its numbers at once.

    Attributes:
        head: the stage that reads what came before.
        before: functions of every number, ahead of the pool.
        pool: of a convolution's channels, each as soon as it is there.
        after: functions of every number, behind the pool.
    """

    head: Stage
    before: tuple[Pointwise, ...] = ()
    pool: Pool | None = None
    after: tuple[Pointwise, ...] = ()

    @property
    def last(self) -> Stage:
        """Its last stage."""
        return [self.head, *self.before, *([self.pool] if self.pool else []), *self.after][-1]

    @property
    def out(self) -> int:
        """Numbers that leave it."""
        return size(self.last.leaving)

    @property
    def plane(self) -> int:
        """Numbers of one channel that it works on at a time; 0 if it does not."""
        head = self.head
        is_convolution = isinstance(head, Weighted) and head.window is not None
        return size(head.leaving[1:]) if is_convolution else 0


@dataclass(frozen=True)
class Plan:
    """A network as C.

    Attributes:
        format: "c", "c-int8" or "c-int8-int8".
        blocks: in order.
        codes: how the weights of each block are listed; None where it has none.
        constants: bytes of every block's constant tables.
        buffers: numbers in each of the two activation buffers.
        flash: bytes of all constants: weights, their places, biases, scales and selections.
        ram: bytes of activation buffers and of the plane that convolutions work in.
    """

    format: str
    blocks: tuple[Block, ...]
    codes: tuple[Code | None, ...]
    constants: tuple[int, ...]
    buffers: tuple[int, int]
    flash: int
    ram: int


def c_plan(stages: Sequence[Stage], format: str) -> Plan:
    """The plan of a network in one of the C formats.

    Raises:
        ValueError: an unknown format.
        StructureError: a stage that the format does not have; the layer is named.
    """
    if format not in C_FORMATS:
        raise ValueError(unknown("C format", format, C_FORMATS))
    numbers = C_FORMATS[format]
    blocks = _blocks(stages)
    if numbers.activation == 1:
        blocks = [_early(block) for block in blocks]
        _check_whole(blocks)
    codes = tuple(
        smallest(block.head.alive.cpu().numpy(), numbers.weight)
        if isinstance(block.head, Weighted)
        else None
        for block in blocks
    )
    constants = tuple(
        _constants(block.head, code, numbers) for block, code in zip(blocks, codes, strict=True)
    )
    inner = [block.out for block in blocks[: final(blocks)]]
    buffers = max(inner[::2], default=0), max(inner[1::2], default=0)
    plane = max(block.plane for block in blocks)
    ram = sum(buffers) * numbers.activation + plane * 4
    return Plan(format, tuple(blocks), codes, constants, buffers, sum(constants), ram)


def final(blocks: Sequence[Block]) -> int:
    """The block that writes to the caller's outputs; those behind it work there, in place."""
    place = len(blocks) - 1
    while place > 0 and isinstance(blocks[place].head, (Softmax, Pointwise, Scaled)):
        place -= 1
    return place


def index_bytes(positions: int) -> int:
    """Bytes of an index into so many positions."""
    return 1 if positions <= 256 else 2 if positions <= 65536 else 4


def size(shape: Sequence[int]) -> int:
    """Numbers in a sample of this shape."""
    total = 1
    for side in shape:
        total *= side
    return total


def _constants(head: Stage, code: Code | None, numbers: Numbers) -> int:
    if isinstance(head, Weighted) and code is not None:
        rows = len(head.weight)
        scales = rows * 4 if numbers.weight == 1 else 0
        return code.bytes + code.weights * numbers.weight + rows * 4 + scales
    if isinstance(head, Scaled):
        return 2 * 4 * head.entering[0]
    if isinstance(head, Chosen):
        return len(head.index) * index_bytes(head.entering[0])
    return 0


def _blocks(stages: Sequence[Stage]) -> list[Block]:
    left = [stage for stage in stages if type(stage) is not Stage]  # flattening moves nothing
    blocks = []
    while left:
        head = left.pop(0)
        before, pool, after = [], None, []
        if isinstance(head, Weighted):
            before = _take_points(left)
            if head.window is not None and left and isinstance(left[0], Pool):
                pool = left.pop(0)
                after = _take_points(left)
        assert pool is None or isinstance(pool, Pool)
        blocks.append(Block(head, tuple(before), pool, tuple(after)))
    return blocks


def _take_points(left: list[Stage]) -> list[Pointwise]:
    taken = []
    while left and isinstance(left[0], Pointwise):
        taken.append(left.pop(0))
    return taken


def _early(block: Block) -> Block:
    """The block with its functions ahead of its pool, where every int8 has one meaning.

    A function that never falls may trade places with a maximum.
    """
    if block.pool is None or not block.after:
        return block
    if block.pool.how != "max" or any(point.function in _FALLING for point in block.after):
        raise StructureError(
            f"layer {block.after[0].name!r} follows pooling; with int8 activations it has to come "
            "before. Use format 'c-int8', whose activations are floats."
        )
    return replace(block, before=(*block.before, *block.after), after=())


_FALLING = {"silu", "gelu", "hard_swish"}  # somewhere


def _check_whole(blocks: Sequence[Block]) -> None:
    """Refuse what has no form in whole numbers: they end with a linear layer, in float."""
    last = max(
        (
            place
            for place, block in enumerate(blocks)
            if isinstance(block.head, Weighted) and block.head.window is None
        ),
        default=-1,
    )
    for place, block in enumerate(blocks):
        if place > last and (last < 0 or not isinstance(block.head, (Softmax, Pointwise))):
            raise StructureError(
                f"layer {block.head.name!r} comes after the last linear layer; with int8 "
                "activations a network ends with one. Use format 'c-int8', whose activations are "
                "floats."
            )
        if place < last and isinstance(block.head, (Scaled, Softmax, Pointwise)):
            raise StructureError(
                f"layer {block.head.name!r} does not follow a layer with weights; with int8 "
                "activations it has to. Use format 'c-int8', whose activations are floats."
            )
