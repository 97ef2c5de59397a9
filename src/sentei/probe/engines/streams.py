"""Measure the units of a stream, which norms count: the loss without each, by whole passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sentei.errors import CriterionError
from sentei.probe.engines.gates import Gates
from sentei.probe.engines.whole_passes import WholePasses
from sentei.probe.recording.recording import Need, Pass, Slope


@dataclass(eq=False)
class Streams:
    """Engine for the units of a stream.

    Without a unit all norms of the stream divide by other statistics, so that whatever is recorded
    changes: the network runs once for each unit. Derivatives are those along gates at the
    listeners, as for other units, with the statistics as they are.

    Attributes:
        whole: runs the network with zeros in all that computes, passes on and reads a unit.
        gates: an engine for the listeners.
    """

    whole: WholePasses
    gates: Gates | WholePasses

    @property
    def need(self) -> Need:
        """What a pass must record."""
        return self.gates.need

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of a block's summed loss with each unit removed alone, (k,) float64."""
        return self.whole.rises(block, units)

    def rises_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of each sample's loss with each unit removed alone, (k, n)."""
        return self.whole.rises_by_sample(block, units)

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """Return the rise of the summed loss with each unit's gate at 0 or 1, (k, g) float64.

        Raises:
            CriterionError: any other gain.
        """
        if ((gains != 0) & (gains != 1)).any():
            raise CriterionError(
                "a unit of a stream is there or not, because the norms over the stream count it; "
                f"gains are 0 or 1, and one is {float(gains[(gains != 0) & (gains != 1)][0]):g}. "
                "Measure groups of another kind."
            )
        return self.whole.rises_at_gains(block, units, gains)

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """Refuse to measure repairs.

        Raises:
            CriterionError: always.
        """
        del block, units, mixes
        raise CriterionError(NO_REPAIR)

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """Return the derivative of the summed loss along each unit's gate, (k,) float64."""
        return self.gates.slopes(block, units, asked)

    def slopes_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the derivative of each sample's loss along each unit's gate, (k, n)."""
        return self.gates.slopes_by_sample(block, units)

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """Return the second derivative of the summed loss along each unit's gate, (k,) float64."""
        return self.gates.curvatures(block, units, kind)


NO_REPAIR = (
    "no other unit of a stream takes the place of a removed one, because norms count them and "
    "layers of all blocks read them; measure without a repair, or leave streams out: "
    'sentei.pick(groups, without=(name,)). Only repair="least_squares" of `ranked` and `below` '
    "repairs a stream: it fits the layers that read it anew"
)
