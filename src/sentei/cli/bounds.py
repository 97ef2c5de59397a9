"""Types of options that have bounds: a value outside is refused before a command starts.

Every option that takes a number has one of these types, and none takes NaN or infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from sentei.pruning.rules import limits, schedules

MOST = 10**9

Count = Annotated[int, Parameter(validator=Number(gte=1, lte=MOST))]
CountOrNone = Annotated[int, Parameter(validator=Number(gte=0, lte=MOST))]
Threads = Annotated[int, Parameter(validator=Number(gte=1, lte=1024))]
Port = Annotated[int, Parameter(validator=Number(gte=0, lt=2**16))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**32))]
Above0 = Annotated[float, Parameter(validator=Number(gt=0, lte=MOST))]
From0 = Annotated[float, Parameter(validator=Number(gte=0, lte=MOST))]
Share = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Degrees = Annotated[float, Parameter(validator=Number(gte=0, lte=90))]


def accepted_by(check: Callable[[Any], object]) -> Parameter:
    """Return the bounds of a value that a function of the library checks: it raises ValueError."""
    return Parameter(validator=lambda _, value: None if value is None else check(value))


Amount = Annotated[str, accepted_by(lambda keep: schedules.amount(keep, 100))]
Duration = Annotated[str, accepted_by(limits.parse_seconds)]
Size = Annotated[str, accepted_by(lambda size: limits.MemoryBudget("safetensors", size))]
