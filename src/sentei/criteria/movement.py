"""Criteria for single weights: their change in training, and the gradient of the loss by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.criteria.trajectory import recorded
from sentei.errors import CriterionError
from sentei.losses import per_sample_losses
from sentei.network.belonging import check_groups
from sentei.network.units import Branches, Group, Neurons, Synapses, members_word
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Pass


@checked
@torch.no_grad()
def wsf(probe: Probe, group: Group) -> Tensor:
    """Weight significance factor of a synapse: its change in training, |w - w(0)|.

    w(0) is the weight when the Probe's trajectory began, however often the network was retrained
    since. Under plain SGD, a synapse from an input that is always zero does not change; weight
    decay changes it, and Adam rescales the changes of synapses that change rarely.

    Returns:
        (size,) float64; lowest removed first.

    Raises:
        CriterionError: no trajectory, or a group of units.

    Source: Bulin and Smidl (2017), Insight of Neural Network by Removing Synapses.
    """
    if not isinstance(group, Synapses):
        raise CriterionError(
            f"wsf scores single synapses; {group.name!r} is a group of {members_word(group)}. "
            "Use groups "
            "from find_synapses; the sweep removes units that have no synapses left"
        )
    trajectory = recorded(probe, "wsf", group)
    weight = probe.model.get_parameter(group.parameter)
    moved = weight.double() - trajectory.start(group.parameter).double()
    return moved.abs().flatten().cpu()


@checked
@torch.no_grad()
def karnin(probe: Probe, group: Group) -> Tensor:
    """Karnin's sensitivity: estimated rise in loss if a synapse is set to zero.

    The sum over training updates of -gradient times weight change is the synapse's share of the
    fall in loss. Scaled by w / (w - w(0)), it estimates the rise in loss if the weight moves from
    its value to zero along the line on which it came from w(0). A unit's score is the sum over the
    synapses that read it. The gradient is that of each update's batch. Multiplying it by the actual
    weight change makes the sum valid for every optimizer, not only for plain gradient descent.

    Returns:
        (size,) float64, in the loss's unit, 0 for a weight that never changed; lowest removed
        first.

    Raises:
        CriterionError: no trajectory, or a group of branches.

    Source: Karnin (1990), A simple procedure for pruning back-propagation trained neural networks.
    """
    check_groups(probe.model, [group])
    if isinstance(group, Branches):
        raise CriterionError(
            f"karnin scores units and synapses; {group.name!r} is a group of branches. Score "
            'branches with "ablation"'
        )
    if not isinstance(group, Neurons):
        return _karnin(probe, group, group.parameter).flatten()
    total = torch.zeros(group.size, dtype=torch.float64)
    for part in group.listeners:
        columns = _karnin(probe, group, part.parameter).movedim(part.dim, 0)[part.index]
        total += columns.flatten(1).sum(1)
    return total


def _karnin(probe: Probe, group: Group, parameter: str) -> Tensor:
    """Karnin's sensitivity of every entry of a parameter, float64, shaped like it."""
    trajectory = recorded(probe, "karnin", group)
    weight = probe.model.get_parameter(parameter).double()
    moved = weight - trajectory.start(parameter).double()
    scale = torch.where(moved == 0, 0.0, weight / moved.where(moved != 0, 1.0))
    return (trajectory.karnin(parameter) * scale).cpu()


@checked
def gradient(probe: Probe, group: Group) -> Tensor:
    """Absolute derivative of the mean loss by each weight, dead synapses included.

    It shows where regrowing a dead synapse would reduce the loss.

    Returns:
        (size,) float64, of the mean loss in evaluation mode.

    Raises:
        CriterionError: a group of units.
        LossError: the loss is not finite.
        StaleError: weights changed without `Probe.update_` or `Probe.forget_`.
    """
    if not isinstance(group, Synapses):
        raise CriterionError(
            f"gradient scores single synapses; {group.name!r} is a group of {members_word(group)}. "
            "Use "
            "groups from find_synapses"
        )
    weight = probe.model.get_parameter(group.parameter)

    def of_block(block: Pass) -> Tensor:
        with torch.enable_grad():
            outputs = recording.output(block.samples)
            losses = per_sample_losses(probe.per_sample, outputs, block.samples.targets)
            total = losses.sum()
            (slope,) = torch.autograd.grad(total, weight, materialize_grads=True)
        return slope.double().flatten().cpu()

    with _differentiable(weight), probe.measuring() as recording:
        return recording.mean("outputs", of_block, group.size).abs()


@contextmanager
def _differentiable(weight: nn.Parameter) -> Iterator[None]:
    """Make a weight require grad inside the block, frozen or not, and restore it afterwards."""
    before = weight.requires_grad
    weight.requires_grad_(True)
    try:
        yield
    finally:
        weight.requires_grad_(before)
