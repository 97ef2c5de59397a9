"""A repair that leaves alone the groups for which it is not possible."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from sentei.criteria.repairs.table import Repair, repair
from sentei.errors import StructureError
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener
from sentei.probe.probe import Probe

log = logging.getLogger("sentei")


@dataclass(frozen=True)
class WherePossible:
    """Repair as another repair does, but leave alone the groups for which that is not possible.

    Such groups are those whose units are read otherwise than by layer calls: by recurrent layers,
    or by weights that a network's own code multiplies with. They are pruned without a repair.

    Attributes:
        name: name of the other repair, which refuses these groups.
    """

    name: str

    def __call__(
        self, probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
    ) -> Mapping[Listener, Tensor]:
        """Return the mix of the other repair for each listener, (k, size + 1)."""
        return repair(self.name)(probe, group, units, mask, alone)


def method(how: str | Repair) -> Repair:
    """Return the function that fits the units: of `WherePossible` that of the other repair."""
    return repair(how.name if isinstance(how, WherePossible) else how)


@contextmanager
def left_alone(how: str | Repair | None, *groups: Group, what: str = "removed") -> Iterator[None]:
    """Log a refusal to repair these groups, in place of raising it, if `how` is `WherePossible`.

    Args:
        how: the repair.
        groups: what it is to repair.
        what: what happens to the units instead, without a repair: "removed" or "scored".
    """
    try:
        yield
    except StructureError as error:
        if not isinstance(how, WherePossible):
            raise
        names = ", ".join(repr(group.name) for group in groups)
        log.warning("units of %s are %s without a repair: %s", names, what, error)
