"""Scores read off a Trajectory, and where growth would help: how weights moved, or would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sentei.criteria.trajectory import recorded
from sentei.errors import CriterionError
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Pass, model_output


@torch.no_grad()
def wsf(probe: Probe, group: Group) -> Tensor:
    """Weight significance factor of a synapse: how far training moved it, |w - w(0)|.

    w(0) is the weight when the Probe's trajectory began, however often the network was retrained
    since. A synapse from an input that never varies from zero does not move under plain SGD; weight
    decay moves it, and Adam rescales those that move rarely.

    Returns:
        (size,) float64; lower goes first.

    Raises:
        CriterionError: no trajectory, or a group of units.

    Source: Bulin and Smidl (2017), Insight of Neural Network by Removing Synapses.
    """
    if isinstance(group, Neurons):
        raise CriterionError(
            f"wsf scores single synapses, and {group.name!r} is a group of {group.kind}s; take "
            "groups from find_synapses, and let the sweep remove units that are left with nothing"
        )
    trajectory = recorded(probe, "wsf", group)
    weight = probe.model.get_parameter(group.parameter)
    moved = weight.double() - trajectory.start(group.parameter).double()
    return moved.abs().flatten().cpu()


@torch.no_grad()
def karnin(probe: Probe, group: Group) -> Tensor:
    """Karnin's sensitivity: how much of the fall in loss in training is a synapse's own work.

    -sum over updates of gradient times change of weight, scaled by w / (w - w(0)): what the loss
    would rise by if the weight went on from its value to zero along the line it came. A unit's is
    the sum over the synapses that read it. The gradient is each update's own, of its batch; the
    product with the change itself holds for every optimizer, not for plain descent alone.

    Returns:
        (size,) float64, in the loss's unit; 0 for a weight that never moved; lower goes first.

    Raises:
        CriterionError: no trajectory.

    Source: Karnin (1990), A simple procedure for pruning back-propagation trained neural networks.
    """
    if not isinstance(group, Neurons):
        return _karnin(probe, group, group.parameter).flatten()
    total = torch.zeros(group.size, dtype=torch.float64)
    for part in group.listeners:
        columns = _karnin(probe, group, part.parameter).movedim(part.dim, 0)[part.index]
        total += columns.flatten(1).sum(1)
    return total


def _karnin(probe: Probe, group: Group, parameter: str) -> Tensor:
    trajectory = recorded(probe, "karnin", group)
    weight = probe.model.get_parameter(parameter).double()
    moved = weight - trajectory.start(parameter).double()
    share = torch.where(moved == 0, 0.0, weight / moved.where(moved != 0, 1.0))
    return (trajectory.karnin(parameter) * share).cpu()


def gradient(probe: Probe, group: Group) -> Tensor:
    """Size of the loss's derivative by each weight, dead ones too: where giving back would help.

    Returns:
        (size,) float64, of the mean loss in evaluation mode.

    Raises:
        CriterionError: a group of units.
        LossError: the loss is not finite.
        StaleError: weights changed unannounced.
    """
    if isinstance(group, Neurons):
        raise CriterionError(
            f"gradient scores single synapses, and {group.name!r} is a group of {group.kind}s"
        )
    weight = probe.model.get_parameter(group.parameter)

    def of_block(block: Pass) -> Tensor:
        with torch.enable_grad():
            found = model_output(probe.model, block.samples)
            total = probe.per_sample(found, block.samples.targets).sum()
            (slope,) = torch.autograd.grad(total, weight, materialize_grads=True)
        return slope.double().flatten().cpu()

    with _differentiable(weight):
        return probe.mean(of_block, group.size).abs()


@contextmanager
def _differentiable(weight: nn.Parameter) -> Iterator[None]:
    """Let a derivative by this weight be taken, frozen or not."""
    before = weight.requires_grad
    weight.requires_grad_(True)
    try:
        yield
    finally:
        weight.requires_grad_(before)
