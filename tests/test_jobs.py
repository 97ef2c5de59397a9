"""Jobs: run once, the same results on every backend, shares that are put together, no strays."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sentei.cli.references import referred
from sentei.errors import IncompleteError, JobError, JournalError
from sentei.jobs import workers
from sentei.jobs.results import Job, executed, run
from sentei.jobs.workers import Workers, own, share
from some_jobs import ended, product, square


def test_a_job_is_done_once(tmp_path):
    todo = [Job(f"of-{n}", square, {"number": n, "notes": str(tmp_path)}) for n in (3, 2)]
    first = run(todo, tmp_path / "results")
    assert [*first] == ["of-3", "of-2"]
    assert first["of-3"]["square"] == 9
    seen = []
    again = run(todo, tmp_path / "results", on_progress=lambda *words: seen.append(words))
    assert again == first
    assert seen == [(1, 2, "of-3"), (2, 2, "of-2")]
    assert len(list(tmp_path.glob("*-*"))) == 2


def test_a_run_that_was_stopped_goes_on(tmp_path):
    def todo(*numbers):
        return [Job(f"of-{n}", square, {"number": n, "notes": str(tmp_path)}) for n in numbers]

    with pytest.raises(ArithmeticError):
        run(todo(1, -1, 2), tmp_path / "results")
    seen = []
    again = run(todo(2, 1), tmp_path / "results", on_progress=lambda *words: seen.append(words))
    assert again["of-2"]["square"] == 4
    assert seen == [(1, 2, "of-1"), (2, 2, "of-2")]  # what is stored counts first
    assert len(list(tmp_path.glob("1-*"))) == 1


def test_results_of_other_settings_are_refused(tmp_path):
    run([Job("a", square, {"number": 1})], tmp_path)
    with pytest.raises(JournalError, match="other settings"):
        run([Job("a", square, {"number": 2})], tmp_path)
    with pytest.raises(JournalError, match="other settings"):
        run([Job("a", square, {"number": 1}, {"network": "another"})], tmp_path)
    (tmp_path / "a.json").write_text('{"resu')
    with pytest.raises(JournalError, match="not the result of a job"):
        run([Job("a", square, {"number": 1})], tmp_path)
    with pytest.raises(ValueError, match="'a' is there twice"):
        run([Job("a", square), Job("a", square)], tmp_path)


@pytest.fixture
def own_code(tmp_path):
    """A function in a file, as a user names it on the command line."""
    (tmp_path / "own_code.py").write_text(
        "import torch\nclass Own:\n    def __call__(self, x):\n        return torch.tanh(x)\n"
    )
    kind = referred(f"{tmp_path / 'own_code.py'}:Own")
    yield kind()
    del sys.modules[kind.__module__], workers.BY_VALUE[kind.__module__]


def test_processes_and_a_dask_cluster_give_the_results_of_this_process(tmp_path, own_code):
    matrix = torch.rand(600, 600)  # large enough for workers to share
    todo = [Job(f"{n}", product, {"number": n}) for n in range(5)]
    ways = {"here": Workers(), "loky": Workers(2), "dask": Workers(2, "dask")}
    found = {
        name: run(todo, tmp_path / name, way, common=(matrix, own_code))
        for name, way in ways.items()
    }
    assert [*found["loky"]] == [*found["here"]] == [str(n) for n in range(5)]
    assert found["loky"] == found["dask"] == found["here"]
    assert found["loky"]["0"]["threads"] == 1
    kept = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    for name in ("loky", "dask"):
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == kept
    # An error in another process is the same error.
    todo = [Job(f"of-{n}", square, {"number": n}) for n in (1, -1, 2)]
    with pytest.raises(ArithmeticError, match="no"):
        run(todo, None, Workers(2))


@pytest.mark.slow
def test_a_cluster_whose_workers_have_threads_is_refused():
    distributed = pytest.importorskip("distributed")
    settings = {"threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with (
        distributed.LocalCluster(1, **settings) as cluster,
        distributed.Client(cluster),
        pytest.raises(JobError, match="--nthreads 1"),
    ):
        run([Job("a", square, {"number": 2})], None, Workers(2, "dask"))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_said():
    with pytest.raises(JobError, match="ended by itself"):
        run([Job(f"{n}", ended, {"code": 9}) for n in range(2)], None, Workers(2))


@pytest.mark.slow
def test_a_ray_cluster_gives_the_results_of_this_process(own_code):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'sentei[ray]'")
    todo = [Job(f"{n}", product, {"number": n}) for n in range(5)]
    common = torch.rand(600, 600), own_code
    assert run(todo, None, Workers(2, "ray"), common=common) == run(todo, None, common=common)


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_shares_are_all_jobs_once(shares):
    jobs = [*range(5)]
    parts = [own(jobs, Workers(shard=f"{n}/{shares}")) for n in range(1, shares + 1)]
    assert sorted(job for part in parts for job in part) == jobs


def test_shares_are_put_together_by_the_last(tmp_path):
    todo = [Job(f"{n}", square, {"number": n}) for n in range(5)]
    for shard, there in (("2/3", 2), ("3/3", 3)):
        with pytest.raises(IncompleteError, match=f"holds {there} of 5 results: the share {shard}"):
            run(todo, tmp_path, Workers(shard=shard))
    results = run(todo, tmp_path, Workers(shard="1/3"))
    assert [result["square"] for result in results.values()] == [0, 1, 4, 9, 16]
    assert run(todo, tmp_path, Workers(shard="2/3")) == results
    with pytest.raises(ValueError, match="needs a folder"):
        run(todo, None, Workers(shard="1/3"))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "/2", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2"])
def test_what_is_no_share_is_refused(shard):
    with pytest.raises(ValueError, match="i from 1 to n"):
        share(shard)
    with pytest.raises(ValueError, match="i from 1 to n"):
        Workers(shard=shard)


@pytest.mark.parametrize("backend", workers.BACKENDS)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, backend):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    package, extra = workers.NEEDS[backend]
    with pytest.raises(JobError, match=rf"needs {package}.*pip install 'sentei\[{extra}\]'"):
        Workers(2, backend)
    assert next(executed(square, [(2,)], Workers()))[1]["square"] == 4


def test_workers_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        Workers(0)
    with pytest.raises(ValueError, match="Did you mean 'dask'"):
        Workers(2, "dsak")


SCRIPT = """
import os, pathlib, sys, time
from sentei.jobs.results import Job, run
from sentei.jobs.workers import Workers

def slow(number):
    print(os.getpid(), file=sys.stderr, flush=True)
    time.sleep(300)

if __name__ == "__main__":
    run([Job(f"{n}", slow, {"number": n}) for n in range(3)], None, Workers(2))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, text=True, stderr=subprocess.PIPE
    ) as running:
        assert running.stderr is not None
        found = [int(running.stderr.readline()) for _ in range(2)]
        running.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(map(lives, found)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(lives, found))


def lives(number):
    state = Path(f"/proc/{number}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
