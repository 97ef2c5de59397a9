"""Seed torch's random generators for a block of code, and restore their state afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sentei.arguments import checked


@checked
@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's global generators from `numbers` in a `with` block; restore them after it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:  # torch.manual_seed would also seed a device that is initialised later
            torch.cuda.manual_seed_all(seed)
        yield
