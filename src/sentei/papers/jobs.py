"""Experiments as jobs: a function and its settings, done once, side by side, never lost."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sentei import storage
from sentei.errors import JournalError

Result = dict[str, Any]
ENDING = ".json"


@dataclass(frozen=True)
class Job:
    """One experiment: a function of a module, called with plain settings.

    Attributes:
        name: of its result's file; different for every job of a run.
        function: at the top of a module, so that another process can find it; gives a dict that
            JSON can hold.
        settings: its keyword arguments: numbers, strings, lists of them.
    """

    name: str
    function: Callable[..., Result]
    settings: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a result on disk to be this job's."""
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        return {"function": function, "settings": json.loads(json.dumps(self.settings))}


def run(
    jobs: Sequence[Job],
    folder: Path,
    processes: int = 1,
    done: Callable[[Job], None] | None = None,
) -> dict[str, Result]:
    """Do what is not done yet, and give every job's result.

    Results lie in `folder`, one JSON file each, written whole: a run that was stopped goes on where
    it was, and a result of other settings is refused, not reused.

    Args:
        jobs: their order is that of the results.
        folder: where results are kept.
        processes: how many run at once, each on one thread of torch; 1 stays in this process.
        done: called after each job, also for those that were done already.

    Raises:
        JournalError: `folder` holds a result of that name with other settings.
        ValueError: two jobs of one name, or no process to do them.
    """
    if processes < 1:
        raise ValueError(f"processes is how many jobs run at once, at least 1; got {processes}")
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"each job needs a name of its own; {twice[0]!r} is there twice")
    results = {job.name: _kept(job, folder) for job in jobs}
    open_jobs = [job for job in jobs if results[job.name] is None]
    for job in jobs:
        if results[job.name] is not None and done is not None:
            done(job)
    for job, result in _work(open_jobs, processes):
        record = {**job.identity(), "result": result}
        storage.write(_file(job, folder), (json.dumps(record, indent=1) + "\n").encode())
        results[job.name] = json.loads(json.dumps(result))
        if done is not None:
            done(job)
    return {name: result for name, result in results.items() if result is not None}


def _work(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Result]]:
    if processes == 1 or len(jobs) < 2:
        with one_thread():
            for job in jobs:
                yield job, job.function(**job.settings)
        return
    context = multiprocessing.get_context("spawn")  # forked torch threads can hang
    with ProcessPoolExecutor(processes, context, initializer=_alone) as pool:
        waiting: dict[Future[Result], Job] = {
            pool.submit(job.function, **job.settings): job for job in jobs
        }
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that a job gives the same alone and beside others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alone() -> None:
    torch.set_num_threads(1)


def _file(job: Job, folder: Path) -> Path:
    return folder / (job.name + ENDING)


def _kept(job: Job, folder: Path) -> Result | None:
    file = _file(job, folder)
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        result = record.pop("result")
    except (ValueError, KeyError, AttributeError) as error:
        raise JournalError(f"{file} is no result of a job: delete it to have it redone") from error
    if record != job.identity():
        raise JournalError(
            f"{file} holds the result of other settings, {record.get('settings')}; "
            f"this job has {job.settings}. Name another folder, or delete the file."
        )
    return result
