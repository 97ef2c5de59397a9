"""The name prefix and number types that all functions of one C file share."""

from __future__ import annotations

from dataclasses import dataclass

from sentei.network.encoding.format import Numbers


@dataclass(frozen=True)
class Dialect:
    """The name prefix and the number types of one C file.

    Attributes:
        name: of the network, a C identifier; the prefix of all names.
        numbers: bytes of weights and activations.
    """

    name: str
    numbers: Numbers

    @property
    def upper(self) -> str:
        """The prefix of macro names."""
        return self.name.upper()

    @property
    def weight(self) -> str:
        """C type of a stored weight."""
        return "float" if self.numbers.weight == 4 else "int8_t"

    @property
    def activation(self) -> str:
        """C type of an activation in a buffer."""
        return "float" if self.numbers.activation == 4 else f"int{8 * self.numbers.activation}_t"

    @property
    def integers(self) -> bool:
        """Whether activations are integers."""
        return self.numbers.activation < 4

    @property
    def total(self) -> str:
        """C type of the sum of products."""
        return "float" if self.numbers.activation == 4 else "int32_t"

    def read(self, pointer: str, kind: str) -> str:
        """Return a C expression that reads a constant of type `kind` from flash."""
        text = f"{self.upper}_{_MACROS[kind]}({pointer})"
        return f"({kind}){text}" if kind.startswith("int") else text

    def product(self, value: str) -> str:
        """Return a C expression for the next weight times `value`; it advances `w`."""
        weight = self.read("w++", self.weight)
        if self.weight == "int8_t" and self.total == "float":
            weight = f"(float)({weight})"
        if self.activation == "int16_t":  # int has 16 bits on AVR
            weight = f"(int32_t)({weight})"
        return f"{weight} * {value}"


_MACROS = {
    "float": "FLOAT",
    "int8_t": "BYTE",
    "uint8_t": "BYTE",
    "int16_t": "WORD",
    "uint16_t": "WORD",
    "int32_t": "LONG",
    "uint32_t": "LONG",
}


def literal(value: float) -> str:
    """Return a C float constant that parses to exactly the same float32."""
    text = f"{value:.9g}"
    return (text if any(mark in text for mark in ".en") else f"{text}.0") + "f"
