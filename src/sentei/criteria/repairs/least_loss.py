"""A repair that minimizes the network's loss on the samples over the mixes of a group's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria.repairs.affine import Mix, least_squares, remaining
from sentei.distributed import sum_across
from sentei.losses import per_sample_losses
from sentei.network.folding import folded_call
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.choosing import listeners_of, mixes_by_name
from sentei.probe.engines.chain_derivatives import slope
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Override, Pass, Recording
from sentei.probe.second_moments import InverseCovariance
from sentei.probe.summaries import inverse_covariances


@checked
@dataclass(frozen=True)
class LeastLoss:
    """Replace each removed unit by the mix of remaining units and a constant with the least loss.

    Starts at the least-squares mix and minimizes the mean loss by limited-memory BFGS, in
    coordinates in which the remaining units are uncorrelated. Unlike the other repairs it uses the
    targets: it trains the listeners, and only in the directions of the removed units' weights, with
    no step size to choose. With `alone=True`, for scores, each mix is the least-squares mix: one
    fit for each candidate would cost too much.

    Attributes:
        updates: BFGS updates of the mix; each takes one to three backward passes from the loss to
            the listeners.

    Raises:
        ValueError: a negative count.

    Source: the Newton step on a removed unit's compensation is optimal brain surgeon (Hassibi and
    Stork, 1993) with the loss in place of its quadratic form.
    """

    updates: int = 4

    def __post_init__(self) -> None:
        if self.updates < 0:
            raise ValueError(f"updates= is a count, 0 or more; got {self.updates}")

    def __call__(
        self, probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
    ) -> Mix:
        """Return the mix for each listener, (k, size + 1).

        Raises:
            CriterionError: the loss has no derivative.
            GroupError, StructureError: as `least_squares`.
        """
        start = dict(least_squares(probe, group, units, mask, alone))
        if alone or not len(units) or not isinstance(group, Neurons):
            return start
        alive = remaining(probe, group, mask)
        alive[units] = False
        directions = {}
        for part, inverse in inverse_covariances(probe, group).items():
            remaining_inverse = inverse.without((inverse.alive & ~alive).nonzero().flatten())
            directions[part] = _uncorrelated_directions(remaining_inverse, alive)
        with probe.measuring() as recording:
            probe.check_smooth(recording, 1)
            return _Fit(recording, group, units, start, directions).after(self.updates)


least_loss = LeastLoss()


def _uncorrelated_directions(remaining: InverseCovariance, alive: Tensor) -> Tensor:
    """(size + 1, alive + 1) directions of a mix, one a column, whose outputs are uncorrelated.

    The last changes the constant alone; it is missing where a listener has no bias.
    """
    inverse, means = remaining.inverse.cpu(), remaining.moments.centre.cpu()
    at = alive.nonzero().flatten()
    size = len(alive)
    directions = torch.zeros(size + 1, len(at) + 1, dtype=torch.float64)
    directions[at, : len(at)] = torch.linalg.cholesky(inverse[at[:, None], at])
    directions[-1, : len(at)] = -(means[at] @ directions[at, : len(at)])
    directions[-1, -1] = 1
    return directions if remaining.moments.has_constant else directions[:, :-1]


class _Fit:
    """Minimizes the loss over the mixes of a group's removed units.

    Args:
        recording: the recording of the network.
        group: the group of the units.
        units: (k,) positions of the removed units.
        start: the mix to start from, by listener.
        directions: (size + 1, alive + 1) the directions in which it may change, by listener.
    """

    def __init__(
        self,
        recording: Recording,
        group: Neurons,
        units: Tensor,
        start: Mapping[Listener, Tensor],
        directions: Mapping[Listener, Tensor],
    ):
        self.recording, self.units = recording, units
        self.start, self.directions = start, directions
        self.listeners = listeners_of(recording.model, group)
        recording.survey.readers(self.listeners)
        self.sizes = [len(units) * each.shape[1] for each in directions.values()]

    def after(self, updates: int) -> Mix:
        """Return the mix after some updates."""
        steps = torch.zeros(sum(self.sizes), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([steps], max_iter=updates, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            value, steps.grad = self._loss_and_gradient(steps.detach())
            return value

        with torch.enable_grad():
            optimizer.step(closure)
        return self._mix(steps.detach())

    def _mix(self, steps: Tensor) -> Mix:
        """The mix by listener after steps along the directions."""
        parts = steps.split(self.sizes)
        return {
            part: self.start[part] + own.view(len(self.units), -1) @ directions.T
            for (part, directions), own in zip(self.directions.items(), parts, strict=True)
        }

    def _loss_and_gradient(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and its gradient by the steps; blocks are added in order."""
        slots = torch.zeros(len(self.recording.starts), 2 + len(steps), dtype=torch.float64)
        for i, block in self.recording.passes("kept"):
            with torch.enable_grad():
                leaf = steps.clone().requires_grad_()
                value = self._loss(block, self._mix(leaf))
                gradient = slope(value, leaf)
            slots[i, 0], slots[i, 1] = len(block.samples.targets), value.detach()
            slots[i, 2:] = gradient
        count, *total = sum_across(slots).split([1, 1, len(steps)])
        value, gradient = (part / count for part in total)
        return value[0], gradient

    def _loss(self, block: Pass, mix: Mix) -> Tensor:
        """Summed loss of a block with the units replaced by a mix."""
        rows = mixes_by_name(self.recording.model, mix)
        overrides = {name: self._folded(part, rows[name]) for name, part in self.listeners.items()}
        out = self.recording.replay(block, overrides, plain=True)
        losses = per_sample_losses(self.recording.per_sample, out, block.samples.targets)
        return losses.double().sum()

    def _folded(self, part: Listener, rows: Tensor) -> Override:
        """Return the override that folds the removed units into the others, as `fold_` does it."""
        stays = torch.ones(len(part.index)).index_fill(0, self.units, 0)
        take = lambda columns: columns[self.units]  # noqa: E731
        return lambda call, kept: folded_call(call, part, stays, take, rows)  # noqa: ARG005
