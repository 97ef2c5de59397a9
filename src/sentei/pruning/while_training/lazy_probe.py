"""`LazyProbe`: a stand-in for a Probe that makes the real Probe when a criterion measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sentei.errors import CriterionError
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.probe.probe import Probe


@dataclass
class LazyProbe:
    """Give criteria the weights and the mask of a network; make a Probe only if one measures.

    Any attribute other than those below is read from the real Probe, which is made at the first
    such access.

    Attributes:
        model: the network.
        mask: what is alive.
        trajectory: the record of how training changed the weights; None if there is none.
        make: returns the Probe; None if there is no data to measure on.
        remedy: advice for the error message if there is no data.
    """

    model: nn.Module
    mask: Mask
    trajectory: Any
    make: Callable[[], Probe] | None
    remedy: str

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Probe  # for isinstance: criteria refuse what is no Probe

    def alive(self, group: Group) -> Tensor:
        """Return (size,) bool: which members of the group are alive."""
        return self.mask.alive(group)

    def __getattr__(self, name: str) -> Any:
        if self.make is None:
            raise CriterionError(
                f"this criterion measures ({name}), and there is no data: {self.remedy}"
            )
        probe = self.__dict__.setdefault("_probe", None) or self.make()
        probe.update_(self.mask)
        self.__dict__["_probe"] = probe
        return getattr(probe, name)
