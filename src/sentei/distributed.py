"""Split work across torch.distributed ranks: which rank writes, which blocks it computes, sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from sentei.errors import JobError, PruningError
from sentei.nests import joined, resized, tensors

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
        JobError: another rank has ended.
    """
    if world() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome = [function(), None]
        except PruningError as error:
            outcome = [None, error]
    with _together():
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
    with _together():
        dist.all_reduce(shared)
    return shared.to(slots.device)


def check_same(mine: str, what: str, error: type[PruningError]) -> None:
    """Check that every rank has the same of something, by a text that identifies it.

    Raises:
        PruningError: as `error` says: ranks have different ones; on every rank.
        JobError: another rank has ended.
    """
    texts = _of_all(mine)
    differ = [rank for rank, text in enumerate(texts) if text != texts[0]]
    if differ:
        raise error(
            f"every rank of a torch.distributed group must have {what}; rank {differ[0]} of "
            f"{len(texts)} has others than rank 0."
        )


def joined_batches(mine: Any) -> Any:
    """Return what the ranks have as one batch: tensors (n, ...) in any nest, in order of the ranks.

    Args:
        mine: this rank's tensors.

    Raises:
        JobError: another rank has ended.
    """
    if world() == 1:
        return mine
    parts = _of_all(resized(mine, lambda tensor: tensor.detach().cpu()))
    device = next((tensor.device for tensor in tensors(mine)), torch.device("cpu"))
    return joined([resized(part, lambda tensor: tensor.to(device)) for part in parts])


def _of_all(mine: T) -> list[T]:
    """Return what each rank has, in order of the ranks."""
    if world() == 1:
        return [mine]
    found: list[Any] = [None] * world()
    with _together():
        dist.all_gather_object(found, mine)
    return found


@contextmanager
def _together() -> Iterator[None]:
    """Name what torch says when a rank of the group does not answer any more.

    Raises:
        JobError: in place of torch's own error.
    """
    try:
        yield
    except RuntimeError as error:  # of torch.distributed: DistBackendError is one too
        raise JobError(
            "another rank of the torch.distributed group has ended, so this one cannot go on. "
            "Complete steps are in the run folder, if there is one: start all ranks again, with "
            f"resume=True (--resume). torch says: {error}"
        ) from error


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _active() else 0
