"""What every step is measured with: a Probe, and a function of the user's for other metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Annotated, Any

from torch import Tensor, nn

from sentei.distributed import on_main
from sentei.errors import GroupError, MetricError
from sentei.kinds import kind_of, shown
from sentei.metrics import R2
from sentei.network.example import undisturbed
from sentei.network.mask import Mask
from sentei.probe.probe import Probe
from sentei.pruning.measuring import COLUMNS, Measurement, Outline, measure

MetricFunction = Annotated[
    Callable[[nn.Module], float | Mapping[str, float]],
    "samples, a Probe, or a function of the network that returns a number or a dict of numbers",
]
ALONE = "metric"  # the name of a function's only number


class Judge:
    """Measure the steps of a run.

    Args:
        model: the network of the run.
        probe: the Probe of the run.
        evaluate: samples, or a Probe, on which accuracy and loss are measured; those of `probe` if
            None. Or `metric`, with accuracy and loss of `probe`.
        metric: a function of the network that returns other metrics.

    Attributes:
        probe: measures accuracy and loss.
        name: the qualified name of the function; None without one.
        outline: of the network at full size.
        metrics: the names that are measured; None before the first time.

    Raises:
        GroupError: a Probe of another model.
        TypeError: a function that cannot be called with the network alone; or two functions.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        evaluate: Any = None,
        metric: MetricFunction | None = None,
    ):
        self.model, self.probe = model, probe
        self.function = metric
        if _is_function(evaluate):
            if metric is not None:
                raise TypeError(
                    "prune: `evaluate` and `metric` are both functions of the network; return all "
                    "metrics from one, and pass samples as evaluate="
                )
            self.function = evaluate
        elif evaluate is not None:
            self.probe = evaluate if isinstance(evaluate, Probe) else probe.on(evaluate)
        for name, each in (("the probe", probe), ("evaluate=", self.probe)):
            if each.model is not model:
                raise GroupError(
                    f"{name} belongs to another model; make it with Probe(model, data)"
                )
        self.name = None if self.function is None else _qualified_name(self.function)
        self.outline = Outline(model, self.probe.example)
        self.metrics: frozenset[str] | None = None

    def measure(self, mask: Mask) -> Measurement:
        """Measure the masked network.

        Raises:
            MetricError: the function returns something else than finite numbers, a name that stands
                for something else, or other names than before.
        """
        found = measure(self.model, mask, self.probe, self.outline)
        metrics = {**found.metrics, **self._own(found.metrics)}
        self.expect_(metrics)
        return replace(found, metrics=metrics)

    def expect_(self, metrics: Mapping[str, float]) -> None:
        """Note which metrics a step has; every other one has to have the same.

        Raises:
            MetricError: they are others than before.
        """
        names = frozenset(metrics)
        if self.metrics is not None and names != self.metrics:
            raise MetricError(
                f"every step has the same metrics; those of {self.name} were {_listed(names)} at "
                f"one step and {_listed(self.metrics)} at another. Return a value for every name "
                "at every call."
            )
        self.metrics = names

    def _own(self, taken: Mapping[str, float]) -> dict[str, float]:
        if self.function is None:
            return {}
        numbers = own_metrics(self.function, self.model)
        for name in numbers:
            if name in COLUMNS or name in taken or name == R2:
                raise MetricError(
                    f"{name!r} is measured by the Probe; {self.name} has to return its metric "
                    f"under another name, such as {'my_' + name!r}"
                )
        return on_main(lambda: numbers)  # other ranks may have counted in another order


def own_metrics(function: MetricFunction, model: nn.Module) -> dict[str, float]:
    """Return the metrics of a network by name, from a function that it leaves undisturbed.

    Raises:
        MetricError: the function returns something else than finite numbers.
    """
    with undisturbed(model):
        returned = function(model)
    found = returned if isinstance(returned, Mapping) else {ALONE: returned}
    who = _qualified_name(function)
    if unnamed := [name for name in found if not isinstance(name, str) or not name]:
        raise MetricError(f"metrics have names; {who} returned {shown(unnamed[0])} as one")
    return {name: _number(who, name, value) for name, value in found.items()}


def _number(who: str, name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    if number is None or not math.isfinite(number):
        which = "a number or a dict of numbers" if name == ALONE else f"a number as {name!r}"
        raise MetricError(
            f"{who} has to return {which}, finite at every step; it returned {shown(value)}"
        )
    return number


def _is_function(evaluate: Any) -> bool:
    """Return whether `evaluate` is a function of the network, and no samples.

    Raises:
        TypeError: it can be called, but not with the network alone.
    """
    is_data = any(hasattr(evaluate, name) for name in ("__iter__", "__getitem__"))
    if evaluate is None or isinstance(evaluate, Probe) or is_data or not callable(evaluate):
        return False
    kind = kind_of(MetricFunction)
    if kind is not None and not kind.fits(evaluate):
        raise TypeError(f"prune: `evaluate` must be {kind.words}; got {shown(evaluate)}.")
    return True


def _qualified_name(function: Any) -> str:
    """Return the name of a function, or that of the class of an object that can be called."""
    if isinstance(function, partial):
        return _qualified_name(function.func)
    return getattr(function, "__qualname__", type(function).__qualname__)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
