"""Compute the losses of many candidate networks at once from (classes, candidates, samples)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.losses import PerSample, per_sample_losses, wanted
from sentei.target_forms import is_whole


@dataclass(frozen=True)
class CandidateLosses:
    """A loss on outputs laid out (classes, candidates, samples).

    Three named losses are computed on all candidates at once: cross-entropy of class numbers, half
    squared error and binary cross-entropy. Any other runs once per candidate.

    Attributes:
        name: the name of the loss; None for a callable.
        per_sample: the loss, one number per sample, for all but those three.
    """

    name: str | None
    per_sample: PerSample

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of each of k candidates, (k,) float64; may overwrite `outputs`."""
        return self.by_sample(outputs, targets).sum(1, dtype=torch.float64)

    def by_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each candidate on each sample, (k, n); may overwrite `outputs`."""
        if self.is_cross_entropy(targets):
            return _cross_entropy(outputs, targets)
        if self.name == "half_squared_error":
            return _half_squared_error(outputs, targets)
        if self.name == "binary_cross_entropy":
            return _binary_cross_entropy(outputs, targets)
        each = [
            per_sample_losses(self.per_sample, outputs[:, k].T, targets)
            for k in range(outputs.shape[1])
        ]
        return torch.stack(each)

    def is_cross_entropy(self, targets: Tensor) -> bool:
        """Whether the loss is cross-entropy and the targets are class numbers."""
        return self.name == "cross_entropy" and is_whole(targets)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    of_target = outputs.gather(0, targets.expand(1, *outputs.shape[1:]))[0]
    largest = outputs.amax(0)
    logs = outputs.sub_(largest).exp_().sum(0).log_().add_(largest)
    return logs.sub_(of_target)


def _half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    squares = outputs.sub_(_target_values(outputs, targets)).square_()
    return squares.sum(0).div_(2)


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    values = _target_values(outputs, targets)
    return F.softplus(outputs).sub_(outputs.mul_(values)).sum(0)


def _target_values(outputs: Tensor, targets: Tensor) -> Tensor:
    """(classes, 1, samples) targets; class numbers are one-hot encoded."""
    return wanted(outputs[:, 0].T, targets).T[:, None]
