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


@dataclass(eq=False)
class SampleSlopes:
    """The derivatives of each sample's loss along the gates of a group's units.

    Attributes:
        recording: the recording of the network.
        listeners: the group's listeners by the parameter names under which calls use them.
    """

    recording: Recording
    listeners: Mapping[str, Listener]

    @property
    def known(self) -> bool:
        """Whether it is known where the samples lie in all that the listeners read."""
        return self._dims is not None

    def __call__(self, block: Pass, loss: PerSample | None = None) -> Tensor:
        """Return the derivatives, (size, n), of a block whose calls are recorded.

        Args:
            block: the recorded pass.
            loss: the loss to differentiate; the recording's own if None.
        """
        assert self._dims is not None
        read, grads = self._backward(block, loss)
        parts = []
        for (part, call, x), grad, dim in zip(read, grads, self._dims, strict=True):
            products = _samples_first(x.detach() * grad, dim, len(block.samples))
            units = products.movedim(call.axis, 1).flatten(2).sum(2)  # over all positions
            columns = call.channels(part.index.to(x.device))
            parts.append(units[:, columns.flatten()].view(-1, *columns.shape).sum(2).T)
        return torch.stack(parts).sum(0)

    @cached_property
    def _dims(self) -> list[int] | None:
        """Return the dimension of the samples in each input that is read; None if one has none.

        Where it lies is seen on the check samples: if the loss of sample i is multiplied by u_i, so
        is the gradient by what belongs to that sample.
        """
        sample = self.recording.check_pass
        self.recording.complete_(sample, "kept")
        n = len(sample.samples)
        u = torch.linspace(1, 2, n, device=self.recording.device)
        (read, plain), (_, weighted) = self._backward(sample), self._backward(sample, weigh=u)
        if len(read) != len(self.recording.survey.readers(self.listeners)):
            return None
        dims = []
        for (_, call, x), one, other in zip(read, plain, weighted, strict=True):
            fits = [dim for dim in _DIMS if dim != x.ndim + call.axis and not x.shape[dim] % n]
            dims += [dim for dim in fits if _separates(one, other, u, dim)][:1]
        return dims if len(dims) == len(read) else None

    @torch.enable_grad()
    def _backward(
        self, block: Pass, loss: PerSample | None = None, weigh: Tensor | None = None
    ) -> tuple[list[tuple[Listener, Call, Tensor]], Sequence[Tensor]]:
        """Return each call of a listener with what it reads, and the summed loss's gradients."""
        read: list[tuple[Listener, Call, Tensor]] = []

        def leaf(call: Call, kept: Tensor | None) -> Tensor | None:  # noqa: ARG001 - computed anew
            part, x = self.listeners[call.weight], call.input
            if not call.mixes or part.dim != call.use.columns:
                return None
            # A copy, as the network may change `x` in place. If another listener comes before, its
            # gradient is that of this path alone.
            own = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
            read.append((part, call, own))
            return call(own)

        out = self.recording.replay(block, dict.fromkeys(self.listeners, leaf), plain=True)
        losses = per_sample_losses(loss or self.recording.per_sample, out, block.samples.targets)
        total = (losses if weigh is None else losses * weigh).double().sum()
        return read, gradients(total, [x for _, _, x in read])


def _samples_first(x: Tensor, dim: int, n: int) -> Tensor:
    """Return `x` with one more dimension, n samples first; dimensions from the end stay."""
    return x.unflatten(dim, (n, -1)).movedim(dim, 0)


def _separates(plain: Tensor, weighted: Tensor, u: Tensor, dim: int) -> bool:
    """Whether the gradients of sample i, along `dim`, are multiplied by u_i."""
    one, other = (_samples_first(x, dim, len(u)) for x in (plain, weighted))
    apart = other - one * u.to(one).view(-1, *[1] * (one.ndim - 1))
    return bool(apart.abs().max() <= 1e-3 * one.abs().max())
