"""Plan a network as C code: exact bytes of constants in flash and of activations in RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sentei.network.alive_weights import AliveWeights
from sentei.network.encoding.blocks import Block, blocks_of, for_integers, last_linear
from sentei.network.encoding.coding import CODES, Code, smallest
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.memory import places
from sentei.network.encoding.merging import folded
from sentei.network.encoding.sliding import Window
from sentei.network.encoding.stages import Chosen, Pointwise, Scaled, Stage, Standardised, Weighted

CURVE = 257  # entries of the table of a function of integers


@dataclass(frozen=True)
class Plan:
    """The layout of a network as C code.

    Attributes:
        format: a C format, such as "c-int8".
        blocks: in the order in which they are computed.
        coding: the name of the code that lists each matrix of weights of each block, such as
            "bitmap"; none for blocks without weights.
        constants: bytes of the constant tables of each block.
        places: where the output of each block begins in the array of activations; the last ones
            are in the caller's array, and have none.
        activations: length of the array of activations.
        work: number of values that a block keeps while it computes: one channel of a convolution,
            the state and the gates of a recurrent layer.
        flash: bytes of all constants: weights, their positions, biases, scales and selections.
        ram: bytes of the array of activations and of what a block keeps.
    """

    format: str
    blocks: tuple[Block, ...]
    coding: tuple[tuple[str, ...], ...]
    constants: tuple[int, ...]
    places: tuple[int, ...]
    activations: int
    work: int
    flash: int
    ram: int

    @cached_property
    def codes(self) -> tuple[tuple[Code, ...], ...]:
        """How the matrices of each block are listed; none for blocks without weights."""
        return tuple(
            tuple(map(_code, block.head.matrices, names))
            for block, names in zip(self.blocks, self.coding, strict=True)
        )


def c_plan(stages: Sequence[Stage], format: str) -> Plan:
    """Return the plan of a network in one of the C formats.

    Raises:
        ValueError: an unknown format.
        StructureError: a stage that the format does not support; the layer is named.
    """
    numbers = c_numbers(format)
    # Deviations in int8 weights would leave columns of large inputs no digits: they stay apart.
    stages = folded(stages) if numbers.weight == 4 else stages
    if numbers.activation == 4:
        blocks, curves = blocks_of(stages), 0
    else:
        blocks = for_integers(blocks_of([*map(_scaling_as_convolution, stages)]))
        curves = CURVE * numbers.activation
    coding, constants = [], []
    for index, block in enumerate(blocks):
        listed = [smallest(matrix.alive, numbers.weight) for matrix in block.head.matrices]
        coding.append(tuple(name for name, _ in listed))
        each_row = 4 if numbers.weight == 4 else 4 + 4  # a bias, and a scale of int8 weights
        rows = sum(len(matrix.weight) for matrix in block.head.matrices)
        tables = _constants(block.head) + each_row * rows + sum(size for _, size in listed)
        is_inner = index != last_linear(blocks)  # functions after the last linear layer take floats
        constants.append(tables + curves * (is_inner and is_curve(block.before)))
    begins, activations = places(blocks)
    work = max(block.work for block in blocks)
    return Plan(
        format,
        tuple(blocks),
        tuple(coding),
        tuple(constants),
        begins,
        activations,
        work,
        flash=sum(constants),
        ram=activations * numbers.activation + work * 4,
    )


def is_curve(points: Sequence[Pointwise]) -> bool:
    """Return whether integer activations need a table for these functions: not only limits."""
    return any(point.function not in ("relu", "clip") for point in points)


def index_bytes(positions: int) -> int:
    """Return the bytes of an integer that can index this many positions."""
    return 1 if positions <= 256 else 2 if positions <= 65536 else 4


def _code(matrix: Weighted, name: str) -> Code:
    code = CODES[name].encode(matrix.alive.matrix())
    assert code is not None  # it was chosen among those that hold the matrix
    return code


def _scaling_as_convolution(stage: Stage) -> Stage:
    """Return the scaling of each channel of an image as a convolution; other stages unchanged."""
    if not isinstance(stage, Scaled) or len(stage.entering) != 3:
        return stage
    weight, channels = stage.scale.float()[:, None], stage.entering[0]
    return Weighted(
        stage.name,
        stage.entering,
        stage.leaving,
        weight,
        stage.shift.float(),
        AliveWeights((channels, 1)),
        Window((1, 1), (1, 1)),
        channels,
        reads=stage.reads,
        value=stage.value,
    )


def _constants(head: Stage) -> int:
    """Return the bytes of the constant tables of a block, beside its matrices."""
    if isinstance(head, Scaled):
        return 2 * 4 * head.entering[0]
    if isinstance(head, Chosen):
        return len(head.index) * index_bytes(head.entering[0])
    if isinstance(head, Standardised):
        chosen = 0 if head.index is None else len(head.index) * index_bytes(head.entering[0])
        return 2 * 4 * len(head.mean) + chosen
    return 0
