"""Limits: budgets that end a run when reached, and floors that undo a step that breaches them.

See `conditions` for what a limit is. The file imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sentei.arguments import checked
from sentei.errors import BudgetError
from sentei.network.encoding.format import (
    C_FORMATS,
    FORMATS,
    SAFETENSORS,
    c_numbers,
    format_named,
)
from sentei.pruning.rules.conditions import Limit, Measured, all_of
from sentei.pruning.rules.remade import remade
from sentei.pruning.rules.schedules import Amount, amount, percentage
from sentei.quantities import parse_bytes, parse_seconds


@checked
@remade
def units_at_most(keep: Amount) -> Limit:
    """Holds when at most `keep` units are alive.

    Args:
        keep: a count, or a percentage of the units at the start, such as "40 %".
    """
    return _count("units", keep)


@checked
@remade
def synapses_at_most(keep: Amount) -> Limit:
    """Holds when at most `keep` synapses are alive.

    Args:
        keep: a count of 1 or more, or a percentage of the synapses at the start, such as "5 %".

    Raises:
        BudgetError: an amount of none.
    """
    if amount(keep, 10**9) < 1:
        raise BudgetError(
            f"a network without synapses computes a constant: keep 1 or more; got {keep!r}"
        )
    return _count("synapses", keep)


@checked
@remade
def parameters_at_most(keep: Amount) -> Limit:
    """Holds when the shrunk network has at most `keep` parameters, biases included.

    Args:
        keep: a count, or a percentage of the parameters at the start, such as "40 %".
    """
    return _count("parameters", keep)


@checked
@remade
def bytes_at_most(size: Amount, format: str = "safetensors") -> Limit:
    """Holds when the shrunk network takes at most `size` bytes in a format.

    Args:
        size: a number of bytes, a text such as "32 KiB", or a percentage of the size at the start.
        format: the format whose size counts. For "safetensors" and "onnx" that is the size of the
            file; for C formats the constants of the C file in flash, without its code: weights,
            their positions, biases and scales.

    Raises:
        ValueError: an unknown format, with the nearest one.
        BudgetError: a size that is not above 0, or not a size.
    """
    text = str(size).strip()
    format_named(format)  # an unknown one is refused
    if text.endswith("%"):
        amount(text, 100)
    elif parse_bytes(size) <= 0:
        raise BudgetError(f"a budget is more than 0 bytes; got {size!r}")

    def holds(now: Measured, start: Measured) -> bool:
        most = amount(text, start.bytes_in(format)) if text.endswith("%") else parse_bytes(size)
        return now.bytes_in(format) <= most

    words = f"bytes_at_most({size!r}, format={format!r})"
    if format == SAFETENSORS.name:
        return Limit(words, holds, is_size=True)
    return _in_format(words, holds, format)


@checked
@remade
def ram_at_most(size: int | str, format: str = "c") -> Limit:
    """Holds when the activations take at most `size` bytes of RAM at a time, in a C format.

    Args:
        size: a number of bytes, or a text such as "8 KiB".
        format: a C format, such as "c-int8".

    Raises:
        ValueError: a format that is not a C format, with the nearest one.
        BudgetError: a size that is not above 0, or not a size.
    """
    c_numbers(format)  # a format that states no RAM is refused
    most = parse_bytes(size)
    if most <= 0:
        raise BudgetError(f"a budget is more than 0 bytes; got {size!r}")
    words = f"ram_at_most({size!r}, format={format!r})"
    return _in_format(words, lambda now, _: now.ram_in(format) <= most, format)


@checked
@dataclass(frozen=True)
class MemoryBudget:
    """The memory that a network may use on its target: bytes in a format, and RAM.

    Attributes:
        format: the format of the network on the target: "safetensors", "onnx" or a C format, such
            as "c-int8".
        bytes: largest size of the file or, in a C format, of its constants.
        ram: largest size of the activations, for the C formats only; no limit if None.

    Raises:
        ValueError: an unknown format, or `ram` for a format that is not a C format.
        BudgetError: a size that is not above 0.
    """

    format: str
    bytes: int | str
    ram: int | str | None = None

    def __post_init__(self) -> None:
        bytes_at_most(self.bytes, self.format)
        object.__setattr__(self, "bytes", parse_bytes(self.bytes))
        if self.ram is not None:
            ram_at_most(self.ram, self.format)
            object.__setattr__(self, "ram", parse_bytes(self.ram))

    @property
    def limit(self) -> Limit:
        """The memory budget as a limit for `until=`."""
        flash = bytes_at_most(self.bytes, self.format)
        return flash if self.ram is None else all_of(flash, ram_at_most(self.ram, self.format))


Room = MemoryBudget  # its name in the first release


@checked
@remade
def accuracy_at_least(floor: float) -> Limit:
    """Holds when the accuracy is at least `floor`, a fraction from 0 to 1."""
    _fraction("accuracy_at_least", floor)
    return Limit(f"accuracy_at_least({floor})", lambda now, _: _accuracy(now) >= floor)


@checked
@remade
def accuracy_within(drop: float) -> Limit:
    """Holds when the accuracy is at most `drop` below that at the start; 0.01 is one point."""
    _fraction("accuracy_within", drop)
    # Accuracies are multiples of 1/n; the computed difference of two is off by a rounding error.
    return Limit(
        f"accuracy_within({drop})",
        lambda now, start: _accuracy(now) >= _accuracy(start) - drop - 1e-12,
    )


@checked
@remade
def loss_at_most(ceiling: float) -> Limit:
    """Holds when the mean loss is at most `ceiling`."""
    if not math.isfinite(ceiling):
        raise BudgetError(f"a loss limit is a finite number; got {ceiling}")
    return Limit(f"loss_at_most({ceiling})", lambda now, _: now.loss <= ceiling)


@checked
@remade
def loss_within(rise: float) -> Limit:
    """Holds when the mean loss is at most `rise` above that at the start."""
    if not math.isfinite(rise) or rise < 0:
        raise BudgetError(f"a rise in loss is a finite number of 0 or more; got {rise}")
    return Limit(f"loss_within({rise})", lambda now, start: now.loss <= start.loss + rise)


@checked
@remade
def metric_at_least(name: str, floor: float) -> Limit:
    """Holds when a metric is at least `floor`.

    Args:
        name: a metric of `evaluate=` ("metric" where that returns a single number), or "r2" or
            "mean_absolute_error" where the network predicts values.
        floor: a finite number.

    Raises:
        BudgetError: a floor that is not finite; in `prune`, a metric that is not measured.
    """
    _finite("metric_at_least", floor)
    return _of_metric(f"metric_at_least({name!r}, {floor})", name, lambda now, _: now >= floor)


@checked
@remade
def metric_at_most(name: str, ceiling: float) -> Limit:
    """Holds when a metric is at most `ceiling`; see `metric_at_least`."""
    _finite("metric_at_most", ceiling)
    return _of_metric(f"metric_at_most({name!r}, {ceiling})", name, lambda now, _: now <= ceiling)


@checked
@remade
def metric_within(name: str, change: float, *, lower_is_better: bool = False) -> Limit:
    """Holds when a metric is at most `change` worse than at the start.

    Args:
        name: as for `metric_at_least`.
        change: a finite number, 0 or more, in the metric's own unit.
        lower_is_better: whether smaller values are better, as of an error. If not, larger ones are.

    Raises:
        BudgetError: a change that is negative or not finite; in `prune`, an unknown metric.
    """
    _finite("metric_within", change)
    if change < 0:
        raise BudgetError(f"metric_within takes a change of 0 or more; got {change}")
    sign = -1 if lower_is_better else 1
    words = f"metric_within({name!r}, {change}, lower_is_better={lower_is_better})"
    # The computed difference of two values is off by a rounding error, as in `accuracy_within`.
    holds = lambda now, start: sign * (now - start) >= -change - 1e-12 * max(1, abs(start))  # noqa: E731
    return _of_metric(words, name, holds)


@checked
@remade
def multiply_adds_at_most(keep: Amount) -> Limit:
    """Holds when the shrunk network needs at most `keep` multiply-adds for one sample.

    Counted are multiplications with a weight in linear layers, convolutions and the projections of
    attention, at the resolution of the Probe's first sample. Not counted: recurrent layers, layers
    whose weight is computed (weight norm), `einsum`, bilinear and batched products, and products of
    two activations. Dead synapses count, since a zero is multiplied like any other number. FLOPs
    are often given as twice this number.

    Args:
        keep: a count, or a percentage of those at the start, such as "50 %".

    Raises:
        ScheduleError: an amount that is no count and no percentage from 0 to 100.
        StructureError: in `prune`, the network calls a function whose multiply-adds are not known.
    """
    counted = _count("multiply_adds", keep)
    return replace(counted, told=(_multiply_adds_told,))


@checked
@remade
def latency_at_most(longest: float | str, threads: int = 1) -> Limit:
    """Holds when one sample takes the shrunk network at most so long, as measured on this machine.

    The first sample of the Probe is run 30 times, in turns with the network of full size, and the
    median is taken. Times vary: by a few percent on a quiet machine, and by far more while others
    use it. So the run may end a step earlier or later when it is repeated. A percentage of the
    network of full size varies less, because both are timed in the same moment; the log (level
    INFO) has both times. At every step a copy of the network is shrunk, which takes time.

    Args:
        longest: seconds, a text such as "2 ms" or "300 us", or a percentage of the network of full
            size, such as "50 %".
        threads: how many threads torch uses.

    Raises:
        BudgetError: a time that is not above 0, or no time; fewer than one thread.
        StructureError, CertificateError: in `prune`, as `shrink`.
    """
    if threads < 1:
        raise BudgetError(f"latency is measured on 1 or more threads; got threads={threads}")
    share = percentage(str(longest))
    most = float(share) / 100 if share is not None else parse_seconds(longest)
    if most <= 0:
        raise BudgetError(f"a latency is longer than 0; got {longest!r}")

    def holds(now: Measured, _: Measured) -> bool:
        small, whole = now.latency(threads)
        return small <= most * (1.0 if share is None else whole)

    def told(now: Measured) -> str:
        small, whole = (1000 * each for each in now.latency(threads))
        return f"{small:.4g} ms for one sample ({whole:.4g} ms at full size)"

    words = f"latency_at_most({longest!r}, threads={threads})"
    return Limit(words, holds, is_size=True, least=1, told=(told,))


def _in_format(words: str, holds: Callable[[Measured, Measured], bool], format: str) -> Limit:
    least = FORMATS[format].least
    return Limit(words, holds, is_size=True, least=least, told=(_TOLD[format],))


def _size_in(now: Measured, format: str) -> str:
    words = f"{now.bytes_in(format):,} bytes as {format}"
    return f"{words} with {now.ram_in(format):,} of RAM" if format in C_FORMATS else words


# One function for each format, so that two limits in one format are told once.
_TOLD = {format: partial(_size_in, format=format) for format in FORMATS}


def _count(what: str, keep: Amount) -> Limit:
    amount(keep, 100)
    words = f"{what}_at_most({keep!r})"

    def holds(now: Measured, start: Measured) -> bool:
        total = getattr(start, what)
        most = amount(keep, total)
        if most > total:
            raise BudgetError(
                f"{words} is more than the network has: {total:,} {what.replace('_', '-')}; give a "
                "smaller number"
            )
        return getattr(now, what) <= most

    return Limit(words, holds, is_size=True)


def _multiply_adds_told(now: Measured) -> str:
    return f"{now.multiply_adds:,} multiply-adds"


def _of_metric(words: str, name: str, holds: Callable[[float, float], bool]) -> Limit:
    def of_measured(now: Measured, start: Measured) -> bool:
        limit.check(now.metrics)
        return holds(now.metrics[name], start.metrics[name])

    limit = Limit(words, of_measured, metrics=(name,))
    return limit


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise BudgetError(f"{name} takes a finite number; got {value}")


def _fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise BudgetError(f"{name} takes a fraction from 0 to 1 (0.01 is one point); got {value}")


def _accuracy(measured: Measured) -> float:
    if measured.accuracy is None:
        raise BudgetError(
            "an accuracy limit needs targets that are class numbers; "
            "these are not: limit the loss instead (loss_within, loss_at_most)"
        )
    return measured.accuracy
