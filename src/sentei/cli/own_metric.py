"""Measure a metric of the user's own at every step, and limits on it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from sentei.cli import references
from sentei.cli.options import UNTIL
from sentei.pruning.rules import limits

if TYPE_CHECKING:
    from torch import nn

    from sentei.datasets import Samples
    from sentei.pruning.measuring import Measurement
    from sentei.pruning.rules.limits import Limit
    from sentei.reporting.page.network_facts import Facts

_Measured = TypeVar("_Measured", "Measurement", "Facts")


@Parameter(name="*", group=UNTIL)
@dataclass(frozen=True)
class Metric:
    """A metric of the user's own, and floors for it.

    Attributes:
        metric: Your own metric: file.py:name of a function of the network, or of the network and
            the validation samples (inputs, targets), that returns a number, or numbers by name.
            It is measured at every step, and on the test samples before and after.
        metric_at_least: Undo a step that lowers the metric below this: 0.9, or NAME=0.9 where the
            function returns numbers by name.
        metric_at_most: Undo a step that raises the metric above this, in the same form.
        metric_within: Undo a step that lowers the metric by more than this since the start, in the
            same form.
        metric_lower_is_better: Smaller values of the metric are better, as of an error:
            --metric-within limits how far it rises.
    """

    metric: str | None = None
    metric_at_least: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    metric_at_most: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    metric_within: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    metric_lower_is_better: bool = False

    def floors(self) -> list[Limit]:
        """Return the limits that every step has to keep to.

        Raises:
            ValueError: one that is no number, and no name and number.
        """
        within = [_named(text) for text in self.metric_within or ()]
        lower = self.metric_lower_is_better
        return [
            *(limits.metric_within(*each, lower_is_better=lower) for each in within),
            *(limits.metric_at_least(*_named(text)) for text in self.metric_at_least or ()),
            *(limits.metric_at_most(*_named(text)) for text in self.metric_at_most or ()),
        ]

    def function(self) -> Any:
        """Return the user's function; None if there is none.

        Raises:
            ValueError: what `--metric` names is no function.
            FileNotFoundError, OwnCodeError: as `references.referred`.
        """
        if self.metric is None:
            return None
        found: Any = references.referred(self.metric)
        if not callable(found) or isinstance(found, type):
            raise ValueError(
                f"--metric {self.metric} must name a function of the network, or of the network "
                "and (inputs, targets)"
            )
        return found

    def measured_on(self, function: Any, samples: Samples) -> Callable[[nn.Module], Any]:
        """Return a function of the network alone, which gives the user's function what it takes.

        Args:
            function: of the network, or of the network and (inputs, targets).
            samples: what (inputs, targets) are.
        """
        both = len(_required(function)) > 1

        @functools.wraps(function)
        def measured(network: nn.Module) -> Any:
            more = ((samples.inputs, samples.targets),) if both else ()
            return references.called(str(self.metric), function, "the metric", network, *more)

        vars(measured).pop("__wrapped__")  # it takes the network alone
        measured.__name__ = str(self.metric).rpartition(":")[2]
        return measured


def titled(found: _Measured, function: Callable[..., Any] | None) -> _Measured:
    """Return measurements as they are shown: a metric without a name gets its function's too.

    Args:
        found: what was measured.
        function: of `Metric.measured_on`; None without one.
    """
    from sentei.pruning.judging import ALONE

    if function is None or ALONE not in found.metrics:
        return found
    title = f"{ALONE} ({function.__name__})"
    names = {ALONE: title}
    return replace(found, metrics={names.get(n, n): value for n, value in found.metrics.items()})


def _required(function: Any) -> list[inspect.Parameter]:
    """Return the parameters that have to be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a function written in C
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each for each in parameters if each.kind in kinds and each.default is each.empty]


def _named(text: str) -> tuple[str, float]:
    """Return the name and the number of a limit."""
    name, _, number = text.rpartition("=")
    try:
        return name or "metric", float(number)
    except ValueError:
        raise ValueError(f"a limit of a metric is a number, or NAME=NUMBER; got {text!r}") from None
