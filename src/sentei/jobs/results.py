"""Run experiments as jobs, and store each result, so that none is computed twice.

A job is a function with its settings. Its result is a JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentei import storage
from sentei.errors import IncompleteError, JournalError
from sentei.jobs.backends import RUNNERS, Results, called
from sentei.jobs.workers import Workers, own

Result = dict[str, Any]
ENDING = ".json"


@dataclass(frozen=True)
class Job:
    """One experiment: a function and the keyword arguments that it is called with.

    Attributes:
        name: the name of the result file; unique among the jobs of a run.
        function: defined at the top level of a module, so that another process can import it;
            returns a dict that JSON can store. What all jobs of a run have in common comes first
            among its arguments.
        settings: the keyword arguments of `function`: numbers, strings, lists of them.
        about: texts that also tell this job's result from others: those of what jobs have in
            common, such as a network's fingerprint.
    """

    name: str
    function: Callable[..., Result]
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Return the function and settings that a stored result must have to belong to this job."""
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        return {
            "function": function,
            "settings": json.loads(json.dumps({**self.settings, **self.about})),
        }


def run(
    jobs: Sequence[Job],
    folder: Path | None = None,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    *,
    common: Sequence[Any] = (),
    on_progress: Callable[[int, int, str], object] | None = None,
) -> dict[str, Result]:
    """Run the jobs that have no stored result, and return the results of all jobs by name.

    Each result is written to `folder` as one JSON file, in one piece. A run that was stopped
    continues with the jobs that have no file yet. A stored result of other settings is refused, not
    reused.

    Args:
        jobs: what to run; the results have the same order.
        folder: where results are stored; nowhere if None.
        workers: where jobs run, and which share of them.
        common: what every job's function is called with before its settings.
        on_progress: called after each job, also for one that already had a stored result, with
            (jobs done, number of jobs, name of the last one).

    Raises:
        IncompleteError: the share of `workers` is done, and results of other shares are missing.
        JobError: a worker was killed.
        JournalError: `folder` holds a result of that name with other settings.
        ValueError: two jobs have the same name, or a share is to be run without a folder.
    """
    names = [job.name for job in jobs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"each job needs a unique name; {repeated[0]!r} is there twice")
    if workers.shard and folder is None:
        raise ValueError(
            f"a share of the jobs, {workers.shard}, needs a folder where all shares store results"
        )
    results: dict[str, Result | None] = dict.fromkeys(names)

    def keep(job: Job, result: Result) -> None:
        results[job.name] = result
        if on_progress is not None:
            finished = sum(each is not None for each in results.values())
            on_progress(finished, len(jobs), job.name)

    for job in jobs:
        stored = None if folder is None else _stored(job, folder)
        if stored is not None:
            keep(job, stored)
    pending = [job for job in own(jobs, workers) if results[job.name] is None]
    with closing(executed(_called, [(job,) for job in pending], workers, common)) as finished:
        for place, result in finished:
            job = pending[place]
            record = {**job.identity(), "result": result}
            if folder is not None:
                storage.write(_file(job, folder), (json.dumps(record, indent=1) + "\n").encode())
            keep(job, json.loads(json.dumps(result)))
    # Those of other shares may have come since the beginning.
    for job in jobs:
        if results[job.name] is None and folder is not None:
            results[job.name] = _stored(job, folder)
    complete = {name: result for name, result in results.items() if result is not None}
    if len(complete) < len(jobs):
        raise IncompleteError(
            f"{folder} holds {len(complete)} of {len(jobs)} results: the share {workers.shard} is "
            "done, and others are missing. Once every share has run, the same command judges them."
        )
    return complete


def stored(jobs: Sequence[Job], folder: Path) -> dict[str, Result]:
    """Return the results that are stored already, by name, and run nothing.

    Raises:
        JournalError: `folder` holds a result of that name with other settings.
    """
    found = ((job.name, _stored(job, folder)) for job in jobs)
    return {name: result for name, result in found if result is not None}


def executed(
    function: Callable[..., Any],
    tasks: Sequence[Sequence[Any]],
    workers: Workers,
    common: Sequence[Any] = (),
) -> Results:
    """Yield the position of each task with `function(*common, *task)`, in the order they finish."""
    if workers.is_here or not tasks:
        for place, task in enumerate(tasks):
            yield called(function, common, place, task)
        return
    with closing(RUNNERS[workers.backend](function, tasks, common, workers.jobs)) as results:
        yield from results


def _called(*given: Any) -> Result:
    *common, job = given
    return job.function(*common, **job.settings)


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
            f"this job has {job.identity()['settings']}. Name another folder, or delete the file."
        )
    return result
