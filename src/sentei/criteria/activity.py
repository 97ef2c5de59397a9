"""Scores read off what units put out: how much, how varied, how like another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.errors import CriterionError, unknown
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.probe import Probe, inverse_covariances, mean_squared_gradient, second_moments
from sentei.probe.second_moments import SecondMoments

CENTRES = ("half", "mean", "minmax", "none")
CONSTANT = 1e-12  # a unit's variance, as a part of its mean square, below which it is constant


def angles(probe: Probe, group: Group, centre: str = "half", *, precise: bool = False) -> Tensor:
    """Angles between units' vectors of outputs over the samples, in degrees.

    Vectors run over all samples, and over a unit's positions and columns, as its listeners hear
    them; they are streamed, never held. Constant units, dead ones among them, have an angle with
    `centre="half"` (they point straight away from the middle, or along it) but say nothing: see
    `steady`.

    Args:
        probe: the network and its samples.
        group: whose units.
        centre: what is taken from the outputs first: "half" (0.5, the middle of a sigmoid's range),
            "mean" (each unit's own: the arc cosine of correlation), "minmax" (halfway between each
            unit's least and largest output) or "none".
        precise: multiply in float64 instead of the network's own type, in which angles near 0 and
            180 are good to about 0.03 degrees.

    Returns:
        (size, size) float64; NaN where a vector is zero and so has no direction.

    Raises:
        GroupError: a group of synapses.
        ValueError: an unknown centre.

    Source: Gedeon and Harris (1991), with "half"; their worked example fits no other centre.
    """
    known = second_moments(probe, group, precise=precise)
    dots = torch.stack([_about(gram, centre) for gram in known.values()]).sum(0)
    lengths = dots.diagonal().clamp(min=0).sqrt()
    nothing = lengths <= 1e-7 * torch.stack([_size(gram) for gram in known.values()]).sum(0)
    cosines = dots / lengths / lengths[:, None]
    cosines.masked_fill_(nothing | nothing[:, None], torch.nan)
    found = cosines.clamp_(-1, 1).acos_().rad2deg_().cpu()
    found.diagonal()[~nothing.cpu()] = 0
    return found


def steady(probe: Probe, group: Group, *, precise: bool = True) -> Tensor:
    """(size,) bool: which units put out the same number for all samples, dead ReLUs among them."""
    steady = [
        gram.covariance.diagonal()
        <= CONSTANT * (gram.means.square() + gram.covariance.diagonal().mean())
        for gram in second_moments(probe, group, precise=precise).values()
    ]
    return torch.stack(steady).all(0).cpu()


def distinctiveness(probe: Probe, group: Group) -> Tensor:
    """Angle to the nearest other alive unit, complements counting as near; constant units are at 0.

    Returns:
        (size,) float64 degrees, 0 to 90, with outputs centred at 0.5; lower goes first.

    Source: Gedeon and Harris (1991) remove pairs, not units; folded to 90 degrees as Gedeon (1995).
    """
    alive = probe.alive(_units(group, "distinctiveness"))
    found = angles(probe, group)
    folded = torch.minimum(found, 180 - found)
    folded.fill_diagonal_(torch.inf)
    folded = torch.where(alive & folded.isfinite(), folded, torch.inf)
    nearest = folded.amin(1).clamp(max=90)
    return torch.where(alive & ~steady(probe, group, precise=False), nearest, 0.0)


def variance(probe: Probe, group: Group) -> Tensor:
    """Variance of a unit's output over the samples: what a bias could not say in its place.

    Returns:
        (size,) float64, the mean over its listeners; lower goes first.

    Source: the first stage of Sietsma and Dow (1991), there the standard deviation.
    """
    _units(group, "variance")
    found = [g.covariance.diagonal().cpu() for g in second_moments(probe, group).values()]
    return torch.stack(found).mean(0).clamp(min=0) * probe.alive(group)


def contribution(probe: Probe, group: Group) -> Tensor:
    """Root mean square of what a unit adds to its listeners' sums, over samples and sums.

    Returns:
        (size,) float64, summed over its listeners; lower goes first.

    Source: Sanger (1989), who analyses the contributions o_k w_ck and ranks by nothing. Squared,
    not absolute, so that one pass over the samples serves all measures here.
    """
    total = torch.zeros(_units(group, "contribution").size, dtype=torch.float64)
    for part, gram in second_moments(probe, group).items():
        squares = gram.about(torch.zeros_like(gram.means)).diagonal().clamp(min=0) / gram.count
        total += (squares.cpu() * squared_listener_weights(probe, part)).sqrt()
    return total


def badness(probe: Probe, group: Group) -> Tensor:
    """The error that is sent back into a unit, squared; the unit that gets most of it goes first.

    Returns:
        (size,) float64: less the mean over samples of the squared derivative of the loss along the
        unit's output, so that lower goes first.

    Source: Hagiwara (1990), as told by Gedeon and Harris (1991); the power is our reading.
    """
    return -mean_squared_gradient(probe, _units(group, "badness"))


def obs(probe: Probe, group: Group) -> Tensor:
    """Half the mean squared change of the listeners' sums if a unit goes and all others make up.

    With C the covariance of the alive units: |w_k|^2 / (2 [C^-1]_kk). This is optimal brain surgeon
    on all outgoing weights of a unit at once, with the squared error of what the listeners sum up
    in place of the loss; it foretells removal with `repair="least_squares"`.

    Returns:
        (size,) float64, summed over listeners; lower goes first.

    Source: Hassibi and Stork (1993); for units Stahlberger and Riedmiller (1996), whose Hessian
    this is where what follows the listeners is linear.
    """
    total = torch.zeros(_units(group, "obs").size, dtype=torch.float64)
    for part, span in inverse_covariances(probe, group).items():
        total += span.unexplained.cpu() * squared_listener_weights(probe, part) / 2
    return total


@dataclass(frozen=True)
class SietsmaDow:
    """How little is lost by the best of three replacements: a constant, a twin, an opposite.

    The least of std(o_b), RMS(o_b - o_a) and RMS(o_b + o_a - 1) over the other alive units a.

    Attributes:
        opposite: what a unit and its opposite add up to: 1 for sigmoids, 0 for tanh.

    Source: Sietsma and Dow (1991), as SNNS has it ("noncontributing units").
    """

    opposite: float = 1.0

    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """(size,) float64; lower goes first. 0 for the dead."""
        alive = probe.alive(_units(group, "sietsma-dow"))
        total = torch.zeros(group.size, dtype=torch.float64)
        for gram in second_moments(probe, group).values():
            middle = torch.full_like(gram.means, self.opposite / 2)
            dots = (gram.about(middle) / gram.count).cpu()
            squares = dots.diagonal() + dots.diagonal()[:, None]
            nearest = torch.minimum(squares - 2 * dots, squares + 2 * dots)
            nearest = torch.where(alive, nearest, torch.inf).fill_diagonal_(torch.inf)
            varied = gram.covariance.diagonal().cpu()
            total += torch.minimum(nearest.amin(1), varied).clamp(min=0).sqrt()
        return total * alive


sietsma_dow = SietsmaDow()


@torch.no_grad()
def squared_listener_weights(probe: Probe, part: Listener) -> Tensor:
    """(size,) float64 sum of squared weights with which a listener reads each unit."""
    weight = probe.model.get_parameter(part.parameter).double().cpu().movedim(part.dim, 0)
    return weight[part.index].square().flatten(1).sum(1)


def check_centre(centre: str) -> None:
    """Refuse an unknown centre.

    Raises:
        ValueError: with the nearest known one.
    """
    if centre not in CENTRES:
        raise ValueError(unknown("centre", centre, CENTRES))


def _about(gram: SecondMoments, centre: str) -> Tensor:
    check_centre(centre)
    if centre == "mean":
        return gram.about(gram.means)
    if centre == "minmax":
        return gram.about((gram.low + gram.high) / 2)
    return gram.about(torch.full_like(gram.means, 0.5 if centre == "half" else 0.0))


def _size(gram: SecondMoments) -> Tensor:
    """(size,) what lengths are measured against: how far outputs are from zero at all."""
    squares = gram.about(torch.zeros_like(gram.means)).diagonal()
    return (squares.clamp(min=0).sqrt() + squares.clamp(min=0).mean().sqrt()) + 1e-300


def _units(group: Group, what: str) -> Neurons:
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"{what} scores whole units, and {group.name!r} is a group of synapses; score those "
            'with "magnitude"'
        )
    return group
