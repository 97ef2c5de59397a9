"""A repair that asks the loss: the mix with which the network itself does best on the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.criteria.repairs.affine import Mix, least_squares, remaining
from sentei.distributed import sum_across
from sentei.network.calls import Call, Calls
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.choosing import listeners_of, mixes_by_name
from sentei.probe.engines.chain_derivatives import slope
from sentei.probe.probe import Probe, inverse_covariances
from sentei.probe.recording.hearing import listener_positions
from sentei.probe.recording.recording import Pass, Recording, model_output, per_sample_losses


@dataclass(frozen=True)
class LeastLoss:
    """Each unit as the mix of all that stay, and a constant, that leaves the least mean loss.

    From the mix of least squares on, limited-memory BFGS in coordinates in which the units that
    stay are uncorrelated. Unlike the other repairs it looks at the targets: in the directions that
    the removed units leave behind it is training, of the listeners alone and with no step size.
    With `alone=True`, for scores, each mix is that of least squares: fitting every candidate would
    cost as many fits.

    Attributes:
        updates: of the mix; each takes one to three passes back from the loss to the listeners.

    Source: the Newton step on a removed unit's compensation is optimal brain surgeon (Hassibi and
    Stork, 1993) with the loss in place of its quadratic form.
    """

    updates: int = 4

    def __call__(
        self, probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
    ) -> Mix:
        """The mix for each listener.

        Raises:
            CriterionError: the loss has no derivative.
            GroupError, StructureError: as `least_squares`.
        """
        start = dict(least_squares(probe, group, units, mask, alone))
        if alone or not len(units) or not isinstance(group, Neurons):
            return start
        alive = remaining(probe, group, mask)
        alive[units] = False
        ways = {}
        for part, span in inverse_covariances(probe, group).items():
            left = span.without((span.alive & ~alive).nonzero().flatten())
            ways[part] = _uncorrelated_directions(
                left.inverse.cpu(), alive, left.moments.means.cpu()
            )
        with probe.measuring() as recording:
            probe.check_smooth(recording, 1)
            return _Fit(recording, group, units, start, ways).after(self.updates)


least_loss = LeastLoss()


def _uncorrelated_directions(inverse: Tensor, alive: Tensor, means: Tensor) -> Tensor:
    """(size + 1, alive + 1) what a mix changes by along directions that do not meddle."""
    at = alive.nonzero().flatten()
    size = len(alive)
    found = torch.zeros(size + 1, len(at) + 1, dtype=torch.float64)
    found[at, : len(at)] = torch.linalg.cholesky(inverse[at[:, None], at])
    found[-1, : len(at)] = -(means[at] @ found[at, : len(at)])
    found[-1, -1] = 1
    return found


class _Fit:
    """The loss as a function of how a group's units are mixed."""

    def __init__(
        self,
        recording: Recording,
        group: Neurons,
        units: Tensor,
        start: Mapping[Listener, Tensor],
        ways: Mapping[Listener, Tensor],
    ):
        self.recording, self.units, self.start, self.ways = recording, units, start, ways
        self.listeners = listeners_of(recording.model, group)
        self.first = min(listener_positions(recording, self.listeners))
        self.sizes = [len(units) * way.shape[1] for way in ways.values()]

    def after(self, updates: int) -> Mix:
        """The mix after so many updates."""
        moved = torch.zeros(sum(self.sizes), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([moved], max_iter=updates, line_search_fn="strong_wolfe")

        def told() -> Tensor:
            value, moved.grad = self._at(moved.detach())
            return value

        with torch.enable_grad():
            optimizer.step(told)
        return self._mix(moved.detach())

    def _mix(self, moved: Tensor) -> Mix:
        parts = moved.split(self.sizes)
        return {
            part: self.start[part] + own.view(len(self.units), -1) @ way.T
            for (part, way), own in zip(self.ways.items(), parts, strict=True)
        }

    def _at(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and its gradient, summed over blocks in their order."""
        slots = torch.zeros(len(self.recording.starts), 2 + len(moved), dtype=torch.float64)
        for i, block in self.recording.passes("kept"):
            with torch.enable_grad():
                leaf = moved.clone().requires_grad_()
                value = self._loss(block, self._mix(leaf))
                steep = slope(value, leaf)
            slots[i, 0], slots[i, 1] = len(block.samples.targets), value.detach()
            slots[i, 2:] = steep
        count, *total = sum_across(slots).split([1, 1, len(moved)])
        value, steep = (part / count for part in total)
        return value[0], steep

    def _loss(self, block: Pass, mix: Mix) -> Tensor:
        rows = mixes_by_name(self.recording.model, mix)

        def answer(call: Call) -> Tensor:
            self.recording.check(call)
            if call.weight in rows:
                return self._folded(call, rows[call.weight])
            kept = block.call_outputs.get(call.position) if call.position < self.first else None
            return call() if kept is None else kept.clone()

        with Calls(self.recording.model, answer, plain=True):
            out = model_output(self.recording.model, block.samples)
        return (
            per_sample_losses(self.recording.per_sample, out, block.samples.targets).double().sum()
        )

    def _folded(self, call: Call, rows: Tensor) -> Tensor:
        """The call's result once the units are handed over, as `fold_` would do it."""
        part = self.listeners[call.weight]
        weight = call.given[call.use.weight].detach().movedim(part.dim, 0)
        index, shares = part.index.to(weight.device), rows.to(weight)
        leaving = weight[index[self.units]]
        added = torch.einsum("ks,kc...->sc...", shares[:, :-1], leaving).flatten(0, 1)
        whole = weight.index_add(0, index.flatten(), added)
        whole = whole.index_fill(0, index[self.units].flatten(), 0.0).movedim(0, part.dim)
        given = {**call.given, call.use.weight: whole}
        out = call.function(*given.values()) if call.by_position else call.function(**given)
        constant = torch.einsum("k,kc...->c...", shares[:, -1], leaving).sum(0)
        constant = constant.reshape(len(constant), -1).sum(1)
        return out + constant.reshape(-1, *[1] * (-1 - call.axis))
