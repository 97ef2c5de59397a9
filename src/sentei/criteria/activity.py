"""Criteria computed from units' outputs: size, variance, contribution, similarity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import CriterionError, unknown
from sentei.network.units import Group, Listener, Neurons, members_word, tensor_of
from sentei.probe.probe import Probe
from sentei.probe.second_moments import SecondMoments
from sentei.probe.summaries import mean_norms, mean_squared_gradient, second_moments

CENTRES = ("half", "mean", "minmax", "none")
CONSTANT = 1e-12  # a unit whose variance is below this part of its mean square is constant


@checked
def angles(probe: Probe, group: Group, centre: str = "half", *, precise: bool = False) -> Tensor:
    """Compute the angles between units' output vectors over the samples, in degrees.

    A unit's vector holds its outputs at its listeners, over all samples, positions and columns. The
    vectors are streamed, never stored whole. With `centre="half"` constant units, dead ones among
    them, have an angle too, but it carries no information: see `steady`.

    Args:
        probe: the network and its samples.
        group: the group of the units.
        centre: what is subtracted from the outputs first: "half" (0.5, the middle of a sigmoid's
            range), "mean" (each unit's own: the arc cosine of correlation), "minmax" (halfway
            between each unit's least and largest output) or "none" (nothing).
        precise: multiply in float64 instead of the network's dtype, in which angles near 0 and 180
            are accurate to about 0.03 degrees.

    Returns:
        (size, size) float64; NaN where a vector is zero and so has no direction.

    Raises:
        GroupError: a group of synapses.
        ValueError: an unknown centre.

    Source: Gedeon and Harris (1991), with "half"; their worked example fits no other centre.
    """
    moments = second_moments(probe, group, precise=precise)
    dots = torch.stack([_about(each, centre) for each in moments.values()]).sum(0)
    lengths = dots.diagonal().clamp(min=0).sqrt()
    is_zero = lengths <= 1e-7 * torch.stack([_scale(each) for each in moments.values()]).sum(0)
    cosines = dots / lengths / lengths[:, None]
    cosines.masked_fill_(is_zero | is_zero[:, None], torch.nan)
    degrees = cosines.clamp_(-1, 1).acos_().rad2deg_().cpu()
    degrees.diagonal()[~is_zero.cpu()] = 0
    return degrees


def steady(probe: Probe, group: Group, *, precise: bool = True) -> Tensor:
    """(size,) bool: which units output the same number on all samples, dead ReLUs among them."""
    steady = [
        moments.covariance.diagonal()
        <= CONSTANT * (moments.means.square() + moments.covariance.diagonal().mean())
        for moments in second_moments(probe, group, precise=precise).values()
    ]
    return torch.stack(steady).all(0).cpu()


@checked
def distinctiveness(probe: Probe, group: Group) -> Tensor:
    """Angle between a unit's output vector and that of the most similar other alive unit.

    Outputs are centred at 0.5. A complementary unit, at 180 degrees, counts as one at 0. Constant
    units score 0.

    Returns:
        (size,) float64 degrees, 0 to 90; lowest removed first.

    Source: Gedeon and Harris (1991), who remove pairs, not units; angles are folded to 90 degrees
    as in Gedeon (1995).
    """
    alive = probe.alive(_units(group, "distinctiveness"))
    degrees = angles(probe, group)
    folded = torch.minimum(degrees, 180 - degrees)
    folded.fill_diagonal_(torch.inf)
    folded = torch.where(alive & folded.isfinite(), folded, torch.inf)
    nearest = folded.amin(1).clamp(max=90)
    return torch.where(alive & ~steady(probe, group, precise=False), nearest, 0.0)


@checked
def variance(probe: Probe, group: Group) -> Tensor:
    """Variance of a unit's output over the samples: the part that a bias cannot replace.

    Returns:
        (size,) float64, the mean over its listeners; lowest removed first.

    Source: the first stage of Sietsma and Dow (1991), who use the standard deviation.
    """
    _units(group, "variance")
    variances = [m.covariance.diagonal().cpu() for m in second_moments(probe, group).values()]
    return torch.stack(variances).mean(0).clamp(min=0) * probe.alive(group)


@checked
def contribution(probe: Probe, group: Group) -> Tensor:
    """Root mean square of a unit's contribution to its listeners' pre-activations.

    Squares are averaged over samples and added over a listener's pre-activations.

    Returns:
        (size,) float64, summed over its listeners; lowest removed first.

    Source: Sanger (1989), who analyses the contributions o_k w_ck but does not rank by them.
    Squared, not absolute, so that one pass over the samples serves all criteria in this module.
    """
    total = torch.zeros(_units(group, "contribution").size, dtype=torch.float64)
    for part, m in second_moments(probe, group).items():
        squares = m.about(torch.zeros_like(m.means)).diagonal().clamp(min=0) / m.count
        total += (squares.cpu() * squared_listener_weights(probe, part)).sqrt()
    return total


@checked
def activation(probe: Probe, group: Group) -> Tensor:
    """Mean size of a unit's output: |o| of a single output, the Euclidean norm of several.

    1/N sum_n |o_n|, with o_n what a layer reads of the unit in one position of one sample: a
    number, or as many as an attention head has features. The weights that read it do not count.

    Returns:
        (size,) float64, the mean over its listeners; lowest removed first.

    Raises:
        CriterionError: a group of synapses or of branches.

    Source: activation-based importance of neurons and heads in Muralidharan et al. (2024), Compact
    language models via pruning and knowledge distillation, Minitron (arXiv 2407.14679), with the
    mean over samples and positions. They read a neuron before its nonlinearity, where no layer
    reads it; here it is what the next layer reads.
    """
    units = _units(group, "activation")
    return mean_norms(probe, units) * probe.alive(units)


@checked
def badness(probe: Probe, group: Group) -> Tensor:
    """Minus the mean squared derivative of the loss by a unit's output: its backpropagated error.

    Returns:
        (size,) float64: minus the mean over samples of the squared derivative of the loss by the
        unit's output; lowest removed first.

    Source: Hagiwara (1990), as described by Gedeon and Harris (1991); the square is our reading.
    """
    return -mean_squared_gradient(probe, _units(group, "badness"))


@checked
@dataclass(frozen=True)
class SietsmaDow:
    """Error of the best replacement for a unit: a constant, a twin unit or an opposite unit.

    The least of std(o_b), RMS(o_b - o_a) and RMS(o_b + o_a - 1) over the other alive units a.

    Attributes:
        opposite: the sum of a unit's output and its opposite's: 1 for sigmoids, 0 for tanh. It
            replaces the 1 in the formula.

    Source: Sietsma and Dow (1991), as implemented in SNNS ("noncontributing units").
    """

    opposite: float = 1.0

    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """Return (size,) float64 errors, summed over listeners; lowest removed first. 0 if dead."""
        alive = probe.alive(_units(group, "sietsma-dow"))
        total = torch.zeros(group.size, dtype=torch.float64)
        for moments in second_moments(probe, group).values():
            middle = torch.full_like(moments.means, self.opposite / 2)
            dots = (moments.about(middle) / moments.count).cpu()
            squares = dots.diagonal() + dots.diagonal()[:, None]
            nearest = torch.minimum(squares - 2 * dots, squares + 2 * dots)
            nearest = torch.where(alive, nearest, torch.inf).fill_diagonal_(torch.inf)
            variances = moments.covariance.diagonal().cpu()
            total += torch.minimum(nearest.amin(1), variances).clamp(min=0).sqrt()
        return total * alive


sietsma_dow = SietsmaDow()


@torch.no_grad()
def squared_listener_weights(probe: Probe, part: Listener) -> Tensor:
    """(size,) float64 sum of the squared weights of a listener that read each unit."""
    weight = tensor_of(probe.model, part.parameter).double().cpu().movedim(part.dim, 0)
    return weight[part.index].square().flatten(1).sum(1)


def check_centre(centre: str) -> None:
    """Raise ValueError if a centre is not one of `CENTRES`.

    Raises:
        ValueError: suggests the nearest known one.
    """
    if centre not in CENTRES:
        raise ValueError(unknown("centre", centre, CENTRES))


def _about(moments: SecondMoments, centre: str) -> Tensor:
    """(size, size) sums of products of outputs after subtracting the centre."""
    check_centre(centre)
    if centre == "mean":
        return moments.about(moments.means)
    if centre == "minmax":
        return moments.about((moments.low + moments.high) / 2)
    return moments.about(torch.full_like(moments.means, 0.5 if centre == "half" else 0.0))


def _scale(moments: SecondMoments) -> Tensor:
    """(size,) length of the uncentred output vectors, to decide which centred ones are zero."""
    squares = moments.about(torch.zeros_like(moments.means)).diagonal()
    return (squares.clamp(min=0).sqrt() + squares.clamp(min=0).mean().sqrt()) + 1e-300


def _units(group: Group, what: str) -> Neurons:
    """The group; raises CriterionError if it is a group of synapses."""
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"{what} scores whole units; {group.name!r} is a group of {members_word(group)}. "
            "Score synapses "
            'with "magnitude"'
        )
    return group
