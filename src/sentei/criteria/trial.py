"""What the loss would be with many things removed at once."""

from __future__ import annotations

import copy

from sentei.criteria.probe import Probe
from sentei.criteria.recording import losses
from sentei.network.example import resized, run, tensors, undisturbed
from sentei.network.mask import Mask

_ROWS = 2500  # samples in a pass


def loss_under(probe: Probe, mask: Mask) -> float:
    """Mean loss on a Probe's samples with all that is dead in a mask removed, by a pass of its own.

    Raises:
        GroupError: the mask is not the model's.
        LossError: the loss is not one number per sample.
    """
    trial = copy.deepcopy(probe.model)
    mask.apply_(trial)
    samples, total = probe.samples, 0.0
    with undisturbed(trial):
        for first in range(0, len(samples.targets), _ROWS):
            rows = slice(first, first + _ROWS)
            block = resized(samples.inputs, lambda tensor, own=rows: tensor[own])
            targets = samples.targets[rows]
            found = losses(probe.per_sample, tensors(run(trial, block))[0], targets)
            total += float(found.double().sum())
    return total / len(samples.targets)
