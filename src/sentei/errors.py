"""The errors of sentei.

    PruningError
    ├── StructureError      the network cannot be followed or cut
    │   └── CertificateError    a cut network is not the same function
    ├── GroupError          a group, unit or synapse that the model does not have  (also ValueError)
    ├── DataError           data of the wrong shape, width or content              (also ValueError)
    ├── BudgetError         a budget or floor that cannot be                       (also ValueError)
    │   └── UnreachableError    … even with everything removed that can be
    ├── ScheduleError       a schedule that cannot be                              (also ValueError)
    ├── CriterionError      a criterion whose scores cannot be used
    ├── LossError           a loss that is not finite, or not per sample
    ├── StaleError          weights changed behind the Probe's back
    ├── JournalError        a run folder that belongs to another run
    └── FileError           a file that is truncated, foreign, newer or unwritable

Every message names the rule that was broken, the value that broke it and what to do instead, and
is raised before anything has changed. Plain misuse (an unknown name, a negative count) is a
ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PruningError(Exception):
    """Anything that sentei refuses to do; the root of its errors."""


class StructureError(PruningError):
    """The network cannot be followed, or cannot be cut as asked."""


class CertificateError(StructureError):
    """The cut network does not compute what the masked one computes."""


class GroupError(PruningError, ValueError):
    """A group, unit or synapse that the model does not have."""


class DataError(PruningError, ValueError):
    """Data of the wrong shape, width, type or content."""


class BudgetError(PruningError, ValueError):
    """A budget or a floor that no network can meet."""


class UnreachableError(BudgetError):
    """A budget below the smallest network that can be reached; its size is in the message."""


class ScheduleError(PruningError, ValueError):
    """A schedule that rises, or ends where it cannot."""


class CriterionError(PruningError):
    """A criterion whose scores have the wrong shape or are not numbers."""


class LossError(PruningError):
    """A loss that is not finite, or is not one number per sample."""


class StaleError(PruningError):
    """Weights changed without the Probe being told, so that its cache is wrong."""


class JournalError(PruningError):
    """A run folder that cannot be used: another run's, or damaged."""


class FileError(PruningError):
    """A file that is truncated, foreign, from a newer version or cannot be written."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Message for a name that is not one of the `known`, with the nearest as a suggestion."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}."
