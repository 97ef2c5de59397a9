"""Seed torch's random generators for a block of code, and restore their state afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sentei.arguments import checked
from sentei.devices import in_use, random_kept, seed_


@checked
@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's global generators from `numbers` in a `with` block; restore them after it."""
    devices = in_use()  # torch.manual_seed would also seed a device that is initialised later
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    with random_kept(devices):
        seed_(devices, seed)
        yield
