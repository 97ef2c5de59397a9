"""Run calls of one function elsewhere: in processes of this machine, or on a Dask or Ray cluster.

The one file that imports joblib, distributed and ray. Each backend yields results as they come; if
its generator is closed, or an error ends it, calls that have not begun never do.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch

from sentei.errors import JobError
from sentei.jobs.workers import BY_VALUE
from sentei.nests import mapped
from sentei.running import on_threads

_SHARED = 2**20  # bytes from which loky's workers map a tensor that they share into memory
_LOOKS = 0.5  # seconds between two looks at whether the process that began a worker lives

_BROKEN = {
    True: "a process that ran a job has ended by itself: it was killed, or there was too little "
    "memory. Run fewer at once; results that were stored are kept.",
    False: "a job, or its result, cannot be sent from process to process. Classes and functions "
    "of your own have to be in a module that other processes can import; or run one at a time.",
}

Call = Callable[..., Any]
Task = Sequence[Any]
Results = Generator[tuple[int, Any], None, None]


def called(function: Call, common: Task, place: int, task: Task) -> tuple[int, Any]:
    """Call a function on what all calls have in common, and on one task; return place and result.

    It runs on one torch thread, so that its bits do not depend on the machine's cores.
    """
    with on_threads(1):
        return place, function(*common, *task)


def on_loky(function: Call, tasks: Sequence[Task], common: Task, jobs: int) -> Results:
    """Yield the results of `called` from processes of this machine, which joblib starts."""
    import cloudpickle
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    shared = mapped(common, _Mapped.of)
    calls = (
        joblib.delayed(_with_mapped)(function, shared, at, task) for at, task in enumerate(tasks)
    )
    options = {"mmap_mode": "c", "max_nbytes": _SHARED, "pre_dispatch": "all", "batch_size": 1}
    begin = joblib.parallel_config("loky", initializer=_begin, initargs=(os.getpid(),))
    with _by_value(cloudpickle):
        with _interrupts_held(), begin:  # in the workers for good: this process ends them
            pool = joblib.Parallel(jobs, return_as="generator_unordered", **options)
            results = cast("Results", pool(calls))
        try:
            yield from results
        except BrokenExecutor as error:
            raise JobError(_BROKEN[isinstance(error, TerminatedWorkerError)]) from error
        finally:
            with warnings.catch_warnings():  # joblib warns of results that are not taken
                warnings.simplefilter("ignore")
                results.close()


class _Mapped:
    """A large tensor as an array, which joblib lets all workers of a machine share."""

    def __init__(self, tensor: torch.Tensor):
        self.array = tensor.numpy()

    @classmethod
    def of(cls, leaf: Any) -> Any:
        """Return a large plain tensor as a `_Mapped`, and anything else as it is."""
        plain = type(leaf) is torch.Tensor and leaf.device.type == "cpu" and not leaf.requires_grad
        if plain and leaf.layout == torch.strided and leaf.nbytes >= _SHARED:
            with suppress(TypeError):  # numpy has no bfloat16
                return cls(leaf)
        return leaf


def _with_mapped(function: Call, common: Task, place: int, task: Task) -> tuple[int, Any]:
    """Call `called` with arrays made tensors again."""
    own = mapped(common, lambda each: torch.from_numpy(each.array) if _is_mapped(each) else each)
    return called(function, own, place, task)


def _is_mapped(leaf: Any) -> bool:
    return isinstance(leaf, _Mapped)


def on_dask(function: Call, tasks: Sequence[Task], common: Task, jobs: int) -> Results:
    """Yield the results of `called` from the workers of a Dask cluster.

    Raises:
        JobError: a worker has several threads.
    """
    import cloudpickle
    from distributed import as_completed

    with _dask_client(jobs) as client, _by_value(cloudpickle):
        client.wait_for_workers(1)
        several = [name for name, threads in client.nthreads().items() if threads > 1]
        if several:
            raise JobError(
                "jobs set torch's number of threads and its random state, which threads share; "
                f"Dask's worker {several[0]} runs several at once. Start workers with --nthreads 1."
            )
        (shared,) = client.scatter([common], broadcast=True, hash=False)
        futures = [
            client.submit(called, function, shared, at, task, pure=False)
            for at, task in enumerate(tasks)
        ]
        try:
            for _, result in as_completed(futures, loop=client.loop, with_results=True):
                yield result
        finally:
            client.cancel(futures)


@contextmanager
def _dask_client(jobs: int) -> Iterator[Any]:
    """Yield the current client, one of the cluster that the environment names, or of a new one."""
    import dask
    from distributed import Client, LocalCluster

    with suppress(ValueError):
        found = Client.current()
        yield found
        return
    address = dask.config.get("scheduler-address", None)
    if address is not None:
        with Client(address, set_as_default=False) as client:
            yield client
        return
    with _interrupts_held():
        options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
        cluster = LocalCluster(jobs, **options)
    # Processes that hold torch take longer to end than Dask waits before it warns.
    nanny = logging.getLogger("distributed.nanny")
    level = nanny.level
    nanny.setLevel(logging.ERROR)
    try:
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client
    finally:
        nanny.setLevel(level)


def on_ray(function: Call, tasks: Sequence[Task], common: Task, jobs: int) -> Results:
    """Yield the results of `called` from the workers of a Ray cluster."""
    import ray  # pyright: ignore[reportMissingImports] - no package of the project's own tests
    from ray import cloudpickle  # pyright: ignore[reportMissingImports]

    started = not ray.is_initialized()
    if started and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif started:
        with _interrupts_held():
            ray.init("local", num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    waiting: list[Any] = []
    try:
        with _by_value(cloudpickle):
            remote, shared = ray.remote(num_cpus=1)(called), ray.put(common)
            waiting = [remote.remote(function, shared, at, task) for at, task in enumerate(tasks)]
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done)
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if started:
            ray.shutdown()


RUNNERS: dict[str, Callable[[Call, Sequence[Task], Task, int], Results]] = {
    "loky": on_loky,
    "dask": on_dask,
    "ray": on_ray,
}


@contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    """Let the classes and functions of `BY_VALUE` travel by their code within the block."""
    modules = [*BY_VALUE.values()]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends; processes that are started in it never see it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """Begin a worker process, which ends when its parent does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once its parent is another one: a process without a parent is adopted."""
    while os.getppid() == parent:
        time.sleep(_LOOKS)
    os._exit(1)
