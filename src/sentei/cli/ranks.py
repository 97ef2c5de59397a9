"""`torchrun -m sentei ...`: several processes run one command, and the first prints and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sentei import storage

SPLIT = ("prune", "rank", "surface")  # commands whose measurements several processes share


def is_first() -> bool:
    """Return whether this process prints and writes: rank 0, or the only one."""
    return not _several() or os.environ.get("RANK") == "0"


def number() -> int | None:
    """Return which process of this machine this is; None if it is the only one."""
    return int(os.environ.get("LOCAL_RANK") or 0) if _several() else None


@contextmanager
def grouped(given: Sequence[str]) -> Iterator[None]:
    """Join the other processes that torchrun has started, if it has, while the block runs.

    Args:
        given: the command line.

    Raises:
        ValueError: a command that one process runs.
    """
    if not _several():
        yield
        return
    command = next((word for word in given if not word.startswith("-")), "no command")
    searches = any(word.startswith(("--budget", "--board")) for word in given)
    if command not in SPLIT or searches:
        raise ValueError(
            f"torchrun starts several processes, and {command}{' for a budget' * searches} runs in "
            f"one: start it without torchrun. Several share the work of {', '.join(SPLIT)}."
        )
    from torch import distributed

    distributed.init_process_group("gloo")
    with storage.writing(is_first()):
        yield
        leave()


def leave() -> None:
    """Leave the other processes, if there are any: from now on each is alone."""
    if not _several():
        return
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE") or 1) > 1
