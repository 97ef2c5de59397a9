"""Random rotation, scaling, shift and slant of images, different in every epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.samples import Samples
from sentei.training.seeds import seeded

TURN, SCALE, SHIFT = 12.0, 0.12, 2.5  # largest rotation in degrees, scaling, shift in pixels


def epoch_of(samples: Samples, seed: int, epoch: int, strength: float = 1.0) -> Samples:
    """Return the samples with the distortions of this epoch."""
    with seeded(seed, 1000 + epoch):
        return Samples(distorted(samples.inputs, strength), samples.targets)


def distorted(images: Tensor, strength: float = 1.0, shear: float = 0.0) -> Tensor:
    """Rotate each image about its centre, scale it, shift it and slant it, at random.

    Args:
        images: (N, 1, H, W); the background has the value 0.
        strength: factor on the largest rotation, scaling and shift: `TURN`, `SCALE`, `SHIFT`.
        shear: largest slant: how far a row is moved sideways for each row between it and the
            centre.
    """
    turn, scale, shift = (strength * most for most in (TURN, SCALE, SHIFT))
    rows, side = len(images), images.shape[-1]
    angle = (torch.rand(rows) * 2 - 1) * math.radians(turn)
    wide, high = (1 + (torch.rand(2, rows) * 2 - 1) * scale).unbind()
    right, down = ((torch.rand(2, rows) * 2 - 1) * shift * 2 / side).unbind()
    cos, sin = angle.cos(), angle.sin()
    slant = (torch.rand(rows) * 2 - 1) * shear if shear else 0.0
    across = torch.stack([wide * cos, slant - high * sin, right], 1)
    along = torch.stack([wide * sin, high * cos, down], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
