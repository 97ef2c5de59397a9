"""The loss of many candidates at once, on outputs laid out (classes, candidates, samples)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.criteria.recording import Heard, PerSample, losses

# exp() of a number this far from 0 neither overflows nor vanishes in float32, summed over classes.
_SAFE = 60.0


@dataclass(frozen=True)
class Ending:
    """A loss that knows the layout: `cross_entropy` and `half_squared_error`, or any per sample.

    Attributes:
        name: of the loss; None for a callable.
        per_sample: the loss itself, for all but the two named ones.
    """

    name: str | None
    per_sample: PerSample

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(k,) float64: summed loss of each of k candidates. `outputs` may be used as scratch."""
        if self.fused(targets):
            return _cross_entropy(outputs, targets)
        if self.name == "half_squared_error":
            return _half_squared_error(outputs, targets)
        sums = [
            losses(self.per_sample, outputs[:, k].T, targets).sum(dtype=torch.float64)
            for k in range(outputs.shape[1])
        ]
        return torch.stack(sums)

    def fused(self, targets: Tensor) -> bool:
        """Whether this is the cross-entropy of class numbers."""
        return self.name == "cross_entropy" and _classes(targets)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    wanted = outputs.gather(0, targets.expand(1, *outputs.shape[1:]))[0]
    largest = outputs.amax(0)
    logs = outputs.sub_(largest).exp_().sum(0).log_().add_(largest)
    return logs.sub_(wanted).sum(1, dtype=torch.float64)


def _half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    wanted = F.one_hot(targets, outputs.shape[0]) if _classes(targets) else targets
    wanted = wanted.reshape(-1, outputs.shape[0]).T.to(outputs.dtype)
    squares = outputs.sub_(wanted[:, None]).square_()
    return squares.sum(0).sum(1, dtype=torch.float64) / 2


def _classes(targets: Tensor) -> bool:
    return targets.ndim == 1 and not targets.is_floating_point()


def rise_of_cross_entropy(
    z: Tensor, weight: Tensor, heard: Heard, columns: Tensor, cells: int
) -> Tensor:
    """(k,) float64: rise of the summed cross-entropy if a column's term leaves the logits.

    With s = sum_c exp(z_c - w_ck o_k), the loss is log s less the target's own logit; the latter
    changes by w_tk o_k, which adds up to one number for each class and unit.

    Args:
        z: (classes, n) logits.
        weight: (classes, columns) of the layer that puts them out.
        heard: what that layer heard.
        columns: (k,) which to leave out.
        cells: numbers to work on at a time.
    """
    z = z - z.amax(0)
    base = z.exp().sum(0).log().sum(dtype=torch.float64)
    weight, o = weight[:, columns], heard.o
    safe = weight.abs().amax(0) * heard.peaks[columns] < _SAFE
    count = max(1, cells // z.numel())
    scratch = z.new_empty(z.shape[0], min(count, len(columns)), z.shape[1])
    sums = []
    for start in range(0, len(columns), count):
        chunk = slice(start, start + count)
        own = weight[:, chunk]
        out = scratch[:, : own.shape[1]]
        torch.addcmul(z[:, None], own[:, :, None], o[columns[chunk]], value=-1, out=out)
        logs = out.exp_().sum(0).log_() if safe[chunk].all() else out.logsumexp(0)
        sums.append(logs.sum(1, dtype=torch.float64))
    of_targets = heard.by_class[:, columns] * weight[: len(heard.by_class)]
    return torch.cat(sums) - base + of_targets.sum(0, dtype=torch.float64)
