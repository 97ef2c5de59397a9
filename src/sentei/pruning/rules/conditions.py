"""What a limit is: a condition on two measurements, made by a function, and how limits combine.

A limit is a function of two measurements, now and at the start, that returns whether it *holds*. As
`until=` it ends the run once it holds; as `keeping=` every step has to satisfy it. Plain functions
are limits too. The file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, overload

from sentei.arguments import checked
from sentei.describing import described
from sentei.errors import BudgetError
from sentei.pruning.rules.remade import Remade, remade


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

    @property
    def metrics(self) -> Mapping[str, float]:
        """As in `Measurement`."""
        ...

    @property
    def multiply_adds(self) -> int:
        """As in `Measurement`."""
        ...

    def latency(self, threads: int) -> tuple[float, float]:
        """As in `Measurement`."""
        ...


@dataclass(frozen=True)
class Limit(Remade):
    """A condition on a measurement, with the expression that made it.

    Attributes:
        words: the expression, such as "units_at_most(10)", for messages and the journal.
        holds: function (measured now, measured at the start) -> bool.
        is_size: whether the limit depends on the network's shape alone. A size that no network can
            meet is then refused before the run starts.
        least: how many units and synapses of each layer the smallest network has.
        told: for messages, functions of a measurement that return what the limit reads beside
            accuracy, loss and the four counts, such as "512 bytes as onnx".
        metrics: the metrics that it reads.
    """

    words: str
    holds: Callable[[Measured, Measured], bool]
    is_size: bool = False
    least: int = 0
    told: tuple[Callable[[Measured], str], ...] = ()
    metrics: tuple[str, ...] = ()

    def check(self, metrics: Collection[str]) -> None:
        """Check that what the limit reads is measured.

        Raises:
            BudgetError: a metric is not; the message lists those that are.
        """
        for name in self.metrics:
            if name not in metrics:
                known = ", ".join(map(repr, sorted(metrics))) or (
                    "none; evaluate= takes a function that returns some"
                )
                raise BudgetError(f"{self.words}: no metric {name!r} is measured. Known: {known}.")

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
@remade
def all_of(*limits: Condition) -> Limit:
    """Holds when all of these limits hold; plain functions are limits too."""
    return _joined("all_of", all, limits)


@checked
@remade
def any_of(*limits: Condition) -> Limit:
    """Holds when at least one of these limits holds; plain functions are limits too."""
    return _joined("any_of", any, limits)


def _joined(name: str, join: Callable[[list[bool]], bool], limits: Sequence[Condition]) -> Limit:
    each = [limit_of(limit) for limit in limits]
    return Limit(
        f"{name}({', '.join(limit.words for limit in each)})",
        # All are asked: what one reads of the start has to be measured at the start.
        lambda now, start: join([limit(now, start) for limit in each]),
        is_size=all(limit.is_size for limit in each),
        least=max((limit.least for limit in each), default=0),
        told=tuple(dict.fromkeys(told for limit in each for told in limit.told)),
        metrics=tuple(dict.fromkeys(name for limit in each for name in limit.metrics)),
    )
