"""Who writes a run folder: one process at a time, rank 0 only. What kills and full disks leave."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from random_runs import content, parts, pruned
from sentei import FileError, JournalError, prune
from sentei.pruning import folder_lock
from sentei.pruning.folder_lock import LOCK, FolderLock
from sentei.pruning.journal import note
from sentei.pruning.run_reader import read_run

TESTS = str(Path(__file__).parent)

# A process that forks another for each line it reads: a folder, arguments of `pruned`, and, if not
# null, after how many steps a file may have how many bytes. torch is imported once, so that a run
# begins at once. It prints the number of each process; the process prints its outcome to stderr.
FORKS = """
import json, os, resource, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import random_runs as runs
from sentei import PruningError, prune
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def outcome(folder, given, limit):
    if limit is None:
        return len(runs.pruned(folder, **given)[1])
    steps = prune(**runs.parts(), journal=folder)
    for _ in range(limit[0]):
        next(steps)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
    return len(list(steps))

for line in sys.stdin:
    folder, given, limit = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    try:
        found = outcome(folder, given, limit)
    except PruningError as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps([os.getpid(), found]), file=sys.stderr, flush=True)
    os._exit(0)
"""


class Forks:
    """Start runs in other processes; `start` returns a number, `outcome` waits for one to end."""

    def __init__(self):
        self.parent = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FORKS, TESTS],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, folder, limit=None, **given) -> int:
        assert self.parent.stdin
        assert self.parent.stdout
        self.parent.stdin.write(json.dumps([str(folder), given, limit]) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def outcome(self, *children: int) -> tuple[int, int | str]:
        """The number of the first of these that ends by itself, and its steps or its error."""
        assert self.parent.stderr
        while True:
            number, found = json.loads(self.parent.stderr.readline())
            if number in children:  # else a process of an earlier test ended by itself
                return number, found


@pytest.fixture(scope="module")
def forks():
    made = Forks()
    yield made
    made.parent.kill()
    made.parent.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    pruned(folder)
    return folder


def steps_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith("steps/0")}


def killed(forks: Forks, folder: Path, whole: Path, kills: int) -> int:
    """Kill a run again and again, resume it each time, begin anew when it has ended."""
    draw, ended = random.Random(11), 0
    complete = content(whole)
    for _ in range(kills):
        child = forks.start(folder, resume=True, slowly=0.01)
        time.sleep(draw.random() * 0.4)
        with contextlib.suppress(ProcessLookupError):  # the run may have ended before
            os.kill(child, signal.SIGKILL)
        while Path(f"/proc/{child}").exists():
            time.sleep(0.001)
        found = steps_of(content(folder)) if folder.exists() else {}
        assert all(complete[name] == data for name, data in found.items())
        assert [*found] == [*steps_of(complete)][: len(found)]
        if found:
            assert len(read_run(folder).records) == len(found)
        if len(found) == len(steps_of(complete)):
            ended += 1
            shutil.rmtree(folder)
    pruned(folder, resume=True)
    for leftover in folder.rglob(".*.part"):
        leftover.unlink()
    assert content(folder) == complete
    return ended


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
def test_four_kills(forks, tmp_path, whole):
    killed(forks, tmp_path / "run", whole, 4)


@needs_fork
@pytest.mark.slow
def test_forty_kills(forks, tmp_path, whole):
    killed(forks, tmp_path / "run", whole, 40)


@needs_fork
@pytest.mark.parametrize(("after", "size"), [(0, 100), (2, 600), (4, 1500)])
def test_a_full_disk_keeps_the_last_whole_step(forks, tmp_path, whole, after, size):
    """Files may not grow beyond `size` bytes once `after` steps were yielded."""
    _, said = forks.outcome(forks.start(tmp_path / "run", limit=[after, size]))
    assert str(said).startswith("FileError: cannot write")
    assert "File too large" in str(said)
    assert len(steps_of(content(tmp_path / "run"))) == after
    pruned(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(whole)


@needs_fork
@pytest.mark.parametrize("resume", [False, True])
def test_of_two_processes_at_once_one_is_refused(forks, tmp_path, whole, resume):
    folder = tmp_path / "run"
    if resume:
        pruned(folder, stop_after=1)
    children = {forks.start(folder, resume=resume, slowly=0.2) for _ in range(2)}
    (first, refused), (second, count) = (forks.outcome(*children) for _ in range(2))
    assert {first, second} == children
    assert str(refused).startswith(f"JournalError: {folder} is in use by process {second}")
    assert count == len(steps_of(content(whole)))
    assert content(folder) == content(whole)


@needs_fork
def test_a_run_in_another_process_is_named_and_can_be_read(forks, tmp_path):
    folder = tmp_path / "run"
    child = forks.start(folder, slowly=0.5)
    while not (folder / "steps" / "00001.safetensors").exists():
        time.sleep(0.01)
    for resume in (False, True):
        with pytest.raises(JournalError, match=rf"run is in use by process {child}, .*another"):
            pruned(folder, resume=resume)
    assert len(read_run(folder).records) >= 2
    os.kill(child, signal.SIGKILL)
    while Path(f"/proc/{child}").exists():
        time.sleep(0.001)
    assert (folder / LOCK).read_text() == f"{child}\n"
    pruned(folder, resume=True)
    assert not (folder / LOCK).exists()


def test_a_second_run_in_the_same_process_is_refused_until_the_first_is_closed(tmp_path):
    first = prune(**parts(), journal=tmp_path / "run")
    with pytest.raises(JournalError, match=rf"in this process \({os.getpid()}\).*\.close\(\)"):
        prune(**parts(), journal=tmp_path / "run", resume=True)
    next(first)
    assert LOCK in content(tmp_path / "run")
    with pytest.raises(JournalError, match="is in use"):
        prune(**parts(), journal=tmp_path / "run", resume=True)
    first.close()
    assert LOCK not in content(tmp_path / "run")
    assert len(list(prune(**parts(), journal=tmp_path / "run", resume=True))) > 3
    assert LOCK not in content(tmp_path / "run")


def test_a_run_that_is_never_iterated_frees_its_folder(tmp_path):
    run = prune(**parts(), journal=tmp_path / "run")
    assert LOCK in content(tmp_path / "run")
    del run
    assert LOCK not in content(tmp_path / "run")


def test_a_refused_folder_stays_as_it_was(tmp_path):
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "letter.txt").write_text("dear all")
    before = content(tmp_path)
    with pytest.raises(JournalError, match="no run folder") as held:
        pruned(tmp_path / "mail")
    assert content(tmp_path) == before
    pruned(tmp_path / "run", stop_after=1)
    before = content(tmp_path)
    with pytest.raises(JournalError, match="already holds a run") as also:
        pruned(tmp_path / "run")
    assert content(tmp_path) == before  # though the errors hold the frames that held the lock
    assert held
    assert also


def test_a_folder_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    pruned(tmp_path / "run", stop_after=1)
    assert "cannot be locked: No locks available" in caplog.text


def test_a_lock_file_that_its_owner_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    real, calls = folder_lock._lock, []

    def late(handle):
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()  # the owner before ends between opening and locking
        real(handle)

    monkeypatch.setattr(folder_lock, "_lock", late)
    lock = FolderLock(tmp_path)
    assert len(calls) == 2
    assert lock.holds
    monkeypatch.undo()
    with pytest.raises(JournalError, match="in this process"):
        FolderLock(tmp_path)


def test_a_forked_child_and_a_replaced_folder_leave_the_lock_file(tmp_path):
    lock = FolderLock(tmp_path)
    folder_lock._released(os.open(tmp_path / LOCK, os.O_RDONLY), tmp_path / LOCK, owner=1)
    assert lock.holds
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).write_text("of another run")
    assert not lock.holds
    lock.release()
    assert (tmp_path / LOCK).read_text() == "of another run"


def test_windows_locks_a_byte_that_is_not_the_number(tmp_path, monkeypatch):
    class Windows:
        LK_NBLCK, locked = 2, None

        def locking(self, handle, mode, count):
            assert (mode, count) == (2, 1)
            assert os.lseek(handle, 0, os.SEEK_CUR) > 100
            if self.locked is not None:
                raise PermissionError(errno.EACCES, "Permission denied")
            self.locked = handle

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Windows())
    lock = FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    with pytest.raises(JournalError, match=f"{os.getpid()}"):
        FolderLock(tmp_path)
    assert lock.holds
    lock.release()
    assert not lock.holds
    assert not (tmp_path / LOCK).exists()


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def created_again(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def copied(folder: Path) -> None:
    moved(folder)
    shutil.copytree(folder.with_name("elsewhere"), folder)


def of_another_run(folder: Path) -> None:
    moved(folder)
    pruned(folder, stop_after=1, retrain=None)


def without_steps(folder: Path) -> None:
    shutil.rmtree(folder / "steps")


def steps_a_file(folder: Path) -> None:
    shutil.rmtree(folder / "steps")
    (folder / "steps").write_text("")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


WAYS = [removed, moved, created_again, copied, of_another_run, without_steps, steps_a_file, a_file]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_folder_that_is_no_longer_there_stops_the_run(tmp_path, way):
    given = parts()
    run = prune(**given, journal=tmp_path / "run")
    _, _, step = (next(run) for _ in range(3))
    before = {name: t.clone() for name, t in given["model"].state_dict().items()}
    calls = given["retrain"].calls
    way(tmp_path / "run")
    left = content(tmp_path)
    with pytest.raises(JournalError, match=r"run was removed, replaced .*step 3 cannot be stored"):
        next(run)
    assert step.number == 2
    assert all(torch.equal(t, before[n]) for n, t in given["model"].state_dict().items())
    assert given["retrain"].calls == calls
    assert {n: d for n, d in content(tmp_path).items() if LOCK not in n} == {
        n: d for n, d in left.items() if LOCK not in n
    }
    if way is not copied:  # a copy has the step's own bytes
        with pytest.raises(JournalError):
            step.network()
    assert next(run, None) is None


def test_a_temporary_folder_that_vanished_stops_the_run():
    run = prune(**parts())
    step = next(run)
    shutil.rmtree(step.folder)
    with pytest.raises(JournalError, match="was removed"):
        next(run)


def test_notes_are_stored_in_a_run_folder_only(tmp_path):
    with pytest.raises(JournalError, match=r"run\.json cannot be read"):
        note(tmp_path / "none", {"command": "x"})
    assert content(tmp_path) == {}


def test_a_folder_that_became_unwritable_stops_the_run(tmp_path, monkeypatch):
    given = parts()
    run = prune(**given, journal=tmp_path / "run")
    next(run)
    step = next(run)
    before = {name: t.clone() for name, t in given["model"].state_dict().items()}

    def refused(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("sentei.storage.os.open", refused)
        with pytest.raises(FileError, match=r"00002\.safetensors: Read-only file system"):
            next(run)
    assert all(torch.equal(t, before[n]) for n, t in given["model"].state_dict().items())
    assert len(steps_of(content(tmp_path / "run"))) == step.number + 1


# Two processes of one torch.distributed group.


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    own = Path(folder, f"temporary{rank}")
    own.mkdir()
    tempfile.tempdir = str(own)
    found = {}
    for name, given in {
        "new": {"folder": f"{folder}/run", "stop_after": 2},
        "again": {"folder": f"{folder}/run"},
        "resumed": {"folder": f"{folder}/run", "resume": True},
        "temporary": {"folder": None, "stop_after": 1},
        "no folder": {"folder": f"{folder}/mail"},
    }.items():
        try:
            model, steps = pruned(**given)
            weights = torch.cat([p.flatten() for p in model.parameters()]).tolist()
            found[name] = [len(steps), [str(step.measured) for step in steps], weights]
            if name == "temporary":
                found["files"] = sorted(p.name for p in own.rglob("*"))
                try:
                    steps[1].network()
                    found["network"] = str(steps[1].folder.parent == own)
                except JournalError as error:
                    found["network"] = str(error)
            del steps
        except JournalError as error:
            found[name] = str(error)
    note(f"{folder}/run", {"seed": rank})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def test_only_rank_0_writes(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "letter.txt").write_text("dear all")
    spawn(_rank, (str(tmp_path),), nprocs=2)
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert json.loads((tmp_path / "run" / "about.json").read_text())["seed"] == 0
    (tmp_path / "run" / "about.json").unlink()
    assert content(tmp_path / "run") == content(whole)
    for name in ("new", "again", "resumed", "temporary", "no folder"):
        assert zero[name] == one[name], name
    assert "already holds a run" in zero["again"]
    assert "no run folder" in zero["no folder"]
    assert zero["resumed"][0] == len(steps_of(content(whole)))
    assert zero["files"]
    assert one["files"] == []
    assert zero["network"] == "True"
    assert "only rank 0" in one["network"]
