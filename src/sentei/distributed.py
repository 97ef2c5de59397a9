"""All that is known about ranks: who prints, who computes which block, and how sums are made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def is_main() -> bool:
    """Whether this process is the one that prints and writes: rank 0, or the only one."""
    return _rank() == 0


def own_blocks(count: int) -> range:
    """Which of `count` blocks this process computes: every world-th, from its own rank on."""
    return range(_rank(), count, _world())


def sum_across(slots: Tensor) -> Tensor:
    """Sum over the first dimension, whose rows were computed by whichever rank owns them.

    Every rank passes a tensor with one row per block, zero where the block is not its own. Rows are
    gathered first and added in block order afterwards, so that any number of ranks gives the same
    bits.

    Args:
        slots: (blocks, ...).

    Returns:
        (...), on every rank and on the device of `slots`.
    """
    total = torch.zeros_like(slots[0])
    for row in gathered(slots):
        total += row
    return total


def gathered(slots: Tensor) -> Tensor:
    """The rows of `slots` from the ranks that own them, (blocks, ...) on every rank."""
    if _world() == 1:
        return slots
    # NCCL moves nothing but memory of the device; adding zeros to a row changes no bit of it.
    shared = slots.cuda() if dist.get_backend() == "nccl" else slots.cpu().clone()
    dist.all_reduce(shared)
    return shared.to(slots.device)


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _active() else 0


def _world() -> int:
    return dist.get_world_size() if _active() else 1
