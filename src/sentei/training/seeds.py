"""Seed torch's random generators for a block of code, and restore their state afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sentei import devices
from sentei.arguments import checked


@checked
@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's global generators from `numbers` in a `with` block; restore them after it."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    with devices.seeded(seed):
        yield
