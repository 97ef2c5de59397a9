"""Summaries over a Probe's samples for criteria and repairs: moments, gradients, masked losses."""

from __future__ import annotations

import torch
from torch import Tensor

from sentei.losses import per_sample_losses
from sentei.network.copying import copied
from sentei.network.example import undisturbed
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener
from sentei.probe.choosing import listeners_of
from sentei.probe.probe import Probe
from sentei.probe.recording.listener_inputs import input_gradients
from sentei.probe.recording.recording import Pass, device_of
from sentei.probe.second_moments import InverseCovariance, SecondMoments
from sentei.running import run

_ROWS = 2500  # samples per batch when a masked copy is run


def second_moments(
    probe: Probe, group: Group, *, precise: bool = True
) -> dict[Listener, SecondMoments]:
    """Return the second moments of a group's outputs, dead units included, by listener.

    Args:
        probe: the network and its samples.
        group: a group of units.
        precise: multiply in float64; otherwise in the network's dtype, which is faster.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.second_moments(recording, units, precise=precise)


def inverse_covariances(probe: Probe, group: Group) -> dict[Listener, InverseCovariance]:
    """Return the inverse covariance of a group's alive units, by listener.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.inverse_covariances(recording, units, probe.alive(group))


def mean_squared_gradient(probe: Probe, group: Group) -> Tensor:
    """Compute the mean over samples of the squared derivative of the loss by each unit's output.

    Squares are added over a unit's positions and columns.

    Returns:
        (size,) float64; 0 for dead units.

    Raises:
        CriterionError: the loss has no derivative.
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        probe.check_smooth(recording, 1)
        listeners = listeners_of(recording.model, units)

        def of_block(block: Pass) -> Tensor:
            gradients = input_gradients(recording, block, listeners, probe.per_sample)
            return torch.stack([g.square().sum(1, dtype=torch.float64) for g in gradients]).sum(0)

        return probe.mean(of_block, group.size) * probe.alive(group)


def loss_with_mask(probe: Probe, mask: Mask) -> float:
    """Compute the mean loss on a Probe's samples of a copy of the model with a mask applied.

    Raises:
        GroupError: the mask does not belong to the model.
        LossError: the loss is not one number per sample.
    """
    trial = copied(probe.model)
    mask.apply_(trial)
    samples, total = probe.samples, 0.0
    with undisturbed(trial):
        for block in samples.blocks(samples.boundaries(_ROWS)):
            own = block.rows(0, len(block), device_of(trial))
            outputs = probe.chosen.takes(run(trial, own.inputs))
            values = per_sample_losses(probe.per_sample, outputs, own.targets)
            total += float(values.double().sum())
    return total / len(samples)
