"""A network of one's own: two branches look at a signal, and one value comes out."""

import torch
from torch import nn


class Sensor(nn.Module):
    """Estimate the frequency of a noisy rotation from its two coordinates over time.

    Args:
        width: channels of each branch, and of what follows them.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        self.slow = nn.Conv1d(2, width, 9, padding=4)
        self.fast = nn.Conv1d(2, width, 3, padding=1)
        self.mix = nn.Conv1d(2 * width, width, 3, padding=1)
        self.out = nn.Linear(width, 1)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Return (N, 1) turns over the signal for signals (N, 2, 64)."""
        both = torch.cat([self.slow(signal), self.fast(signal)], 1).relu()
        return self.out(self.mix(both).relu().mean(-1))
