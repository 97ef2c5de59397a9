"""Ctrl-C and SIGTERM, at many moments: an exit code, one line about what is kept, no traceback."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from commands import run
from sentei import datasets, formats, storage, training
from sentei.cli import loading, stopping

SENTEI = [sys.executable, "-m", "sentei"]
LETTER = ["--data", "letter", "--samples", "300"]
NOTHING = "sentei: stopped. Nothing was written; files that were there are unchanged.\n"


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small trained network."""
    path = tmp_path_factory.mktemp("stopping") / "net.safetensors"
    network = training.build("16-12-26")
    data = datasets.load("letter").train.first(2000)
    training.train(network, data, training.Recipe(epochs=3, lr=0.01))
    formats.save(network, path)
    return str(path)


@pytest.fixture
def signals():
    """Give back the handlers of signals: a stopped command leaves them ignored."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop(*_, **__):
    signal.raise_signal(signal.SIGINT)


def stopped(words, moment, cwd, number=signal.SIGINT, start=SENTEI):
    """Send a signal to a command once a line on stderr holds a text; return code, out and err."""
    with subprocess.Popen(
        [*start, *words], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        before = ""
        for line in running.stderr or ():
            before += line
            if moment in line:
                break
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert moment in before
    return running.returncode, out, err


# Real signals, to processes of their own.


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_training_is_stopped(number, code, tmp_path):
    words = ["train", "letter", "--model", "16-12-26", "--epochs", "5000"]
    got = stopped(words, "training 1/5000", tmp_path, number)
    assert got[:2] == (code, "")
    assert got[2].endswith(NOTHING)
    assert got[2].count("stopped") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["numpy", "torch.nn.modules.linear", "sentei.probe"])
def test_imports_are_stopped(module, tmp_path):
    start = [sys.executable, "-X", "importtime", "-m", "sentei"]
    words = ["prune", "16-12-26", *LETTER, "--units-at-most", "3"]
    code, out, err = stopped(words, f" {module}\n", tmp_path, start=start)
    (said,) = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (code, out) == (130, "")
    assert said.startswith("sentei: stopped. Nothing was written")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_stopped_run_is_continued_by_the_command_that_is_named(net, tmp_path):
    words = ["prune", net, *LETTER, "--units-at-most", "2", "--retrain-epochs", "1"]
    whole = [*words, "--out", "whole.safetensors"]
    assert subprocess.run([*SENTEI, *whole], cwd=tmp_path, check=True).returncode == 0
    code, out, err = stopped([*words, "--journal", "run"], "removed 2/12", tmp_path)
    assert (code, out) == (130, "")
    (said,) = re.findall(r"sentei: stopped\. .*\n", err)
    last, command = re.findall(r"run holds steps 0 to (\d+)\. Continue with: (.*)\n", said)[0]
    assert "Nothing was written" not in said
    steps = sorted(path.stem for path in (tmp_path / "run" / "steps").iterdir())
    assert int(steps[-1]) == int(last) >= 2
    assert not (tmp_path / "small.safetensors").exists()
    again = [*SENTEI, *shlex.split(command)[1:]]
    assert subprocess.run(again, cwd=tmp_path, check=True).returncode == 0
    found = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("small", "whole")]
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_stopped_fit_names_its_runs(net, tmp_path):
    words = ["fit", net, *LETTER, "--budget", "400 B", "--out", "a.c", "--retrain-epochs", "1"]
    code, out, err = stopped([*words, "--journal", "fits"], "units:", tmp_path)
    assert (code, out) == (130, "")
    assert re.search(r"fits holds steps 0 to \d+ of both, steps 0 to \d+ of units", err)
    assert err.rstrip().endswith("--journal fits --resume")
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]


def test_a_progress_bar_is_stopped_and_the_cursor_comes_back(tmp_path):
    leader, follower = pty.openpty()
    words = ["train", "letter", "--model", "16-12-26", "--epochs", "5000"]
    with subprocess.Popen([*SENTEI, *words], cwd=tmp_path, stderr=follower) as running:
        os.close(follower)
        shown = b""
        while b"%" not in shown:
            shown += os.read(leader, 4096)
        running.send_signal(signal.SIGINT)
        try:
            while more := os.read(leader, 4096):
                shown += more
        except OSError:  # the end of a terminal's output
            pass
    os.close(leader)
    assert running.returncode == 130
    assert b"Traceback" not in shown
    assert NOTHING.strip().encode() in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


EXPERIMENTS = """
import pathlib, sys, time
from sentei.jobs.results import Job, run
from sentei.jobs.workers import Workers

