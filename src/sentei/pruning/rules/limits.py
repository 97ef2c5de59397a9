"""Until when: budgets that end a run when reached, floors that undo the step that breaches them.

A limit is a function of two measurements, now and at the start, that says whether it *holds*. As
`until=` it ends the run once it holds; as `keeping=` every step has to satisfy it. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sentei.errors import BudgetError, unknown
from sentei.pruning.rules.schedules import Amount, amount


class Measured(Protocol):
    """What a limit looks at; `Measurement` has all of it."""

    @property
    def accuracy(self) -> float | None:
        """As in `Measurement`."""
        ...

    @property
    def loss(self) -> float:
        """As in `Measurement`."""
        ...

    @property
    def units(self) -> int:
        """As in `Measurement`."""
        ...

    @property
    def synapses(self) -> int:
        """As in `Measurement`."""
        ...

    @property
    def parameters(self) -> int:
        """As in `Measurement`."""
        ...

    @property
    def bytes(self) -> int:
        """As in `Measurement`."""
        ...

    def bytes_in(self, format: str) -> int:
        """As in `Measurement`."""
        ...

    def ram_in(self, format: str) -> int:
        """As in `Measurement`."""
        ...


@dataclass(frozen=True)
class Limit:
    """A condition on a measurement, with the words it was asked for in.

    Attributes:
        words: as it would be written again, for messages and the journal.
        holds: (now, at the start) -> bool.
        is_size: whether only the network's size decides, so that what no network can meet is known
            before the run starts.
        formats: whose sizes it looks at, safetensors aside.
    """

    words: str
    holds: Callable[[Measured, Measured], bool]
    is_size: bool = False
    formats: tuple[str, ...] = ()

    def __call__(self, now: Measured, start: Measured) -> bool:
        """Whether the limit holds."""
        return self.holds(now, start)

    def __repr__(self) -> str:
        return self.words


def units_at_most(keep: Amount) -> Limit:
    """At most so many units: a count, or a percentage of those at the start."""
    return _count("units", keep)


def synapses_at_most(keep: Amount) -> Limit:
    """At most so many synapses: a count of 1 or more, or a percentage of those at the start."""
    if amount(keep, 10**9) < 1:
        raise BudgetError(f"a network of no synapses says nothing: keep 1 or more; got {keep!r}")
    return _count("synapses", keep)


def parameters_at_most(keep: Amount) -> Limit:
    """At most so many parameters, biases included: a count, or a percentage."""
    return _count("parameters", keep)


def bytes_at_most(size: Amount, format: str = "safetensors") -> Limit:
    """A file of at most this size: `"32 KiB"`, a number of bytes, or a percentage.

    Args:
        size: how much.
        format: whose size: "safetensors" and "onnx" mean the file; "c", "c-int8" and "c-int8-int8"
            what a C file keeps in flash besides its code: weights, where they are, biases, scales.
    """
    text = str(size).strip()
    check_format(format)
    if text.endswith("%"):
        amount(text, 100)
    elif parse_bytes(size) <= 0:
        raise BudgetError(f"a budget is more than 0 bytes; got {size!r}")

    def holds(now: Measured, start: Measured) -> bool:
        most = amount(text, start.bytes_in(format)) if text.endswith("%") else parse_bytes(size)
        return now.bytes_in(format) <= most

    formats = () if format == "safetensors" else (format,)
    return Limit(f"bytes_at_most({size!r}, format={format!r})", holds, True, formats)


def ram_at_most(size: int | str, format: str = "c") -> Limit:
    """Activations that take at most so much memory at a time, in one of the C formats."""
    if format not in FORMATS or not format.startswith("c"):
        raise ValueError(unknown("C format", format, [f for f in FORMATS if f.startswith("c")]))
    most = parse_bytes(size)
    if most <= 0:
        raise BudgetError(f"a budget is more than 0 bytes; got {size!r}")
    words = f"ram_at_most({size!r}, format={format!r})"
    return Limit(words, lambda now, _: now.ram_in(format) <= most, True, (format,))


@dataclass(frozen=True)
class MemoryBudget:
    """What a network may take where it is to go.

    Attributes:
        format: that it goes there in: "safetensors", "onnx", "c", "c-int8" or "c-int8-int8".
        bytes: the file's, or of C the constants'.
        ram: bytes of activations, of C alone; None for as many as it takes.

    Raises:
        ValueError: an unknown format, or RAM of a format that is not C.
        BudgetError: no bytes at all.
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
        """As a budget."""
        flash = bytes_at_most(self.bytes, self.format)
        return flash if self.ram is None else all_of(flash, ram_at_most(self.ram, self.format))


