"""The page of a run that goes on, served on the loopback address."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread

import pytest
import torch
from torch import nn

import sentei
from browser import NEEDED, chromium
from commands import run
from sentei import formats, training
from sentei.errors import JournalError
from sentei.reporting import live
from sentei.reporting.page import live as page_of


@contextmanager
def served(pages):
    """Serve pages in a thread, and yield their address."""
    with live.server(pages) as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_address[1]}/"
        finally:
            made.shutdown()
            thread.join()


def asked(address, **headers):
    """Return the answer of a server: its code and its text."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def complete(folder, steps):
    (folder / "steps").mkdir(exist_ok=True, parents=True)
    for number in range(steps):
        (folder / "steps" / f"{number:05}.safetensors").touch()


def test_ten_readers_see_one_page_that_was_built_once(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "REST", 0)  # however long a page takes here, the next may follow
    built = []

    def build():
        built.append(len(built))
        return f"page {len(built)}".encode()

    pages = live.Pages(tmp_path, build)
    with served(pages) as address:
        assert "has not finished its first step" in asked(address)[1]
        assert asked(address + "steps") == (200, "0")
        complete(tmp_path, 3)
        with ThreadPoolExecutor(10) as readers:
            seen = set(readers.map(asked, [address] * 10))
        assert seen == {(200, "page 1")}
        assert asked(address + "steps") == (200, "3")
        complete(tmp_path, 4)
        assert asked(address)[1] == "page 2"


def test_pages_that_take_long_are_built_more_seldom(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])

    def build():
        now[0] += 3
        return str(now[0]).encode()

    pages = live.Pages(tmp_path, build)
    complete(tmp_path, 1)
    assert pages.newest() == b"3.0"
    complete(tmp_path, 2)
    now[0] = 3 + 3 * live.REST - 1
    assert (pages.newest(), pages.to_show()) == (b"3.0", 1)
    now[0] += 1
    assert pages.to_show() == 2
    assert pages.newest() != b"3.0"


def test_a_folder_that_is_half_written_leaves_the_last_page(tmp_path):
    answers = [b"one", JournalError("half")]

    def build():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pages = live.Pages(tmp_path, build)
    complete(tmp_path, 1)
    assert pages.newest() == b"one"
    complete(tmp_path, 2)
    assert pages.newest() == b"one"


def test_a_run_of_which_no_page_can_be_made_says_why(tmp_path, monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(live.time, "monotonic", lambda: 100.0 * next(now))
    monkeypatch.setattr(live, "REST", 0)
    errors = [JournalError("pass <model=>"), JournalError("half")]

    def build():
        if errors:
            raise errors.pop(0)
        return b"one"

    pages = live.Pages(tmp_path, build)
    complete(tmp_path, 1)
    first = pages.newest()
    assert b"no page of this run yet: pass &lt;model=&gt;</p>" in first
    assert b"refresh" in first
    assert b"yet: half</p>" in pages.newest()
    assert pages.newest() == b"one"


def test_a_port_that_is_taken_is_named_with_the_remedy(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with live.server(live.Pages(tmp_path, bytes)) as other:
        taken = other.server_address[1]
        code, _, err = run("watch", tmp_path / "run", "--port", taken, capsys=capsys)
    assert code == 1
    assert f"port {taken} of 127.0.0.1 cannot be used" in err
    assert "give another --port" in err


def test_the_page_is_for_this_machine_alone(tmp_path):
    with served(live.Pages(tmp_path, bytes)) as address:
        port = address.rstrip("/").rpartition(":")[2]
        assert asked(address, Host=f"localhost:{port}")[0] == 200
        for host in ("example.org", f"example.org:{port}", "127.0.0.1"):
            assert asked(address, Host=host)[0] == 403
        assert asked(address + "run.json")[0] == 404
        assert asked(address + "../run.json")[0] == 404


def pruned(folder, steps):
    """Prune a small network into a folder, up to a step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.randn(60, 4), torch.arange(60) % 3
    groups = sentei.find_units(network, data[0][:8])
    propose = sentei.ranked("ablation", sentei.one_at_a_time())
    resume = folder.exists()
    run = sentei.prune(
        network, groups, sentei.Probe(network, data), propose, journal=folder, resume=resume
    )
    for step in run:
        if step.number == steps:
            break
    run.close()


def test_the_page_of_a_run_that_goes_on_measures_no_times(tmp_path):
    pruned(tmp_path / "run", 2)
    text = page_of(tmp_path / "run").decode()
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["live"]
    assert (data["agreements"], data["surfaces"]) == ({}, {})
    assert not [name for name, *_ in data["sizes"] if "time" in name]
    assert "connect-src 'self'" in text
    sentei.report(tmp_path / "run", tmp_path / "end.html")
    assert "connect-src" not in (tmp_path / "end.html").read_text()


@NEEDED
def test_an_open_page_follows_the_run(tmp_path):
    folder = tmp_path / "run"
    pruned(folder, 1)
    with served(live.Pages(folder, lambda: page_of(folder))) as address, chromium() as page:
        page.open(address)
        said = "document.getElementById('live')?.textContent ?? ''"
        assert "goes on. This page shows step 1." in page.ask(said)
        pruned(folder, 3)
        end = time.monotonic() + 60
        while "shows step 3." not in page.ask(said) and time.monotonic() < end:
            time.sleep(0.2)
        assert "goes on. This page shows step 3." in page.ask(said)
        assert page.errors == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_server_ends_with_the_program_that_started_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from sentei.cli.watching import watched\n"
        "with watched(Path(sys.argv[1]), 'm'): time.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as parent:
        address = parent.stderr.readline().strip().rpartition(" ")[2]
        assert asked(address)[0] == 200
        os.kill(parent.pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while _answers(address) and time.monotonic() < end:
            time.sleep(0.1)
        assert not _answers(address)


def _answers(address):
    try:
        return asked(address)[0] == 200
    except (OSError, http.client.HTTPException):  # it ended before or within its answer
        return False


@pytest.mark.parametrize("folder", ["nowhere", "others", "file.txt"])
def test_what_is_no_run_is_not_watched(folder, tmp_path, capsys):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").touch()
    (tmp_path / "file.txt").touch()
    code, out, err = run("watch", tmp_path / folder, capsys=capsys)
    assert (code, out) == (2, "")
    assert "folder" in err


def test_prune_says_where_its_page_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    formats.save(training.build("16-6-26", seed=0), "m.safetensors")
    line = ["prune", "m.safetensors", "--data", "letter", "--samples", 100, "--units-at-most", 5]
    code, out, err = run(*line, "--journal", "run", "--watch", capsys=capsys)
    assert code == 0, err
    assert "Watch the run at http://127.0.0.1:" in err
    assert "Watch" not in out
