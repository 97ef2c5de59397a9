"""Split work across torch.distributed ranks: which rank writes, which blocks it computes, sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from sentei.errors import PruningError

T = TypeVar("T")


def is_main() -> bool:
    """Return whether this process prints and writes: rank 0, or the only process."""
    return _rank() == 0


def world() -> int:
    """Return the number of processes that work together; 1 without torch.distributed."""
    return dist.get_world_size() if _active() else 1


def on_main(function: Callable[[], T]) -> T:
    """Call a function on rank 0 only; return its result, or raise its error, on every rank.

    Raises:
        PruningError: what the function raised. Other errors are raised on rank 0 only.
    """
    if world() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome = [function(), None]
        except PruningError as error:
            outcome = [None, error]
    dist.broadcast_object_list(outcome, src=0)
    result, error = outcome
    if error is not None:
        raise error
    return result


def own_blocks(count: int) -> range:
    """Return which of `count` blocks this process computes: rank, rank + world size, …."""
    return range(_rank(), count, world())


def sum_across(slots: Tensor) -> Tensor:
    """Sum `slots` over blocks, of which each rank computed its own.

    Every rank passes one row per block, zero for blocks that another rank computes. Rows are
    gathered first and then added in block order, so the result is the same to the bit for any
    number of ranks.

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
    """Return `slots` with every row from the rank that computed it, (blocks, ...) on every rank."""
    if world() == 1:
        return slots
    # NCCL needs tensors on the GPU. Adding zeros from the other ranks changes no bit of a row.
    shared = slots.cuda() if dist.get_backend() == "nccl" else slots.cpu().clone()
    dist.all_reduce(shared)
    return shared.to(slots.device)


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _active() else 0
