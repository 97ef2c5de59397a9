"""Data of one's own: noisy rotations, and how often each turns."""

import torch
from torch.utils.data import DataLoader, TensorDataset

ROWS = (600, 150, 150)  # train, validation, test


def rotations() -> tuple[DataLoader, ...]:
    """Return loaders of train, validation and test data: signals (N, 2, 64), turns (N, 1)."""
    random = torch.Generator().manual_seed(0)
    turns = 1 + 3 * torch.rand(sum(ROWS), 1, generator=random)
    angle = 2 * torch.pi * turns * torch.linspace(0, 1, 64)
    signals = torch.stack([angle.cos(), angle.sin()], 1)
    signals += 0.1 * torch.randn(signals.shape, generator=random)
    parts = zip(signals.split(ROWS), turns.split(ROWS), strict=True)
    return tuple(DataLoader(TensorDataset(*part), batch_size=100) for part in parts)
