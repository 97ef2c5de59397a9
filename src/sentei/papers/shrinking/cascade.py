"""Cascade-correlation (Fahlman and Lebiere, 1990): a network grown unit by unit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.papers.jobs import Result
from sentei.papers.shrinking.networks import ONE, samples
from sentei.training import seeded

POOL = 8  # candidates for each new unit
PATIENCE, GAIN = 30, 0.002  # updates without so much relative improvement: stagnation


def grown(seed: int, most: int, updates: int) -> Result:
    """Grow on the 4,500 images until the error is what pruning starts from, or `most` units.

    Logistic units and outputs, half squared error. Inputs and all earlier units feed every new
    one, whose weights are frozen once it is in; all feed the outputs. Adam in place of quickprop,
    all images in each update.
    """
    learn, held = samples("crop", seed)
    aims = F.one_hot(learn.targets, 10).float()
    heard, unseen = (_with_bias(part.inputs) for part in (learn, held))
    errors, right, kept = [], [], []
    with seeded(seed, 77):
        weight = torch.zeros(10, heard.shape[1])
        for count in range(most + 1):
            weight = _outputs(weight, heard, aims, updates if count else 4 * updates)
            out = (heard @ weight.T).sigmoid()
            errors.append(float((out - aims).square().sum() / 2))
            right.append(_accuracy(out, learn.targets))
            kept.append(_accuracy(unseen @ weight.T, held.targets))
            if errors[-1] <= ONE * len(aims) or count == most:
                break
            unit = _best_candidate(heard, out - aims, updates)
            heard, unseen = (_extended(part, unit) for part in (heard, unseen))
            weight = torch.cat([weight, torch.zeros(10, 1)], 1)
    return {"error": errors, "accuracy": right, "held": kept}


def _with_bias(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, torch.ones(len(inputs), 1)], 1)


def _extended(heard: Tensor, unit: Tensor) -> Tensor:
    return torch.cat([heard, (heard @ unit).sigmoid()[:, None]], 1)


def _accuracy(out: Tensor, targets: Tensor) -> float:
    return float((out.argmax(1) == targets).float().mean())


def _outputs(weight: Tensor, heard: Tensor, aims: Tensor, updates: int) -> Tensor:
    """(10, heard) output weights after training to stagnation."""
    leaf = weight.clone().requires_grad_()

    def loss() -> Tensor:
        return ((heard @ leaf.T).sigmoid() - aims).square().sum() / (2 * len(aims))

    _descend(leaf, loss, updates, 0.02)
    return leaf.detach()


def _best_candidate(heard: Tensor, errors: Tensor, updates: int) -> Tensor:
    """(heard,) weights of the candidate that correlates most with what is wrong.

    The correlation is S = sum over outputs |sum over samples (V - mean V)(E - mean E)|.
    """
    apart = errors - errors.mean(0)
    scale = apart.abs().sum()
    leaf = (torch.rand(POOL, heard.shape[1]) * 2 - 1).mul_(0.2).requires_grad_()

    def correlation() -> Tensor:
        value = (heard @ leaf.T).sigmoid()
        return ((value - value.mean(0)).T @ apart).abs().sum(1) / scale

    _descend(leaf, lambda: -correlation().sum(), updates, 0.05)
    return leaf.detach()[correlation().detach().argmax()]


def _descend(leaf: Tensor, loss: Callable[[], Tensor], updates: int, lr: float) -> None:
    """Adam until the loss stagnates."""
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
