"""Exact ablation: what the loss would be without each unit, measured."""

from __future__ import annotations

from torch import Tensor

from sentei.criteria.probe import Probe
from sentei.errors import CriterionError
from sentei.network.units import Group, Neurons


def ablation(probe: Probe, group: Group) -> Tensor:
    """Rise in mean loss if each unit alone were removed: exact, for any network and loss.

    A removed unit's columns are zero in all its listeners. Dead units score 0.

    Args:
        probe: the network and its samples.
        group: whose units.

    Returns:
        (size,) float64, in the loss's unit; lower goes first.

    Raises:
        CriterionError: the group is one of synapses.

    Source: the brute-force criterion of Sharma, Wolfe and Raj, "The Incredible Shrinking Neural
    Network" (arXiv 1701.04465), there one forward pass for each unit.
    """
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"ablation scores whole units, and {group.name!r} is a group of synapses; score those "
            'with "magnitude"'
        )
    return probe.rises_without(group)
