"""`Workers`: how many jobs run at once, where, and which share of them this command runs.

This file imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar

from sentei.arguments import checked
from sentei.errors import JobError, unknown

T = TypeVar("T")

# What each backend needs: the package that it imports, and the extra of sentei that brings it.
NEEDS = {"loky": ("joblib", "jobs"), "dask": ("distributed", "dask"), "ray": ("ray", "ray")}
BACKENDS = tuple(NEEDS)


@checked
@dataclass(frozen=True)
class Workers:
    """How many jobs run at once, on which machines, and which share of the jobs this process runs.

    Each job runs on one torch thread, in a process that runs one job at a time, and gives the same
    bits wherever it runs.

    Attributes:
        jobs: how many run at once. A cluster that is running already has its own number.
        backend: "loky", processes of this machine, or this process itself for one job at a time;
            "dask", the cluster of the current `distributed.Client`, or of the address in
            DASK_SCHEDULER_ADDRESS, or a new one on this machine; "ray", the cluster that
            `ray.init` connected to, or that of RAY_ADDRESS, or a new one on this machine.
        shard: "2/8" runs every eighth job only, from the second on, so that eight such commands,
            such as a job array of SLURM, share the work. All jobs if empty.

    Raises:
        JobError: the backend's package is missing; the message names the extra.
        ValueError: an unknown backend, fewer jobs than 1, or no such share.
    """

    jobs: int = 1
    backend: str = "loky"
    shard: str = ""

    def __post_init__(self) -> None:
        """Check all values, so that nothing starts that cannot run."""
        if self.jobs < 1:
            raise ValueError(f"jobs= is how many run at once, at least 1; got {self.jobs}")
        if self.backend not in NEEDS:
            raise ValueError(unknown("backend", self.backend, NEEDS))
        share(self.shard)
        package, extra = NEEDS[self.backend]
        if not self.is_here and find_spec(package) is None:
            raise JobError(
                f"backend {self.backend!r} needs {package}, which is missing: pip install "
                f"'sentei[{extra}]'. One job at a time (jobs=1, backend 'loky') needs nothing."
            )

    @property
    def is_here(self) -> bool:
        """Whether jobs run in this process."""
        return self.jobs == 1 and self.backend == "loky"


def share(shard: str) -> tuple[int, int]:
    """Return (2, 8) for "2/8", and (1, 1) for an empty text.

    Raises:
        ValueError: another text, or the first number is not from 1 to the second.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard or "1/1")
    first, every = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= every:
        raise ValueError(
            f"a share of the jobs is written i/n, such as 2/8, with i from 1 to n; got {shard!r}"
        )
    return first, every


def own(jobs: Sequence[T], workers: Workers) -> Sequence[T]:
    """Return the share of the jobs that this process runs."""
    first, every = share(workers.shard)
    return jobs[first - 1 :: every]


BY_VALUE: dict[str, ModuleType] = {}


def send_by_value(module: ModuleType) -> None:
    """Let what a module defines travel to other processes by its code: they cannot import it."""
    BY_VALUE[module.__name__] = module
