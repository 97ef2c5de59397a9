"""Losses, one number per sample, so that training and measuring mean the same by a name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.errors import unknown

PerSample = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """log(sum of exp(outputs)) less the target's own output: the network puts out logits.

    Args:
        outputs: (N, classes), or (N, classes, ...) for a class at every position.
        targets: (N,) or (N, ...) class numbers, or probabilities shaped like `outputs`.

    Returns:
        (N,), in nats; the mean over positions where there are several.
    """
    found = F.cross_entropy(outputs, targets, reduction="none")
    return found if found.ndim == 1 else found.flatten(1).mean(1)


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance between outputs and targets, summed over the outputs.

    Args:
        outputs: (N, ...).
        targets: like `outputs`, or (N,) class numbers, which stand for 1 at the class's own output
            and 0 elsewhere.

    Returns:
        (N,).
    """
    if targets.ndim == 1 and not targets.is_floating_point():
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        targets = targets.unsqueeze(1) == classes
    wanted = targets.reshape(outputs.shape).to(outputs.dtype)
    return (outputs - wanted).square().flatten(1).sum(1) / 2


LOSSES: dict[str, PerSample] = {
    "cross_entropy": cross_entropy,
    "half_squared_error": half_squared_error,
}


def per_sample(loss: str | PerSample) -> PerSample:
    """The loss of a name; a callable(outputs, targets) giving (N,) stands for itself.

    Raises:
        ValueError: an unknown name.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(unknown("loss", loss, LOSSES))
    return LOSSES[loss]
