"""What is measured at every step: quality, and the size of the network as it would be shrunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from sentei.criteria.probe import Probe
from sentei.network.mask import Mask
from sentei.network.size import Counts, bytes_in, counts


@dataclass(frozen=True)
class Measurement:
    """A network at one step.

    Attributes:
        accuracy: part of the samples classified correctly; None where targets are not classes.
        loss: mean per sample.
        units: alive units that could be removed; inputs and outputs do not count.
        synapses: alive weights, biases excluded.
        parameters: entries of all parameters, biases included.
        bytes: size of its safetensors file.
    """

    accuracy: float | None
    loss: float
    units: int
    synapses: int
    parameters: int
    bytes: int
    _bytes_in: Callable[[str], int] | None = field(default=None, repr=False, compare=False)

    def bytes_in(self, format: str) -> int:
        """The size in any format that `export` writes.

        Raises:
            ValueError: an unknown format.
        """
        if format == "safetensors" or self._bytes_in is None:
            return self.bytes
        return self._bytes_in(format)

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f"accuracy {self.accuracy:.2%}, "
        size = Counts(self.units, self.synapses, self.parameters, self.bytes)
        return f"{accuracy}loss {self.loss:.4f}, {size}"

    def numbers(self) -> dict[str, Any]:
        """The measurement as plain data."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


def measure(model: nn.Module, mask: Mask, judge: Probe) -> Measurement:
    """Measure the masked `model` on the data of `judge`."""
    size = counts(model, mask)
    return Measurement(
        accuracy=judge.accuracy(),
        loss=judge.loss(),
        units=size.units,
        synapses=size.synapses,
        parameters=size.parameters,
        bytes=size.bytes,
        _bytes_in=lambda name: bytes_in(model, mask, name),
    )
