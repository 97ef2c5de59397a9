"""The file formats that a network can be written to: one record a format, in one table.

The size of each format is in `size.SIZES`, its writer in `sentei.formats.exporting.WRITERS`; both
are found by the record's name. The file imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sentei.errors import unknown


@dataclass(frozen=True)
class Numbers:
    """The number types of a C format: bytes of a weight and of an activation."""

    weight: int
    activation: int

    def __str__(self) -> str:
        """Return the types as a format's name has them: such as "float32" or "int8-int16"."""
        kept = (self.weight,) if self.activation == 4 else (self.weight, self.activation)
        return "-".join("float32" if size == 4 else f"int{8 * size}" for size in kept)


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: as users write it, such as "c-int8".
        suffix: the ending of its files, such as ".c". Of formats with the same suffix, the first in
            `FORMATS` is meant where only the suffix is given.
        least: how many units and synapses each layer keeps at least. It is 1 for formats in which a
            layer without inputs cannot be expressed.
        numbers: the number types of a C format; None for other formats. C leaves dead synapses out,
            so that removing one saves bytes, and states the RAM of its activations.
    """

    name: str
    suffix: str
    least: int = 1
    numbers: Numbers | None = None


# The format of `save`, for every network. `Measurement.bytes` is the size in this format.
SAFETENSORS = Format("safetensors", ".safetensors", least=0)

FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        SAFETENSORS,
        Format("onnx", ".onnx"),
        Format("c", ".c", numbers=Numbers(4, 4)),
        Format("c-int8", ".c", numbers=Numbers(1, 4)),
        Format("c-int8-int8", ".c", numbers=Numbers(1, 1)),
        Format("c-int8-int16", ".c", numbers=Numbers(1, 2)),
    )
}

# The number types of each C format, by the format's name.
C_FORMATS: Mapping[str, Numbers] = {
    format.name: format.numbers for format in FORMATS.values() if format.numbers is not None
}

# The format that a suffix alone means.
SUFFIXES: Mapping[str, Format] = {format.suffix: format for format in reversed([*FORMATS.values()])}


def format_named(name: str) -> Format:
    """Return the format of this name.

    Raises:
        ValueError: an unknown format, with the nearest one.
    """
    if name not in FORMATS:
        raise ValueError(unknown("format", name, FORMATS))
    return FORMATS[name]


def c_numbers(name: str) -> Numbers:
    """Return the number types of the C format of this name.

    Raises:
        ValueError: a name that is not that of a C format, with the nearest one.
    """
    if name not in C_FORMATS:
        raise ValueError(unknown("C format", name, C_FORMATS))
    return C_FORMATS[name]


def format_ending_in(suffix: str) -> Format:
    """Return the format that a file's suffix, such as ".c", means.

    Raises:
        ValueError: an unknown suffix, with the nearest one.
    """
    if suffix not in SUFFIXES:
        raise ValueError(unknown("ending", suffix, SUFFIXES))
    return SUFFIXES[suffix]
