"""The loss of many candidates at once, on outputs laid out (classes, candidates, samples)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.probe.recording.recording import PerSample, per_sample_losses


@dataclass(frozen=True)
class CandidateLosses:
    """A loss that knows the layout: a named one in a form of its own, or any per sample.

    Attributes:
        name: of the loss; None for a callable.
        per_sample: the loss itself, for all but those with a form of their own.
    """

    name: str | None
    per_sample: PerSample

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(k,) float64: summed loss of each of k candidates. `outputs` may be used as scratch."""
        if self.is_cross_entropy(targets):
            return _cross_entropy(outputs, targets)
        if self.name == "half_squared_error":
            return _half_squared_error(outputs, targets)
        if self.name == "binary_cross_entropy":
            return _binary_cross_entropy(outputs, targets)
        sums = [
            per_sample_losses(self.per_sample, outputs[:, k].T, targets).sum(dtype=torch.float64)
            for k in range(outputs.shape[1])
        ]
        return torch.stack(sums)

    def is_cross_entropy(self, targets: Tensor) -> bool:
        """Whether this is the cross-entropy of class numbers."""
        return self.name == "cross_entropy" and _classes(targets)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    wanted = outputs.gather(0, targets.expand(1, *outputs.shape[1:]))[0]
    largest = outputs.amax(0)
    logs = outputs.sub_(largest).exp_().sum(0).log_().add_(largest)
    return logs.sub_(wanted).sum(1, dtype=torch.float64)


def _half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    squares = outputs.sub_(_wanted(outputs, targets)).square_()
    return squares.sum(0).sum(1, dtype=torch.float64) / 2


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    aims = _wanted(outputs, targets)
    return F.softplus(outputs).sub_(outputs.mul_(aims)).sum(0).sum(1, dtype=torch.float64)


def _wanted(outputs: Tensor, targets: Tensor) -> Tensor:
    """(classes, 1, samples)."""
    aims = F.one_hot(targets, outputs.shape[0]) if _classes(targets) else targets
    return aims.reshape(-1, outputs.shape[0]).T.to(outputs.dtype)[:, None]


def _classes(targets: Tensor) -> bool:
    return targets.ndim == 1 and not targets.is_floating_point()
