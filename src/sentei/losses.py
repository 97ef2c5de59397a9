"""Loss functions that return one value per sample, used for both training and measuring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.arguments import checked
from sentei.errors import LossError, unknown

PerSample = Callable[[Tensor, Tensor], Tensor]


@checked
def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits: log(sum of exp(outputs)) minus the target's logit.

    Args:
        outputs: (N, classes), or (N, classes, ...) for a class at every position.
        targets: (N,) or (N, ...) class numbers, or probabilities shaped like `outputs`.

    Returns:
        (N,), in nats; the mean over positions where a sample has several.

    Raises:
        LossError: targets of another shape.
    """
    if targets.shape not in (outputs.shape, outputs.shape[:1] + outputs.shape[2:]):
        raise _misfit(outputs, targets)
    found = F.cross_entropy(outputs, targets, reduction="none")
    return found if found.ndim == 1 else found.flatten(1).mean(1)


@checked
def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared difference between outputs and targets, summed over the outputs.

    Args:
        outputs: (N, ...).
        targets: shaped like `outputs`, or (N,) class numbers, which are converted to one-hot.

    Returns:
        (N,).
    """
    return (outputs - wanted(outputs, targets)).square().flatten(1).sum(1) / 2


@checked
def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of each output, a logit, summed over the outputs.

    Use it for a network that would end with sigmoids, without these sigmoids: this form does not
    overflow.

    Args:
        outputs: (N, ...).
        targets: shaped like `outputs`, from 0 to 1, or (N,) class numbers, as in
            `half_squared_error`.

    Returns:
        (N,), in nats.
    """
    labels = wanted(outputs, targets)
    return (F.softplus(outputs) - labels * outputs).flatten(1).sum(1)


@checked
def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the absolute difference between outputs and targets, summed over the outputs.

    Args:
        outputs: (N, ...).
        targets: as in `half_squared_error`.

    Returns:
        (N,).
    """
    return (outputs - wanted(outputs, targets)).abs().flatten(1).sum(1)


@checked
def wanted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the shape and dtype of `outputs`; class numbers become one-hot."""
    if targets.ndim == 1 and not targets.is_floating_point() and outputs.ndim == 2:
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        targets = targets.unsqueeze(1) == classes
    if targets.numel() != outputs.numel():
        raise _misfit(outputs, targets)
    return targets.reshape(outputs.shape).to(outputs.dtype)


def _misfit(outputs: Tensor, targets: Tensor) -> LossError:
    return LossError(
        f"a loss compares outputs with as many targets; outputs of shape {tuple(outputs.shape)} "
        f"and targets of shape {tuple(targets.shape)} do not go together"
    )


LOSSES: dict[str, PerSample] = {
    "absolute_error": absolute_error,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy": cross_entropy,
    "half_squared_error": half_squared_error,
}


@checked
def per_sample(loss: str | PerSample) -> PerSample:
    """Return the loss with this name; a callable(outputs, targets) -> (N,) is returned unchanged.

    Raises:
        ValueError: the name is unknown.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(unknown("loss", loss, LOSSES))
    return LOSSES[loss]
