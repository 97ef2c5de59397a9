"""Cascade-correlation (Fahlman and Lebiere, 1990): training that adds hidden units one by one.

The shrinking experiments compare it with pruning.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.jobs.results import Result
from sentei.papers.shrinking.networks import ONE, samples
from sentei.training import seeded

POOL = 8  # candidates for each new unit
# Training has stagnated after PATIENCE updates without a relative improvement of GAIN.
PATIENCE, GAIN = 30, 0.002


def grown(seed: int, most: int, updates: int) -> Result:
    """Grow a network until its error is that of the unpruned network, or it has `most` units.

    It is trained on the 4,500 images, with logistic units and outputs and half squared error. Every
    new unit reads the inputs and all earlier units; its incoming weights are frozen once it is
    added. The outputs read the inputs and all units. Where we differ from the source: Adam in place
    of quickprop. Every update uses all images.

    Args:
        seed: of the data and the candidates' initial weights.
        most: the largest number of hidden units.
        updates: at most so many updates for each candidate pool and for the outputs; four times as
            many for the outputs of the network without hidden units.

    Returns:
        Summed error, accuracy on the training images and accuracy on held-out images, each after 0,
        1, ... units.
    """
    learn, held = samples("crop", seed)
    targets = F.one_hot(learn.targets, 10).float()
    features, held_features = (_with_bias(part.inputs) for part in (learn, held))
    errors, accuracy, held_accuracy = [], [], []
    with seeded(seed, 77):
        weight = torch.zeros(10, features.shape[1])
        for count in range(most + 1):
            weight = _outputs(weight, features, targets, updates if count else 4 * updates)
            out = (features @ weight.T).sigmoid()
            errors.append(float((out - targets).square().sum() / 2))
            accuracy.append(_accuracy(out, learn.targets))
            held_accuracy.append(_accuracy(held_features @ weight.T, held.targets))
            if errors[-1] <= ONE * len(targets) or count == most:
                break
            unit = _best_candidate(features, out - targets, updates)
            features, held_features = (_extended(part, unit) for part in (features, held_features))
            weight = torch.cat([weight, torch.zeros(10, 1)], 1)
    return {"error": errors, "accuracy": accuracy, "held": held_accuracy}


def _with_bias(inputs: Tensor) -> Tensor:
    """Append a column of ones, so that the last weight is a bias."""
    return torch.cat([inputs, torch.ones(len(inputs), 1)], 1)


def _extended(features: Tensor, unit: Tensor) -> Tensor:
    """Append the outputs of the new unit as one more column."""
    return torch.cat([features, (features @ unit).sigmoid()[:, None]], 1)


def _accuracy(out: Tensor, targets: Tensor) -> float:
    """Return the share of samples whose largest output is their class."""
    return float((out.argmax(1) == targets).float().mean())


def _outputs(weight: Tensor, features: Tensor, targets: Tensor, updates: int) -> Tensor:
    """Train the output weights until the loss stagnates; return them, (10, features)."""
    leaf = weight.clone().requires_grad_()

    def loss() -> Tensor:
        return ((features @ leaf.T).sigmoid() - targets).square().sum() / (2 * len(targets))

    _descend(leaf, loss, updates, 0.02)
    return leaf.detach()


def _best_candidate(features: Tensor, errors: Tensor, updates: int) -> Tensor:
    """Train a pool of candidate units; return the weights of the best one, (features,).

    The best one correlates most with the errors of the outputs. The correlation is
    S = sum over outputs |sum over samples (V - mean V)(E - mean E)|.
    """
    centred = errors - errors.mean(0)
    scale = centred.abs().sum()
    leaf = (torch.rand(POOL, features.shape[1]) * 2 - 1).mul_(0.2).requires_grad_()

    def correlation() -> Tensor:
        value = (features @ leaf.T).sigmoid()
        return ((value - value.mean(0)).T @ centred).abs().sum(1) / scale

    _descend(leaf, lambda: -correlation().sum(), updates, 0.05)
    return leaf.detach()[correlation().detach().argmax()]


def _descend(leaf: Tensor, loss: Callable[[], Tensor], updates: int, lr: float) -> None:
    """Minimise the loss with Adam for at most `updates` updates; stop early if it stagnates."""
    adam = torch.optim.Adam([leaf], lr=lr)
    best, since = float("inf"), 0
    for _ in range(updates):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
        now = value.item()
        since = 0 if now < best - GAIN * abs(best) or best == float("inf") else since + 1
        best = min(best, now)
        if since >= PATIENCE:
            return
