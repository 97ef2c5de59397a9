"""The errors of sentei.

    PruningError
    ├── StructureError      the network cannot be traced or cut
    │   └── CertificateError    a cut or exported network does not compute the same function
    ├── GroupError          a group, unit or synapse that the model does not have  (also ValueError)
    ├── DataError           data of the wrong shape, width or content              (also ValueError)
    ├── BudgetError         a budget or floor that no network can meet             (also ValueError)
    │   └── UnreachableError    a budget below the smallest network that can be reached
    ├── ScheduleError       a schedule that rises or ends at an impossible size    (also ValueError)
    ├── CriterionError      a criterion whose scores cannot be used
    ├── MetricError         a metric of the user's that is no finite number
    ├── LossError           a loss that is not finite, or not per sample
    │   └── TargetsError        targets that the loss does not fit                 (also DataError)
    ├── StaleError          weights changed since the Probe recorded them
    ├── JournalError        a run folder that belongs to another run
    │   └── IncompleteError     results of other shares of the jobs are missing
    ├── JobError            a process or a cluster that cannot run jobs
    └── FileError           a file that is truncated, not sentei's, too new or unwritable

Every message names the rule that was broken, the value that broke it and what to do instead. Errors
are raised before anything has changed. Plain misuse (an unknown name, a negative count) is a
ValueError, and an argument of the wrong kind a TypeError (see `sentei.arguments`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

# What moves the cursor, colours, hides or reorders text on a terminal, or cannot be encoded.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return text for a terminal, with control characters spelled out: as backslash, x, 1, b.

    Names of files, columns, classes and layers may come from others; none is printed without this.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PruningError(Exception):
    """Base class of the errors of sentei; plain misuse is a ValueError or a TypeError instead."""

    def __str__(self) -> str:
        """Return the message, in which names cannot hide or change anything."""
        return visible(super().__str__())


class StructureError(PruningError):
    """The network cannot be traced, or cannot be cut as requested."""


class CertificateError(StructureError):
    """A cut or exported network does not compute the same outputs as the one it was made from."""


class GroupError(PruningError, ValueError):
    """A group, unit or synapse that the model does not have."""


class DataError(PruningError, ValueError):
    """Data of the wrong shape, width, type or content."""


class BudgetError(PruningError, ValueError):
    """A budget or a floor that no network can meet."""


class UnreachableError(BudgetError):
    """A budget below the smallest network that can be reached; its size is in the message."""


class ScheduleError(PruningError, ValueError):
    """A schedule that keeps more members than are left, or ends at an impossible size."""


class CriterionError(PruningError):
    """A criterion whose scores have the wrong shape or are not numbers."""


class MetricError(PruningError):
    """A metric of the user's that is no finite number, or is not measured at every step."""


class LossError(PruningError):
    """A loss that is not finite, or is not one number per sample."""


class TargetsError(LossError, DataError):
    """Targets whose shape, type or values do not fit the loss; the message names losses that do."""


class StaleError(PruningError):
    """Weights changed since the Probe recorded activations, so its cached values are wrong."""


class JournalError(PruningError):
    """A run folder that belongs to another run or is damaged."""


class IncompleteError(JournalError):
    """A folder of results that lacks those of other shares of the jobs, so nothing is judged."""


class JobError(PruningError):
    """A process that was killed while it ran a job, or a cluster whose workers cannot run jobs."""


class FileError(PruningError):
    """A file that is truncated, not sentei's, from a newer version, or cannot be written."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the message for a name that is not in `known`, with the closest known name."""
    names = sorted(known)
    closest = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}."
