"""What stands in for a Probe until somebody measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sentei.errors import CriterionError
from sentei.network.mask import Mask
from sentei.network.units import Group

if TYPE_CHECKING:
    from sentei.probe.probe import Probe


@dataclass
class LazyProbe:
    """Knows a network's weights and what is alive; a Probe is only made if a criterion measures.

    Attributes:
        model: whose weights.
        mask: what is alive.
        trajectory: what training did to the weights, if that was recorded.
        make: makes the Probe; None where there is no data.
        remedy: what to do then.
    """

    model: nn.Module
    mask: Mask
    trajectory: Any
    make: Callable[[], Probe] | None
    remedy: str

    def alive(self, group: Group) -> Tensor:
        """(size,) bool: which members were not cut."""
        return self.mask.alive(group)

    def __getattr__(self, name: str) -> Any:
        if self.make is None:
            raise CriterionError(
                f"this criterion measures ({name}) where there is no data: {self.remedy}"
            )
        probe = self.__dict__.setdefault("_probe", None) or self.make()
        probe.mask = self.mask
        self.__dict__["_probe"] = probe
        return getattr(probe, name)
