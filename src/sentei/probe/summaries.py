"""Summaries over a Probe's samples for criteria and repairs: moments, gradients, masked losses."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from sentei.devices import device_of
from sentei.errors import StructureError
from sentei.losses import per_sample_losses
from sentei.network.belonging import check_groups
from sentei.network.calls import Call, recorded_names
from sentei.network.example import undisturbed
from sentei.network.layout import Layout
from sentei.network.units import Group, Listener, Synapses
from sentei.probe.choosing import listeners_of
from sentei.probe.input_moments import InputMoments, layouts_of
from sentei.probe.probe import Probe
from sentei.probe.recording.listener_inputs import input_gradients, read_calls
from sentei.probe.recording.recording import Pass
from sentei.probe.second_moments import InverseCovariance, SecondMoments
from sentei.running import run

T = TypeVar("T")

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


@torch.no_grad()
def input_squares(probe: Probe, group: Synapses) -> InputMoments:
    """Return the mean square of what each column of a layer's weight reads.

    One pass over the samples gives those of all layers; they are kept until weights before a layer
    change.

    Raises:
        StructureError: the weight is used in other ways than by matrix products or convolutions.
        GroupError, StaleError: as `Probe.rises_without`.
    """
    with probe.measuring() as recording:
        found = probe.moments.input_squares(recording, _recorded_name(probe, group))
    return _known(found, group)


@torch.no_grad()
def input_products(probe: Probe, group: Synapses) -> InputMoments:
    """Return the mean products of what any two columns of a layer's weight read, in one pass.

    They take the square of the columns in memory.

    Raises:
        StructureError, GroupError, StaleError: as `input_squares`.
    """
    with probe.measuring() as recording:
        found = probe.moments.input_products(recording, _recorded_name(probe, group))
    return _known(found, group)


@torch.no_grad()
def layout_of(probe: Probe, group: Synapses) -> Layout:
    """Return how a layer's weight is a matrix, which a run on a few samples shows.

    Raises:
        StructureError, GroupError, StaleError: as `input_squares`.
    """
    name = _recorded_name(probe, group)
    with probe.measuring() as recording:
        return _known(layouts_of(recording, [name]).get(name), group)


def _recorded_name(probe: Probe, group: Synapses) -> str:
    """Return the name under which calls use a layer's weight; the group must be the model's."""
    check_groups(probe.model, [group])
    return recorded_names(probe.model)[group.parameter]


def _known(found: T | None, group: Synapses) -> T:
    """Return what was found of a layer; raise StructureError if it is None."""
    if found is None:
        raise StructureError(
            "what synapses read is known where all calls that use their weight are matrix "
            f"products, or all are convolutions; for {group.parameter!r} that is not so (it is "
            "used by another function, looked up like an embedding, or not used at all). Score "
            f'{group.name!r} with "magnitude", or leave it out with pick(groups, without=...).'
        )
    return found


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


@torch.no_grad()
def mean_norms(probe: Probe, group: Group) -> Tensor:
    """Compute the mean Euclidean norm of what a layer reads of each unit in one position.

    Returns:
        (size,) float64: the mean over samples, positions and listeners.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        listeners = listeners_of(recording.model, units)

        def of_block(block: Pass) -> Tensor:
            sums = torch.zeros(len(listeners), group.size, dtype=torch.float64)
            counts = torch.zeros(len(listeners), 1, dtype=torch.float64)

            def read(call: Call) -> None:
                part, at = listeners[call.weight], [*listeners].index(call.weight)
                if call.use.columns == part.dim:
                    columns = call.channels(part.index).to(call.input.device)
                    read = call.input.movedim(call.axis, 0)[columns.flatten()]
                    own = read.unflatten(0, (group.size, -1, part.index.shape[1])).flatten(3)
                    norms = own.norm(dim=2).flatten(1)
                    sums[at] += norms.sum(1, dtype=torch.float64).cpu()
                    counts[at] += norms.shape[1]

            read_calls(recording, block, listeners, read)
            known = counts[:, 0] > 0
            return (sums[known] / counts[known]).mean(0) * len(block.samples)

        return probe.mean(of_block, group.size)


def loss_of(probe: Probe, trial: nn.Module) -> float:
    """Compute the mean loss on a Probe's samples of another network, such as a changed copy.

    Raises:
        LossError: the loss is not one number per sample.
    """
    samples, total = probe.samples, 0.0
    with undisturbed(trial):
        for block in samples.blocks(samples.boundaries(_ROWS)):
            own = block.rows(0, len(block), device_of(trial))
            outputs = probe.chosen.takes(run(trial, own.inputs))
            values = per_sample_losses(probe.per_sample, outputs, own.targets)
            total += float(values.double().sum())
    return total / len(samples)
