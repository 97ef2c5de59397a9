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
    return (outputs - wanted(outputs, targets)).square().flatten(1).sum(1) / 2


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every output by itself, summed over the outputs, which are logits.

    What a network with sigmoids at its end and the cross-entropy of each is trained on, in the form
    that does not overflow: the network stops before those sigmoids.

    Args:
        outputs: (N, ...).
        targets: like `outputs`, from 0 to 1, or (N,) class numbers, as in `half_squared_error`.

    Returns:
        (N,), in nats.
    """
    aims = wanted(outputs, targets)
    return (F.softplus(outputs) - aims * outputs).flatten(1).sum(1)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Distance between outputs and targets in each output, summed: the linear error.

    Args:
        outputs: (N, ...).
        targets: as in `half_squared_error`.

    Returns:
        (N,).
    """
    return (outputs - wanted(outputs, targets)).abs().flatten(1).sum(1)


def wanted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets shaped like `outputs`; class numbers as 1 at the class's own output, 0 elsewhere."""
    if targets.ndim == 1 and not targets.is_floating_point():
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        targets = targets.unsqueeze(1) == classes
    return targets.reshape(outputs.shape).to(outputs.dtype)


LOSSES: dict[str, PerSample] = {
    "absolute_error": absolute_error,
    "binary_cross_entropy": binary_cross_entropy,
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
