"""Measure a masked network: accuracy, loss, and its size as if it were shrunk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from sentei.distributed import on_main
from sentei.metrics import measured_words
from sentei.network.encoding.format import SAFETENSORS
from sentei.network.encoding.size import (
    Cost,
    Counts,
    bytes_in,
    cost,
    counts,
    latencies,
    ram_in,
    skeleton,
)
from sentei.network.example import guessed, smallest, undisturbed
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.probe.probe import Probe
from sentei.running import Example, on_threads

log = logging.getLogger("sentei")

_SIZES = ("units", "synapses", "parameters", "bytes")
_NUMBERS = ("accuracy", "loss", *_SIZES)
COLUMNS = ("step", *_NUMBERS, "multiply_adds", "removed")  # of `rows`; no names for metrics


class Outline:
    """What the sizes of a network under any mask are computed from; one serves a whole run.

    Args:
        model: the network of full size. Its multiply-adds and latency are measured on itself when
            they are first asked for.
        example: inputs that it runs on; None if they are not known.
    """

    def __init__(self, model: nn.Module, example: Example | None):
        self.network = skeleton(model)  # without weights
        self.example = example
        self._model = model

    @cached_property
    def cost(self) -> Cost:
        """The multiply-adds of the network, by weight."""
        model = self._whole()
        with undisturbed(model):
            return cost(model, self._one)

    def latencies(self, mask: Mask, threads: int) -> tuple[float, float]:
        """Return the seconds for one sample: of the network shrunk, and of the one of full size.

        Both are timed in turns. In a torch.distributed group all ranks get what rank 0 measured.
        """
        model = self._whole()

        def timed() -> tuple[float, float]:
            with undisturbed(model), on_threads(threads):
                small, whole = latencies([shrink(model, mask, self.example), model], self._one)
            return small, whole

        found = on_main(timed)
        log.info(
            "one sample takes %.4g ms when shrunk; at full size, in the same moment, %.4g ms",
            *(1000 * each for each in found),
        )
        return found

    def shrunk(self, mask: Mask) -> nn.Module:
        """Return the network without what is dead in a mask."""
        return shrink(self._whole(), mask, self.example)

    @cached_property
    def _one(self) -> Example:  # asked for in evaluation mode
        example = guessed(self._model) if self.example is None else self.example
        return smallest(self._model, example)

    def _whole(self) -> nn.Module:
        pairs = zip(self._model.parameters(), self.network.parameters(), strict=True)
        if any(now.shape != then.shape for now, then in pairs):
            raise ValueError(
                "the network has become smaller since this was measured, so that its multiply-adds "
                "and its latency cannot be measured any more; measure again"
            )
        return self._model


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
            predicts values (see `sentei.metrics.Quality`), and those of a function that was passed
            to `prune` as `evaluate=`.
    """

    accuracy: float | None
    loss: float
    by_class: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    _counts: Counts | None = None  # as read from a file
    _network: tuple[Outline, Mask] | None = None

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
        outline, mask = self._outlined()
        return counts(outline.network, mask)

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
        outline, mask = self._outlined()
        return bytes_in(outline.network, mask, format, outline.example)

    def ram_in(self, format: str) -> int:
        """Return the bytes of activations in a C format; see `sentei.network.encoding.size.ram_in`.

        Raises:
            As `bytes_in`.
        """
        outline, mask = self._outlined()
        return ram_in(outline.network, mask, format, outline.example)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one sample; see `sentei.network.encoding.size.multiply_adds`.

        Raises:
            ValueError: a measurement without its network, since it was read from a file.
            StructureError: a function whose multiply-adds are not known.
        """
        return self._multiply_adds

    @cached_property
    def _multiply_adds(self) -> int:
        outline, mask = self._outlined()
        return outline.cost.after(outline.network, mask)

    def latency(self, threads: int = 1) -> tuple[float, float]:
        """Return the seconds for one sample, shrunk and at full size; measured once.

        Raises:
            As `multiply_adds`; or as `shrink`.
        """
        if threads not in self._latencies:
            outline, mask = self._outlined()
            self._latencies[threads] = outline.latencies(mask, threads)
        return self._latencies[threads]

    def shrunk(self) -> tuple[nn.Module, Mask]:
        """Return the network without its dead units, and the mask of what is dead in it.

        Raises:
            As `latency`.
        """
        outline, mask = self._outlined()
        return outline.shrunk(mask), mask.shrunk()

    @cached_property
    def _latencies(self) -> dict[int, tuple[float, float]]:
        return {}

    def of(self, outline: Outline, mask: Mask) -> Measurement:
        """Return a copy that refers to the network, so that it can give sizes in other formats."""
        return replace(self, _network=(outline, mask))

    def _outlined(self) -> tuple[Outline, Mask]:
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


def measure(
    model: nn.Module, mask: Mask, judge: Probe, outline: Outline | None = None
) -> Measurement:
    """Measure the masked `model`: accuracy and loss on the data of `judge`, and its shrunk size."""
    return quality(judge).of(outline or Outline(model, judge.example), mask)


def quality(judge: Probe) -> Measurement:
    """Measure the network of `judge` in one pass; sizes are missing."""
    loss, found = judge.quality()
    return Measurement(found.accuracy, loss, found.by_class, found.metrics)
