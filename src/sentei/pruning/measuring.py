"""Measure a masked network: accuracy, loss, and its size as if it were shrunk."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.encoding.format import SAFETENSORS
from sentei.network.encoding.size import Counts, bytes_in, counts, ram_in, skeleton
from sentei.network.example import Example
from sentei.network.mask import Mask
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Pass

Outline = tuple[nn.Module, Mask, Example | None]  # a network without weights, its mask, inputs


@dataclass(frozen=True)
class Measurement:
    """Accuracy, loss and size of a network at one step; sizes are those after `shrink`.

    Attributes:
        accuracy: part of the samples classified correctly; None where targets are not classes.
        loss: mean loss per sample.
        units: alive units that could be removed; inputs and outputs do not count.
        synapses: alive weights, biases excluded.
        parameters: entries of all parameters, biases included.
        bytes: size of the safetensors file.
    """

    accuracy: float | None
    loss: float
    units: int
    synapses: int
    parameters: int
    bytes: int
    _network: Outline | None = field(default=None, repr=False, compare=False)

    def bytes_in(self, format: str) -> int:
        """Return the size in bytes in any format that `export` writes.

        See `sentei.network.encoding.size.bytes_in`.

        Raises:
            ValueError: an unknown format, or a measurement without its network, since it was read
                from a file.
            StructureError: a layer that the format does not have.
        """
        if format == SAFETENSORS.name:
            return self.bytes
        model, mask, example = self._outline()
        return bytes_in(model, mask, format, example)

    def ram_in(self, format: str) -> int:
        """Return the bytes of activations in a C format; see `sentei.network.encoding.size.ram_in`.

        Raises:
            As `bytes_in`.
        """
        model, mask, example = self._outline()
        return ram_in(model, mask, format, example)

    def of(self, model: nn.Module, mask: Mask, example: Example | None) -> Measurement:
        """Return a copy that refers to the network, so that it can give sizes in other formats."""
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
        """Return the public fields as a dict of plain numbers."""
        names = (part.name for part in fields(self) if not part.name.startswith("_"))
        return {name: getattr(self, name) for name in names}


def measure(model: nn.Module, mask: Mask, judge: Probe) -> Measurement:
    """Measure the masked `model`: accuracy and loss on the data of `judge`, and its shrunk size."""
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
    """Count, for each class, the samples classified correctly and all samples.

    Returns:
        (classes, 2) int64; None where targets are not class numbers.
    """
    targets = judge.samples.targets
    if targets.is_floating_point() or targets.ndim != 1:
        return None
    classes = int(targets.max()) + 1

    def counted(block: Pass) -> Tensor:
        assert block.outputs is not None  # the probe hands out complete passes only
        labels = block.samples.targets
        correct = labels[block.outputs.argmax(1) == labels]
        both = [torch.bincount(which, minlength=classes) for which in (correct, labels)]
        return torch.stack(both, 1).flatten().double().cpu()

    return (judge.mean(counted, 2 * classes) * len(targets)).round().long().reshape(classes, 2)