Room = MemoryBudget  # its name in the first release


def accuracy_at_least(floor: float) -> Limit:
    """An accuracy of at least this, from 0 to 1."""
    _fraction("accuracy_at_least", floor)
    return Limit(f"accuracy_at_least({floor})", lambda now, _: _accuracy(now) >= floor)


def accuracy_within(drop: float) -> Limit:
    """An accuracy no further than `drop` below the start's: 0.01 is one percentage point."""
    _fraction("accuracy_within", drop)
    # A difference of two multiples of 1/n misses its exact value by a rounding error.
    return Limit(
        f"accuracy_within({drop})",
        lambda now, start: _accuracy(now) >= _accuracy(start) - drop - 1e-12,
    )


def loss_at_most(ceiling: float) -> Limit:
    """A mean loss of at most this."""
    if not math.isfinite(ceiling):
        raise BudgetError(f"a loss limit is a finite number; got {ceiling}")
    return Limit(f"loss_at_most({ceiling})", lambda now, _: now.loss <= ceiling)


def loss_within(rise: float) -> Limit:
    """A mean loss no more than `rise` above the start's."""
    if not math.isfinite(rise) or rise < 0:
        raise BudgetError(f"a rise in loss is a finite number of 0 or more; got {rise}")
    return Limit(f"loss_within({rise})", lambda now, start: now.loss <= start.loss + rise)


def all_of(*limits: Limit) -> Limit:
    """Holds when every one of them does."""
    words = f"all_of({', '.join(limit.words for limit in limits)})"
    size = all(limit.is_size for limit in limits)
    formats = _formats(limits)
    return Limit(
        words, lambda now, start: all(limit(now, start) for limit in limits), size, formats
    )


def any_of(*limits: Limit) -> Limit:
    """Holds when one of them does."""
    words = f"any_of({', '.join(limit.words for limit in limits)})"
    size = all(limit.is_size for limit in limits)
    formats = _formats(limits)
    return Limit(
        words, lambda now, start: any(limit(now, start) for limit in limits), size, formats
    )


def _formats(limits: Sequence[Limit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for limit in limits for name in limit.formats))


def check_format(format: str) -> None:
    """Refuse what is no format.

    Raises:
        ValueError: with the nearest name.
    """
    if format not in FORMATS:
        raise ValueError(unknown("format", format, FORMATS))


# As `sentei.network.encoding.size.FORMATS`, which knows torch; a test compares them.
FORMATS = ("safetensors", "onnx", "c", "c-int8", "c-int8-int8")


_UNITS = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3}


def parse_bytes(size: int | str) -> int:
    """Number of bytes in `"32 KiB"`, `"1.5 MB"` or a plain number.

    Raises:
        BudgetError: an unknown unit, or not a number.
    """
    text = str(size).strip()
    number = text.rstrip("BKMGikb").strip()
    unit = text[len(number) :].strip() or "B"
    units = {**_UNITS, "KB": 1000, "GiB": 1024**3}
    try:
        count = float(number) * units[unit]
    except (KeyError, ValueError):
        count = math.nan
    if not math.isfinite(count):
        raise BudgetError(
            f"a size is a number and one of {', '.join(_UNITS)} (32 KiB is 32768 bytes); "
            f"got {size!r}"
        )
    return round(count)


def _count(what: str, keep: Amount) -> Limit:
    amount(keep, 100)
    words = f"{what}_at_most({keep!r})"

    def holds(now: Measured, start: Measured) -> bool:
        there = getattr(start, what)
        most = amount(keep, there)
        if most > there:
            raise BudgetError(f"{words} is more than there are: {there:,} {what}; ask for less")
        return getattr(now, what) <= most

    return Limit(words, holds, is_size=True)


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
