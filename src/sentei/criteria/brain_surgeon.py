"""Optimal brain surgeon, layer by layer: for units by their outputs, for synapses by their inputs.

Both are exact where everything behind a layer is linear: the error is that of the layer's outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria.activity import squared_listener_weights
from sentei.criteria.repairs.compensation import DAMPING, damped, refitted, saliencies, swept
from sentei.errors import CriterionError, GroupError
from sentei.network.layout import Layout
from sentei.network.mask import Mask
from sentei.network.units import Branches, Group, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.probe.summaries import input_products, inverse_covariances


@dataclass(frozen=True, eq=False)
class Compensation:
    """What becomes of a layer when some of its synapses are removed and the others make up for it.

    Attributes:
        weight: the layer's new weight, zero where synapses are dead.
        alive: bool, in the weight's shape.
        scores: (size,) float64: what the choice of synapses went by.
    """

    weight: Tensor
    alive: Tensor
    scores: Tensor


@runtime_checkable
class Compensating(Protocol):
    """A criterion that also changes the synapses that stay."""

    def compensated(
        self, probe: Probe, group: Synapses, alive: Tensor, sets: tuple[int, int] | None = None
    ) -> Compensation:
        """Remove the synapses that are not alive, and let the others make up for them.

        Args:
            probe: the network and its samples.
            group: the synapses of a layer.
            alive: bool, in the weight's shape: what stays.
            sets: (n, m): remove more, so that at most n of every m inputs of an output stay.
        """
        ...


@checked
@dataclass(frozen=True)
class Obs:
    """Optimal brain surgeon: change of a layer's outputs when a part goes and the others are refit.

    *Units.* The score is half the mean squared change of the listeners' pre-activations after all
    other alive units compensate for the unit by least squares: |w_k|² / (2 [C⁻¹]_kk), with C the
    covariance of the alive units. This is optimal brain surgeon on all outgoing weights of a unit
    at once, with the squared error of the pre-activations in place of the loss. It predicts removal
    with `repair="least_squares"`.

    *Synapses.* The score is w² / (2 [H⁻¹]_qq), with H the mean products of what the alive synapses
    of the same output read: half the mean squared change of that output after its other synapses
    compensate. Proposals that use this criterion change these as well (`Cut.updates`). `ranked` and
    `below` choose by the scores, and then sweep over the layer's columns: each removed synapse is
    compensated by those behind it. `pattern` chooses during the sweep.

    The first scores of a layer take columns cubed, a sweep rows times columns squared; scores of a
    layer with dead synapses take columns cubed for each row with other ones.

    Attributes:
        damping: for synapses, the part of the mean square of what a layer reads that is added to
            the diagonal of H. Without it, inputs that are mixes of others have no inverse.

    Raises:
        ValueError: `damping` is not a finite number of 0 or more.

    Source: Hassibi and Stork (1993); for units Stahlberger and Riedmiller (1996), whose Hessian
    this is if everything after the listeners is linear; for synapses Frantar and Alistarh (2023),
    SparseGPT (arXiv 2301.00774), whose damping is the default.
    """

    damping: float = DAMPING

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise ValueError(f"damping= is a finite number of 0 or more; got {self.damping}")

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """Score units, summed over their listeners, or synapses, (size,) float64; lowest first.

        Raises:
            StructureError: synapses whose weight is used in other ways than by matrix products or
                convolutions.
            CriterionError: H has no inverse, or a group of branches.
        """
        if isinstance(group, Neurons):
            total = torch.zeros(group.size, dtype=torch.float64)
            for part, inverse in inverse_covariances(probe, group).items():
                total += inverse.unexplained.cpu() * squared_listener_weights(probe, part) / 2
            return total
        if isinstance(group, Branches):
            raise CriterionError(
                f"obs scores units and synapses; {group.name!r} is a group of branches. Score "
                'branches with "ablation"'
            )
        problem = _Problem.of(probe, group, self.damping)
        alive = problem.layout.matrices(living(probe.mask, group).to(problem.weights.device))
        found = saliencies(problem.weights, problem.products, alive)
        return problem.layout.weight(found).flatten().cpu()

    @torch.no_grad()
    def compensated(
        self, probe: Probe, group: Synapses, alive: Tensor, sets: tuple[int, int] | None = None
    ) -> Compensation:
        """Remove synapses of a layer, and let those behind them in the same row make up for them.

        Args:
            probe: the network and its samples.
            group: the synapses of a layer.
            alive: bool, in the weight's shape: what stays.
            sets: (n, m): remove more, so that at most n of every m inputs of an output stay.

        Raises:
            GroupError: `alive` has another shape or type, or `sets` do not divide the inputs.
            StructureError, CriterionError: as for scores.
        """
        if alive.dtype != torch.bool or alive.shape != group.shape:
            raise GroupError(
                f"alive= says of each weight whether it stays, bool in shape {group.shape}; got "
                f"{alive.dtype} in shape {tuple(alive.shape)}"
            )
        problem = _Problem.of(probe, group, self.damping)
        layout, there = problem.layout, alive.to(problem.weights.device)
        if sets is not None and (not 0 < sets[0] < sets[1] or layout.inputs % sets[1]):
            raise GroupError(
                f"sets= is (n, m) with 0 < n < m and m a divisor of the {layout.inputs} inputs of "
                f"{group.name!r}; got {sets}"
            )
        found = swept(problem.weights, problem.products, layout.matrices(there), sets)
        weight, stays, costs = (layout.weight(each) for each in found)
        return Compensation(weight, stays.cpu(), costs.flatten().cpu())


obs = Obs()


@torch.no_grad()
def refit(probe: Probe, group: Synapses, alive: Tensor) -> Tensor:
    """Return a layer's weight whose alive synapses change its outputs least: least squares.

    Damped as `obs`: a weight also moves as little as possible from what it was.

    Args:
        probe: the network, before synapses are removed, and its samples.
        group: the synapses of the layer.
        alive: bool, in the weight's shape: what stays.
    """
    problem = _Problem.of(probe, group, DAMPING)
    there = problem.layout.matrices(alive.to(problem.weights.device))
    return problem.layout.weight(refitted(problem.weights, problem.products, there))


def living(mask: Mask, group: Synapses) -> Tensor:
    """Return which entries of a layer's weight are alive, bool; those of dead units are dead."""
    return mask.living(group.parameter, group.shape)


@dataclass(frozen=True, eq=False)
class _Problem:
    """A layer's weight as matrices, and the damped products of what their columns read."""

    layout: Layout
    weights: Tensor
    products: Tensor

    @classmethod
    def of(cls, probe: Probe, group: Synapses, damping: float) -> _Problem:
        moments = input_products(probe, group)
        weight = probe.model.get_parameter(group.parameter).detach().double()
        products = damped(moments.means.to(weight.device), damping)
        return cls(moments.layout, moments.layout.matrices(weight), products)
