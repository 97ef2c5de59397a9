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
        return "float" if self.numbers.activation == 4 else "int8_t"

    @property
    def total(self) -> str:
        """C type of the sum of products."""
        return "float" if self.numbers.activation == 4 else "int32_t"

    def read(self, pointer: str, kind: str) -> str:
        """Return a C expression that reads a constant of type `kind` from flash."""
        macro = {"float": "FLOAT", "int8_t": "BYTE", "uint8_t": "BYTE", "uint16_t": "WORD"}[kind]
        text = f"{self.upper}_{macro}({pointer})"
        return f"(int8_t){text}" if kind == "int8_t" else text

    def product(self, value: str) -> str:
        """Return a C expression for the next weight times `value`; it advances `w`."""
        weight = self.read("w++", self.weight)
        casts = {("int8_t", "float"): f"(float)({weight})", ("int8_t", "int32_t"): weight}
        return f"{casts.get((self.weight, self.total), weight)} * {value}"


def literal(value: float) -> str:
    """Return a C float constant that parses to exactly the same float32."""
    text = f"{value:.9g}"
    return (text if any(mark in text for mark in ".en") else f"{text}.0") + "f"
