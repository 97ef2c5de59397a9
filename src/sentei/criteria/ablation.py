"""Exact ablation: what the loss would be without each unit, measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.criteria.repairs.table import Repair, repair
from sentei.errors import CriterionError
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe


@dataclass(frozen=True)
class Ablation:
    """Rise in mean loss if each unit alone were removed: exact, for any network and loss.

    A removed unit's columns are zero in all its listeners. Dead units score 0.

    Attributes:
        repair: who takes over a unit's work before it goes, by name or as a function; nobody if
            None. The loss is measured after the fold, with its constant in the listener's bias.

    Source: the brute-force criterion of Sharma, Wolfe and Raj, "The Incredible Shrinking Neural
    Network" (arXiv 1701.04465), there one forward pass for each unit, and without repair.
    """

    repair: str | Repair | None = None

    def __post_init__(self) -> None:
        if self.repair is not None:
            repair(self.repair)

    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """(size,) float64, in the loss's unit; lower goes first.

        Raises:
            CriterionError: the group is one of synapses.
        """
        if not isinstance(group, Neurons):
            raise CriterionError(
                f"ablation scores whole units, and {group.name!r} is a group of synapses; score "
                'those with "magnitude"'
            )
        if self.repair is None:
            return probe.rises_without(group)
        alive = probe.alive(group).nonzero().flatten()
        mix = repair(self.repair)(probe, group, alive, probe.mask, alone=True)
        whole = {}
        for part, rows in mix.items():
            whole[part] = torch.zeros(group.size, group.size + 1, dtype=rows.dtype)
            whole[part][alive] = rows
        return probe.rises_without(group, mix=whole)


ablation = Ablation()
