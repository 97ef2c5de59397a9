"""Run experiments as jobs in parallel and store each result, so that none is computed twice.

A job is a function with its settings. Its result is a JSON file.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sentei import storage
from sentei.errors import JournalError
from sentei.running import on_threads

Result = dict[str, Any]
ENDING = ".json"


@dataclass(frozen=True)
class Job:
    """One experiment: a module-level function and the keyword arguments that it is called with.

    Attributes:
        name: the name of the result file; unique among the jobs of a run.
        function: defined at the top level of a module, so that another process can import it;
            returns a dict that JSON can store.
        settings: the keyword arguments of `function`: numbers, strings, lists of them.
    """

    name: str
    function: Callable[..., Result]
    settings: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Return the function and settings that a stored result must have to belong to this job."""
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        return {"function": function, "settings": json.loads(json.dumps(self.settings))}


def run(
    jobs: Sequence[Job],
    folder: Path,
    processes: int = 1,
    done: Callable[[Job], None] | None = None,
) -> dict[str, Result]:
    """Run the jobs that have no stored result, and return the results of all jobs by name.

    Each result is written to `folder` as one JSON file, in one piece. A run that was stopped
    continues with the jobs that have no file yet. A stored result of other settings is refused, not
    reused.

    Args:
        jobs: what to run; the results have the same order.
        folder: where results are stored.
        processes: how many jobs run at once, each on one torch thread; 1 runs them in this process.
        done: called after each job, also for jobs that already had a stored result.

    Raises:
        JournalError: `folder` holds a result of that name with other settings.
        ValueError: two jobs have the same name, or `processes` is below 1.
    """
    if processes < 1:
        raise ValueError(f"processes is how many jobs run at once, at least 1; got {processes}")
    names = [job.name for job in jobs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"each job needs a unique name; {repeated[0]!r} is there twice")
    results = {job.name: _stored(job, folder) for job in jobs}
    pending = [job for job in jobs if results[job.name] is None]
    for job in jobs:
        if results[job.name] is not None and done is not None:
            done(job)
    for job, result in _execute(pending, processes):
        record = {**job.identity(), "result": result}
        storage.write(_file(job, folder), (json.dumps(record, indent=1) + "\n").encode())
        results[job.name] = json.loads(json.dumps(result))
        if done is not None:
            done(job)
    return {name: result for name, result in results.items() if result is not None}


def _execute(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, in this process or from a pool of processes."""
    if processes == 1 or len(jobs) < 2:
        with on_threads(1):  # a job's result does not depend on other running jobs
            for job in jobs:
                yield job, job.function(**job.settings)
        return
    context = multiprocessing.get_context("spawn")  # torch can hang in a forked process
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, context, initializer=_use_one_thread) as pool:
        with _interrupts_held():  # in the workers for good: this process ends them
            running: dict[Future[Result], Job] = {
                pool.submit(job.function, **job.settings): job for job in jobs
            }
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


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


def _use_one_thread() -> None:
    """Run torch on one thread; called at the start of each worker process."""
    torch.set_num_threads(1)


def _file(job: Job, folder: Path) -> Path:
    """Return the path of a job's result file."""
    return folder / (job.name + ENDING)


def _stored(job: Job, folder: Path) -> Result | None:
    """Return the stored result of a job, or None if it has no file yet."""
    file = _file(job, folder)
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        result = record.pop("result")
    except (ValueError, KeyError, AttributeError) as error:
        raise JournalError(
            f"{file} is not the result of a job. Delete it to run the job again."
        ) from error
    if record != job.identity():
        raise JournalError(
            f"{file} holds the result of other settings, {record.get('settings')}; "
            f"this job has {job.settings}. Name another folder, or delete the file."
        )
    return result
