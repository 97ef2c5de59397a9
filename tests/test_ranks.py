"""Groups of torch.distributed: the bits of one process, one writer, and ranks that die."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import run
from group_work import different, ranks, rows_read, run_of, scores, trained
from sentei import formats, training

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WORK = [(scores, ()), (run_of, ()), (trained, (True,)), (trained, (False,))]


def gives_the_bits_of_one(work, world, tmp_path, given):
    alone = json.loads(json.dumps(work(tmp_path, *given)))
    assert ranks(work, world, tmp_path, *given) == [alone] * world


@pytest.mark.parametrize(("work", "given"), WORK[:3])
def test_two_ranks_give_the_bits_of_one(work, given, tmp_path):
    gives_the_bits_of_one(work, 2, tmp_path, given)


def test_each_rank_reads_its_share_of_a_stream(tmp_path):
    assert rows_read(tmp_path) == 10_000
    assert ranks(rows_read, 2, tmp_path) == [5_000, 5_000]


@pytest.mark.slow
@pytest.mark.parametrize(("work", "given"), WORK)
def test_four_ranks_give_the_bits_of_one(work, given, tmp_path):
    gives_the_bits_of_one(work, 4, tmp_path, given)


def test_a_run_goes_on_after_a_rank_has_died(tmp_path):
    whole = run_of(tmp_path / "whole")
    left, died = ranks(run_of, 2, tmp_path, 2)
    assert died == "exit code 9"
    assert left.startswith("JobError: another rank of the torch.distributed group has ended")
    folder = tmp_path / "run_of2"
    assert len(list((folder / "run" / "steps").iterdir())) == 3
    assert json.dumps(run_of(folder, resume=True)) == json.dumps(whole)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("samples", "DataError: every rank.*all samples of a Probe.*rank 1 of 2"),
        ("weights", "StructureError: every rank.*the same weights, buffers.*average gradients"),
        ("cuts", "StructureError: every rank.*the same weights and the same cut"),
    ],
)
def test_ranks_that_differ_are_refused(what, said, tmp_path):
    found = ranks(different, 2, tmp_path, what)
    assert found[0] == found[1]
    assert re.match(said, found[0]), found[0]


def started(words, world, folder):
    """Run `torchrun -m sentei`, without the program's own name in the way."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*line, f"--nproc-per-node={world}", "-m", "sentei", *words],
        cwd=folder, text=True, capture_output=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_prunes_as_one_process_does_and_writes_once(tmp_path, monkeypatch, capsys):
    formats.save(training.build("16-12-26", seed=1), tmp_path / "net.safetensors")
    words = ["prune", "net.safetensors", "--data", "letter", "--samples", "9000", "--json"]
    words += ["--units-at-most", "8", "--quiet"]
    several = started([*words, "--out", "several.safetensors", "--journal", "run"], 2, tmp_path)
    assert several.returncode == 0, several.stderr
    assert json.loads(several.stdout)["after"]["units"] == 8
    monkeypatch.chdir(tmp_path)
    assert run(*words, "--out", "one.safetensors", capsys=capsys)[0] == 0
    assert len({(tmp_path / f"{n}.safetensors").read_bytes() for n in ("one", "several")}) == 1
    assert len(list((tmp_path / "run" / "steps").iterdir())) == 5


@pytest.mark.slow
def test_commands_of_one_process_are_refused_under_torchrun(tmp_path):
    done = started(["units", "4-5-3"], 2, tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("start it without torchrun") == 1
