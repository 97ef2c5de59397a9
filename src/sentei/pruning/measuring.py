"""Measure a masked network: accuracy, loss, and its size as if it were shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.encoding.format import SAFETENSORS
from sentei.network.encoding.size import Counts, bytes_in, counts, ram_in, skeleton
from sentei.network.example import Example
from sentei.network.mask import Mask
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Pass, completed, sum_losses

Outline = tuple[nn.Module, Mask, Example | None]  # a network without weights, its mask, inputs
_NUMBERS = ("accuracy", "loss", "units", "synapses", "parameters", "bytes")


@dataclass(frozen=True, eq=False, repr=False)
class Measurement:
    """Accuracy, loss and size of a network at one step; sizes are those after `shrink`.

    Sizes are computed when they are first asked for.

    Attributes:
        accuracy: part of the samples classified correctly; None where targets are not classes.
        loss: mean loss per sample.
        by_class: (classes, 2) int64, samples classified correctly, and samples; None without
            classes.
    """

    accuracy: float | None
    loss: float
    by_class: Tensor | None = None
    _counts: Counts | None = None  # as read from a file
    _network: Outline | None = None

    @classmethod
    def read(cls, numbers: Mapping[str, Any], by_class: Tensor | None = None) -> Measurement:
        """Return the measurement that had these `numbers`.

        Raises:
            TypeError: one is missing, unknown or not a number.
        """
        if not all(isinstance(value, int | float | None) for value in numbers.values()):
            raise TypeError(f"{numbers} are no measurements")
        sizes = {name: numbers[name] for name in numbers if name not in ("accuracy", "loss")}
        return cls(numbers["accuracy"], numbers["loss"], by_class, Counts(**sizes))

    @cached_property
    def _size(self) -> Counts:
        if self._counts is not None:
            return self._counts
        model, mask, _ = self._outline()
        return counts(model, mask)

    @property
    def size(self) -> str:
        """The four sizes as a text."""
        return str(self._size)

    @property
    def units(self) -> int:
        """Alive units that could be removed; inputs and outputs do not count."""
        return self._size.units

    @property
    def synapses(self) -> int:
        """Alive weights, biases excluded."""
        return self._size.synapses

    @property
    def parameters(self) -> int:
        """Entries of all parameters, biases included."""
        return self._size.parameters

    @property
    def bytes(self) -> int:
        """Size of the safetensors file."""
        return self._size.bytes

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
        return f"{accuracy}loss {self.loss:.4f}, {self.size}"

    def __repr__(self) -> str:
        return f"Measurement({', '.join(f'{k}={v!r}' for k, v in self.numbers().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measurement) and self.numbers() == other.numbers()

    def __hash__(self) -> int:
        return hash(tuple(self.numbers().values()))

    def numbers(self) -> dict[str, Any]:
        """Return accuracy, loss and the four sizes as plain numbers."""
        return {name: getattr(self, name) for name in _NUMBERS}


def measure(model: nn.Module, mask: Mask, judge: Probe) -> Measurement:
    """Measure the masked `model`: accuracy and loss on the data of `judge`, and its shrunk size."""
    return quality(judge).of(model, mask, judge.example)


def quality(judge: Probe) -> Measurement:
    """Measure accuracy and loss of the network of `judge` in one pass; sizes are missing."""
    targets, classes = judge.samples.targets, 0
    if targets.ndim == 1 and not targets.is_floating_point():
        classes = int(targets.max()) + 1

    def sums(block: Pass) -> Tensor:
        loss = sum_losses(block)[None].cpu()
        if not classes:
            return loss
        labels = block.samples.targets
        correct = labels[completed(block.outputs).argmax(1) == labels]
        both = [torch.bincount(which, minlength=classes) for which in (correct, labels)]
        return torch.cat([loss, torch.stack(both, 1).flatten().double().cpu()])

    loss, *counted = judge.mean(sums, 1 + 2 * classes).split([1, 2 * classes])
    if not classes:
        return Measurement(None, loss.item())
    by_class = (counted[0] * len(targets)).round().long().reshape(classes, 2)
    return Measurement(int(by_class[:, 0].sum()) / len(targets), loss.item(), by_class)
