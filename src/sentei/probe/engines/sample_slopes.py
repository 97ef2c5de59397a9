"""Compute derivatives of each sample's loss along the gates of all units, by one backward pass.

The derivative of a sample's loss along a unit's gate is the sum of value times gradient over all
that the listeners read of the unit in that sample. No assumption is made about which dimension of
an input holds the samples; it is found by trying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sentei.losses import PerSample, per_sample_losses
from sentei.network.calls import Call
from sentei.network.units import Listener
from sentei.probe.engines.chain_derivatives import gradients
from sentei.probe.recording.recording import Pass, Recording

_DIMS = (0, 1)  # where the samples of an input may lie; other forms are not tried

Reads = list[tuple[Call, Tensor]]  # calls of listeners, each with a copy of its input


@dataclass(eq=False)
class SampleSlopes:
    """The derivatives of each sample's loss along the gates of the units of some groups.

    Attributes:
        recording: the recording of the network.
        groups: for each group its listeners, by the parameter names under which calls use them.
    """

    recording: Recording
    groups: Sequence[Mapping[str, Listener]]

    def __call__(self, block: Pass, loss: PerSample | None = None) -> list[Tensor | None]:
        """Return the derivatives along the gates of each group's units on a block, (size, n).

        None for a group if it is not known where the samples lie in all that its listeners read.

        Args:
            block: the recorded pass.
            loss: the loss to differentiate; the recording's own if None.
        """
        if not any(self.known):
            return [None] * len(self.groups)
        reads, grads = self._backward(block, loss)
        found: list[Tensor | None] = [None] * len(self.groups)
        for (call, x), grad, dim in zip(reads, grads, self._dims, strict=True):
            if dim is None:
                continue
            products = _samples_first(x.detach() * grad, dim, len(block.samples))
            units = products.movedim(call.axis, 1).flatten(2).sum(2).T  # over all positions
            for number, listeners in enumerate(self.groups):
                part = listeners.get(call.weight)
                if part is not None and self.known[number]:
                    columns = call.channels(part.index.to(x.device))
                    each = units[columns.flatten()].view(*columns.shape, -1).sum(1)
                    before = found[number]
                    found[number] = each if before is None else before + each
        return found

    @cached_property
    def known(self) -> list[bool]:
        """Whether it is known of each group where the samples lie in all that listeners read."""
        survey, reads = self.recording.survey, self._check_reads[0]
        clear = [call for (call, _), dim in zip(reads, self._dims, strict=True) if dim is not None]
        found = []
        for listeners in self.groups:
            uses = sum(len(survey.users(name)) for name in listeners)
            own = [call for call in clear if call.weight in listeners]
            fits = all(listeners[call.weight].dim == call.use.columns for call in own)
            hidden = not survey.elsewhere.isdisjoint(listeners)
            found.append(fits and not hidden and 0 < uses == len(own))
        return found

    @cached_property
    def _dims(self) -> list[int | None]:
        """Return the dimension of the samples in each input that is read; None if there is none.

        Where it lies is seen on the check samples: if the loss of sample i is multiplied by u_i, so
        is the gradient by what belongs to that sample.
        """
        n = len(self.recording.check_pass.samples)
        u = torch.linspace(1, 2, n, device=self.recording.device)
        reads, plain = self._check_reads
        weighted = self._backward(self.recording.check_pass, weigh=u)[1]
        dims: list[int | None] = []
        for (call, x), one, other in zip(reads, plain, weighted, strict=True):
            fits = [dim for dim in _DIMS if dim != x.ndim + call.axis and not x.shape[dim] % n]
            dims.append(next((dim for dim in fits if _separates(one, other, u, dim)), None))
        return dims

    @cached_property
    def _check_reads(self) -> tuple[Reads, Sequence[Tensor]]:
        self.recording.complete_(self.recording.check_pass, "kept")
        return self._backward(self.recording.check_pass)

    @torch.enable_grad()
    def _backward(
        self, block: Pass, loss: PerSample | None = None, weigh: Tensor | None = None
    ) -> tuple[Reads, Sequence[Tensor]]:
        """Return what the listeners read, and the gradients of the summed loss by it."""
        reads: Reads = []

        def leaf(call: Call, kept: Tensor | None) -> Tensor | None:  # noqa: ARG001 - computed anew
            if not call.mixes or not call.input.is_floating_point():
                return None
            # A copy, as the network may change the input in place. If another listener comes
            # before, its gradient is that of this path alone.
            x = call.input
            own = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
            reads.append((call, own))
            return call(own)

        overrides = {name: leaf for listeners in self.groups for name in listeners}
        out = self.recording.replay(block, overrides, plain=True)
        losses = per_sample_losses(loss or self.recording.per_sample, out, block.samples.targets)
        total = (losses if weigh is None else losses * weigh).double().sum()
        return reads, gradients(total, [x for _, x in reads]) if reads else []


def _samples_first(x: Tensor, dim: int, n: int) -> Tensor:
    """Return `x` with one more dimension, n samples first; dimensions from the end stay."""
    return x.unflatten(dim, (n, -1)).movedim(dim, 0)


def _separates(plain: Tensor, weighted: Tensor, u: Tensor, dim: int) -> bool:
    """Whether the gradients of sample i, along `dim`, are multiplied by u_i."""
    one, other = (_samples_first(x, dim, len(u)) for x in (plain, weighted))
    apart = other - one * u.to(one).view(-1, *[1] * (one.ndim - 1))
    return bool(apart.abs().max() <= 1e-3 * one.abs().max())
