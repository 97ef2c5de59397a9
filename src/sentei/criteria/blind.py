"""What stands in for a Probe where there is no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sentei.errors import CriterionError
from sentei.network.mask import Mask
from sentei.network.units import Group


@dataclass(frozen=True)
class Blind:
    """Knows a network's weights and what is alive; refuses to measure.

    Attributes:
        model: whose weights.
        mask: what is alive.
        trajectory: what training did to the weights, if that was recorded.
        remedy: what to do when a criterion wants more.
    """

    model: nn.Module
    mask: Mask
    trajectory: Any
    remedy: str

    def alive(self, group: Group) -> Tensor:
        """(size,) bool: which members were not cut."""
        return self.mask.alive(group)

    def __getattr__(self, name: str) -> Any:
        raise CriterionError(
            f"this criterion measures ({name}) where there is no data: {self.remedy}"
        )
