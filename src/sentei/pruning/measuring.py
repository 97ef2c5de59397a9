"""Measure a masked network: accuracy, loss, and its size as if it were shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from sentei.metrics import measured_words
from sentei.network.encoding.format import SAFETENSORS
from sentei.network.encoding.size import Counts, bytes_in, counts, ram_in, skeleton
from sentei.network.example import Example
from sentei.network.mask import Mask
from sentei.probe.probe import Probe

Outline = tuple[nn.Module, Mask, Example | None]  # a network without weights, its mask, inputs
_SIZES = ("units", "synapses", "parameters", "bytes")
_NUMBERS = ("accuracy", "loss", *_SIZES)


@dataclass(frozen=True, eq=False, repr=False)
class Measurement:
    """Quality and size of a network at one step; sizes are those after `shrink`.

    Sizes are computed when they are first asked for.

    Attributes:
        accuracy: part of the class numbers, or of 0/1 labels, that are right; None where the
            network predicts values.
        loss: mean loss per sample.
        by_class: (classes, 2) int64, samples classified correctly, and samples; None without
            classes.
        metrics: other measurements by name: "r2" and "mean_absolute_error" where the network
            predicts values. See `sentei.metrics.Quality`.
    """

    accuracy: float | None
    loss: float
    by_class: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    _counts: Counts | None = None  # as read from a file
    _network: Outline | None = None

    @classmethod
    def read(cls, numbers: Mapping[str, Any], by_class: Tensor | None = None) -> Measurement:
        """Return the measurement that had these `numbers`.

        Raises:
            TypeError: one is missing, unknown or not a number.
        """
        quality = ("accuracy", "loss", "metrics")
        sizes = {name: numbers[name] for name in numbers if name not in quality}
        accuracy, loss = numbers["accuracy"], numbers["loss"]
        metrics = numbers.get("metrics", {})
        if (
            not all(type(size) is int for size in sizes.values())
            or type(loss) not in (int, float)
            or type(accuracy) not in (int, float, type(None))
            or not isinstance(metrics, dict)
            or not all(type(value) in (int, float) for value in metrics.values())
        ):
            raise TypeError(f"{numbers} are no measurements")
        return cls(accuracy, loss, by_class, metrics, Counts(**sizes))

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
        """Return a copy that refers to the network, so that it can give sizes in other formats.

        Of a network on the meta device, such as `skeleton` returns, no copy is made.
        """
        outline = model if all(p.is_meta for p in model.parameters()) else skeleton(model)
        return replace(self, _network=(outline, mask, example))

    def _outline(self) -> Outline:
        if self._network is None:
            raise ValueError(
                "this measurement was read from a file, without its network; measure again"
            )
        return self._network

    def __str__(self) -> str:
        return f"{measured_words(self.accuracy, self.loss, self.metrics)}, {self.size}"

    def __repr__(self) -> str:
        return f"Measurement({', '.join(f'{k}={v!r}' for k, v in self.numbers().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measurement) and self.numbers() == other.numbers()

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in _NUMBERS))

    def numbers(self) -> dict[str, Any]:
        """Return accuracy, loss, metrics if there are any, and the four sizes as plain numbers."""
        metrics = {"metrics": dict(self.metrics)} if self.metrics else {}
        return {name: getattr(self, name) for name in _NUMBERS} | metrics


def measure(model: nn.Module, mask: Mask, judge: Probe) -> Measurement:
    """Measure the masked `model`: accuracy and loss on the data of `judge`, and its shrunk size."""
    return quality(judge).of(model, mask, judge.example)


def quality(judge: Probe) -> Measurement:
    """Measure the network of `judge` in one pass; sizes are missing."""
    loss, found = judge.quality()
    return Measurement(found.accuracy, loss, found.by_class, found.metrics)
