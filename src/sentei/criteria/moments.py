"""Second moments of what units put out, as a Probe is asked for them."""

from __future__ import annotations

import torch
from torch import Tensor

from sentei.criteria.engines import listeners_of
from sentei.criteria.gram import Gram, Span
from sentei.criteria.hearing import pressed
from sentei.criteria.probe import Probe
from sentei.criteria.recording import Pass
from sentei.network.units import Group, Listener


def grams(probe: Probe, group: Group, *, precise: bool = True) -> dict[Listener, Gram]:
    """Second moments of a group's units, dead ones too, as each listener hears them.

    Args:
        probe: the network and its samples.
        group: of units.
        precise: multiply in float64; otherwise in the network's own type, which is faster.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.grams(recording, units, precise=precise)


def spans(probe: Probe, group: Group) -> dict[Listener, Span]:
    """What the alive units of a group know of each other, for each listener.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.spans(recording, units, probe.alive(group))


def pressure(probe: Probe, group: Group) -> Tensor:
    """(size,) float64 mean squared derivative of a sample's loss along a unit's output.

    Squares are added up over a unit's positions and columns. 0 for the dead.

    Raises:
        CriterionError: the loss has no derivative.
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        probe.check_smooth(recording, 1)
        listeners = listeners_of(recording.model, units)

        def of_block(block: Pass) -> Tensor:
            each = pressed(recording, block, listeners, probe.per_sample)
            return torch.stack([found.square().sum(1, dtype=torch.float64) for found in each]).sum(
                0
            )

        return probe.mean(of_block, group.size) * probe.alive(group)
