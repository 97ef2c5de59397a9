"""What is measured at every step: quality, and the size of the network as it would be shrunk."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.encoding.size import Counts, bytes_in, counts, ram_in, skeleton
from sentei.network.example import Example
from sentei.network.mask import Mask
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Pass

Outline = tuple[nn.Module, Mask, Example | None]  # a network's shapes, what is alive, inputs


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
    _network: Outline | None = field(default=None, repr=False, compare=False)

    def bytes_in(self, format: str) -> int:
        """The size in any format that `export` writes: see `sentei.network.encoding.size.bytes_in`.

        Raises:
            ValueError: an unknown format, or a measurement that has lost its network.
            StructureError: a layer that the format does not have.
        """
        if format == "safetensors":
            return self.bytes
        model, mask, example = self._outline()
        return bytes_in(model, mask, format, example)

    def ram_in(self, format: str) -> int:
        """Bytes of activations in a C format: see `sentei.network.encoding.size.ram_in`.

        Raises:
            As `bytes_in`.
        """
        model, mask, example = self._outline()
        return ram_in(model, mask, format, example)

    def of(self, model: nn.Module, mask: Mask, example: Example | None) -> Measurement:
        """The measurement, knowing the network whose size it is asked for in other formats."""
        return replace(self, _network=(skeleton(model), mask, example))

    def _outline(self) -> Outline:
        if self._network is None:
            raise ValueError(
                "this measurement was read from a file, without its network; measure again"
            )
        return self._network

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f"accuracy {self.accuracy:.2%}, "
        size = Counts(self.units, self.synapses, self.parameters, self.bytes)
        return f"{accuracy}loss {self.loss:.4f}, {size}"

    def numbers(self) -> dict[str, Any]:
        """The measurement as plain data."""
        shown = (part.name for part in fields(self) if not part.name.startswith("_"))
        return {name: getattr(self, name) for name in shown}


def measure(model: nn.Module, mask: Mask, judge: Probe) -> Measurement:
    """Measure the masked `model` on the data of `judge`."""
    size = counts(model, mask)
    measured = Measurement(
        accuracy=judge.accuracy(),
        loss=judge.loss(),
        units=size.units,
        synapses=size.synapses,
        parameters=size.parameters,
        bytes=size.bytes,
    )
    return measured.of(model, mask, judge.example)


def by_class(judge: Probe) -> Tensor | None:
    """How many samples of each class are classified correctly, and how many there are.

    Returns:
        (classes, 2) int64; None where targets are not classes or outputs are not one for each.
    """
    targets = judge.samples.targets
    if targets.is_floating_point() or targets.ndim != 1:
        return None
    classes = int(targets.max()) + 1

    def counted(block: Pass) -> Tensor:
        assert block.outputs is not None  # passes are complete when they are handed out
        own = block.samples.targets
        right = own[block.outputs.argmax(1) == own]
        both = [torch.bincount(found, minlength=classes) for found in (right, own)]
        return torch.stack(both, 1).flatten().double().cpu()

    return (judge.mean(counted, 2 * classes) * len(targets)).round().long().reshape(classes, 2)