def experiment(number):
    print("started", file=sys.stderr, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    try:
        jobs = [Job(f"{n}", experiment, {"number": n}) for n in range(4)]
        run(jobs, pathlib.Path("x"), Workers(2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow  # on a busy machine a worker that has just started can miss the signal
def test_workers_end_with_ctrl_c_without_a_word(tmp_path):
    """Ctrl-C in a shell goes to all processes of a command."""
    (tmp_path / "script.py").write_text(EXPERIMENTS)
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, text=True, start_new_session=True,
        stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        assert running.stderr.readline() == "started\n"
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in err


@pytest.mark.slow
def test_experiments_that_run_side_by_side_are_all_stopped(tmp_path):
    """Ctrl-C in a shell goes to all processes of a command."""
    words = ["reproduce", "shrinking", "--quick", "--seeds", "9", "--jobs", "2"]
    with subprocess.Popen(
        [*SENTEI, *words], cwd=tmp_path, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        assert "reproducing shrinking 1/" in running.stderr.readline()
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert err.rstrip().endswith(f"Continue with: sentei {' '.join(words)}")
    assert list((tmp_path / "reproduced").rglob("*.json"))


# At moments that no clock finds.


@pytest.mark.usefixtures("signals")
def test_a_file_that_is_being_written_stays_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "net.safetensors"
    out.write_bytes(b"old")
    monkeypatch.setattr(storage.os, "fsync", stop)
    words = ["train", "letter", "--model", "16-4-26", "--epochs", 1, "--out", out, "--quiet"]
    assert run(*words, capsys=capsys) == (130, "", NOTHING)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("signals")
def test_files_that_are_complete_are_named(net, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sentei.reporting.page.write", stop)
    words = ["prune", net, *LETTER, "--units-at-most", 9, "--report", "page.html"]
    code, out, err = run(*words, "--quiet", capsys=capsys)
    assert (code, out) == (130, "")
    assert err == "sentei: stopped. Complete and kept: small.safetensors.\n"
    assert formats.load("small.safetensors")[0].out_features == 9


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("kind", [ImportError, RuntimeError, SystemError])
def test_a_library_that_makes_another_error_of_it_does_not_hide_it(kind, monkeypatch, capsys):
    def loaded(*_):
        try:
            stop()
        except KeyboardInterrupt:
            raise kind("initialization failed") from None

    monkeypatch.setattr(loading, "loaded", loaded)
    code, out, err = run("rank", "16-4-26", "--data", "letter", "--json", capsys=capsys)
    assert (code, err) == (130, NOTHING)
    assert json.loads(out) == {"error": NOTHING.removeprefix("sentei: ").strip()}


@pytest.mark.usefixtures("signals")
def test_a_signal_in_a_destructor_is_not_lost(monkeypatch, capsys):
    class Destroyed:
        def __del__(self):
            stop()

    def loaded(*_):
        Destroyed()
        time.sleep(5)
        raise AssertionError("it goes on")

    monkeypatch.setattr(loading, "loaded", loaded)
    assert run("rank", "16-4-26", "--data", "letter", capsys=capsys) == (130, "", NOTHING)


def test_a_command_leaves_handlers_of_signals_as_they_were(capsys):
    before = [signal.getsignal(number) for number in stopping.SIGNALS], sys.unraisablehook
    run("info", "none.safetensors", capsys=capsys)
    after = [signal.getsignal(number) for number in stopping.SIGNALS], sys.unraisablehook
    assert after == before
