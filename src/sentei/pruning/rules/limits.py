"""Limits: budgets that end a run when reached, and floors that undo a step that breaches them.

A limit is a function of two measurements, now and at the start, that returns whether it *holds*. As
`until=` it ends the run once it holds; as `keeping=` every step has to satisfy it. Plain functions
are limits too. The file imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, overload

from sentei.arguments import checked
from sentei.describing import described
from sentei.errors import BudgetError
from sentei.network.encoding.format import SAFETENSORS, c_numbers, format_named
from sentei.pruning.rules.schedules import Amount, amount
from sentei.quantities import parse_bytes


class Measured(Protocol):
    """The attributes that a limit reads from a measurement; `Measurement` has all of them."""

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
    """A condition on a measurement, with the expression that made it.

    Attributes:
        words: the expression, such as "units_at_most(10)", for messages and the journal.
        holds: function (measured now, measured at the start) -> bool.
        is_size: whether the limit depends on the network's size alone. A size that no network can
            meet is then refused before the run starts.
        formats: formats whose sizes it reads, except safetensors.
    """

    words: str
    holds: Callable[[Measured, Measured], bool]
    is_size: bool = False
    formats: tuple[str, ...] = ()

    def __call__(self, now: Measured, start: Measured) -> bool:
        """Return whether the limit holds."""
        return self.holds(now, start)

    def __repr__(self) -> str:
        return self.words


Condition = Annotated[
    Callable[[Measured, Measured], bool],
    "a limit, such as units_at_most('50 %'), or a function of the measurements (now, start) that "
    "returns whether it holds",
]


@overload
def limit_of(condition: Condition) -> Limit: ...
@overload
def limit_of(condition: None) -> None: ...
def limit_of(condition: Condition | None) -> Limit | None:
    """Return a limit; a plain function becomes one that refuses any result but True and False."""
    if condition is None or isinstance(condition, Limit):
        return condition
    words = str(described(condition))

    def holds(now: Measured, start: Measured) -> bool:
        found: Any = condition(now, start)
        kind = getattr(found, "dtype", type(found).__name__)  # arrays and tensors have a dtype
        if not str(kind).endswith("bool"):
            raise BudgetError(
                f"a function for until= or keeping= returns True or False; {words} returned "
                f"{found!r}"
            )
        return bool(found)

    return Limit(words, holds)


@checked
def units_at_most(keep: Amount) -> Limit:
    """Holds when at most `keep` units are alive.

    Args:
        keep: a count, or a percentage of the units at the start, such as "40 %".
    """
    return _count("units", keep)


@checked
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
def parameters_at_most(keep: Amount) -> Limit:
    """Holds when the shrunk network has at most `keep` parameters, biases included.

    Args:
        keep: a count, or a percentage of the parameters at the start, such as "40 %".
    """
    return _count("parameters", keep)


@checked
def bytes_at_most(size: Amount, format: str = "safetensors") -> Limit:
    """Holds when the shrunk network takes at most `size` bytes in a format.

    Args:
        size: a number of bytes, a text such as "32 KiB", or a percentage of the size at the start.
        format: the format whose size counts. For "safetensors" and "onnx" that is the size of the
            file; for "c", "c-int8" and "c-int8-int8" the constants of the C file in flash, without
            its code: weights, their positions, biases and scales.

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

    formats = () if format == SAFETENSORS.name else (format,)
    return Limit(f"bytes_at_most({size!r}, format={format!r})", holds, True, formats)


@checked
def ram_at_most(size: int | str, format: str = "c") -> Limit:
    """Holds when the activations take at most `size` bytes of RAM at a time, in a C format.

    Args:
        size: a number of bytes, or a text such as "8 KiB".
        format: "c", "c-int8" or "c-int8-int8".

    Raises:
        ValueError: a format that is not a C format, with the nearest one.
        BudgetError: a size that is not above 0, or not a size.
    """
    c_numbers(format)  # a format that states no RAM is refused
    most = parse_bytes(size)
    if most <= 0:
        raise BudgetError(f"a budget is more than 0 bytes; got {size!r}")
    words = f"ram_at_most({size!r}, format={format!r})"
    return Limit(words, lambda now, _: now.ram_in(format) <= most, True, (format,))


@checked
@dataclass(frozen=True)
class MemoryBudget:
    """The memory that a network may use on its target: bytes in a format, and RAM.

    Attributes:
        format: the format of the network on the target: "safetensors", "onnx", "c", "c-int8" or
            "c-int8-int8".
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
def accuracy_at_least(floor: float) -> Limit:
    """Holds when the accuracy is at least `floor`, a fraction from 0 to 1."""
    _fraction("accuracy_at_least", floor)
    return Limit(f"accuracy_at_least({floor})", lambda now, _: _accuracy(now) >= floor)


@checked
def accuracy_within(drop: float) -> Limit:
    """Holds when the accuracy is at most `drop` below that at the start; 0.01 is one point."""
    _fraction("accuracy_within", drop)
    # Accuracies are multiples of 1/n; the computed difference of two is off by a rounding error.
    return Limit(
        f"accuracy_within({drop})",
        lambda now, start: _accuracy(now) >= _accuracy(start) - drop - 1e-12,
    )


@checked
def loss_at_most(ceiling: float) -> Limit:
    """Holds when the mean loss is at most `ceiling`."""
    if not math.isfinite(ceiling):
        raise BudgetError(f"a loss limit is a finite number; got {ceiling}")
    return Limit(f"loss_at_most({ceiling})", lambda now, _: now.loss <= ceiling)


@checked
def loss_within(rise: float) -> Limit:
    """Holds when the mean loss is at most `rise` above that at the start."""
    if not math.isfinite(rise) or rise < 0:
        raise BudgetError(f"a rise in loss is a finite number of 0 or more; got {rise}")
    return Limit(f"loss_within({rise})", lambda now, start: now.loss <= start.loss + rise)


@checked
def all_of(*limits: Condition) -> Limit:
    """Holds when all of these limits hold; plain functions are limits too."""
    return _joined("all_of", all, limits)


@checked
def any_of(*limits: Condition) -> Limit:
    """Holds when at least one of these limits holds; plain functions are limits too."""
    return _joined("any_of", any, limits)


def _joined(name: str, join: Callable[[list[bool]], bool], limits: Sequence[Condition]) -> Limit:
    each = [limit_of(limit) for limit in limits]
    return Limit(
        f"{name}({', '.join(limit.words for limit in each)})",
        # All are asked: what one reads of the start has to be measured at the start.
        lambda now, start: join([limit(now, start) for limit in each]),
        all(limit.is_size for limit in each),
        tuple(dict.fromkeys(name for limit in each for name in limit.formats)),
    )


def _count(what: str, keep: Amount) -> Limit:
    amount(keep, 100)
    words = f"{what}_at_most({keep!r})"

    def holds(now: Measured, start: Measured) -> bool:
        total = getattr(start, what)
        most = amount(keep, total)
        if most > total:
            raise BudgetError(
                f"{words} is more than the network has: {total:,} {what}; give a smaller number"
            )
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
