"""Exact ablation: score each unit by the measured rise in loss when it is removed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria.repairs.streams import is_stream
from sentei.criteria.repairs.table import Repair, repair
from sentei.criteria.repairs.where_possible import WherePossible, left_alone
from sentei.errors import CriterionError
from sentei.network.units import Branches, Group, Listener, Neurons, Synapses
from sentei.probe.probe import Probe


@checked
@dataclass(frozen=True)
class Ablation:
    """Rise in mean loss when each unit alone is removed: exact, for any network and loss.

    Removing a unit sets the columns that read it to zero in all its listeners; removing a branch,
    its parameters. Dead units score 0.

    Attributes:
        repair: the repair applied before each removal, by name or as a function; None for none. The
            loss is measured after the fold, which adds the repair's constant to the listener's
            bias. With `WherePossible`, as in "ablation-affine", groups for which there is no repair
            are measured without.

    Source: the brute-force criterion of Sharma, Wolfe and Raj, "The Incredible Shrinking Neural
    Network" (arXiv 1701.04465). The paper runs one forward pass for each unit, and does not repair.
    """

    repair: str | Repair | None = None

    def __post_init__(self) -> None:
        if self.repair is not None:
            repair(self.repair)

    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """Return the rises in mean loss, (size,) float64; lowest removed first.

        Raises:
            CriterionError: the group is a group of synapses; or of branches, with a repair.
            GroupError: a stream, with a repair.
        """
        if isinstance(group, Synapses):
            raise CriterionError(
                f"ablation scores whole units; {group.name!r} is a group of synapses. Score "
                'synapses with "magnitude"'
            )
        if self.repair is None:
            return probe.rises_without(group)
        if isinstance(self.repair, WherePossible) and (
            isinstance(group, Branches) or is_stream(group)
        ):
            return probe.rises_without(group)
        if isinstance(group, Branches):
            raise CriterionError(
                f"a repair gives the outputs of units to others; {group.name!r} is a group of "
                "branches. Score branches without a repair"
            )
        mix = None
        with left_alone(self.repair, group, what="scored"):
            mix = self._mixes(probe, group, self.repair)
        return probe.rises_without(group, mix=mix)

    def _mixes(self, probe: Probe, group: Neurons, how: str | Repair) -> dict[Listener, Tensor]:
        """Return for each listener the repair of each unit, (size, size + 1); 0 for dead units."""
        alive = probe.alive(group).nonzero().flatten()
        full = {}
        for part, rows in repair(how)(probe, group, alive, probe.mask, alone=True).items():
            full[part] = torch.zeros(group.size, group.size + 1, dtype=rows.dtype)
            full[part][alive] = rows
        return full


ablation = Ablation()
