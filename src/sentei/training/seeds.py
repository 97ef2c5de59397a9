"""Randomness from a seed, without disturbing anybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw as these numbers say; afterwards the global random state is what it was before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:  # manual_seed would also leave a seed behind for a device that starts later
            torch.cuda.manual_seed_all(seed)
        yield
