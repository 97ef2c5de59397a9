"""What commands print: results on stdout, all else on stderr; with --json one object."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import run
from sentei import cli, datasets, formats, training
from sentei.cli import failures, screen

KEPT = {"units", "synapses", "parameters", "bytes", "accuracy", "loss"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small trained network, and a run folder of it."""
    path = tmp_path_factory.mktemp("streams")
    network = training.build("16-6-26")
    data = datasets.load("letter").train.first(2000)
    training.train(network, data, training.Recipe(epochs=3, lr=0.01))
    formats.save(network, path / NET)
    return path


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


NET = "net.safetensors"
LETTER = ["--data", "letter", "--samples", 200]
PRUNE = ["prune", NET, *LETTER, "--units-at-most", 4]
COMPARE = ["compare", NET, *LETTER]
# For each command: a small command line, and keys of its object.
COMMANDS = {
    "train": (
        ["train", "letter", "--model", "16-4-26", "--epochs", 1],
        "out samples accuracy loss",
    ),
    "prune": (
        [*PRUNE, "--journal", "run"],
        "before after out reached certificate page journal",
    ),
    "fit": (["fit", NET, *LETTER, "--budget", "1200 B"], "before after out reached paths"),
    "rank": (["rank", NET, *LETTER, "--against", "obd"], "criterion scores spearman"),
    "surface": (["surface", NET, *LETTER, "--points", 3], "group units gains losses figures"),
    "compare": (
        [*COMPARE, "--criteria", "obd", "--repairs", "none", "--steps", 1, "--seeds", 1],
        "ways figures",
    ),
    "compare budgets": (
        [*COMPARE, "--budgets", "300B", "--paths", "units", "--formats", "c-int8"],
        "budgets figures",
    ),
    "explain": (["explain", NET, "--data", "letter"], "out"),
    "info": (["info", NET], "bytes tensors dead card"),
    "units": (["units", NET], "parameters removable share groups not_offered estimates"),
    "export": (["export", NET, "--data", "letter", "--format", "onnx"], "out format bytes"),
    "export c": (["export", NET, "--data", "letter"], "out format bytes ram accuracy"),
    "tidy": (["tidy", NET, *LETTER], "finds norms difference samples out"),
    "figures": (["figures", "run"], "figures"),
    "watch": (["watch", "run", "--until-input-ends"], "address"),
}


def test_every_command_is_here_but_the_long_ones():
    names = {name for name in cli.build() if not name.startswith("-")}
    assert names == {line[0] for line, _ in COMMANDS.values()} | {"demo", "reproduce"}


def test_the_help_and_the_guide_list_the_exit_codes(capsys):
    _, out, _ = run("--help", capsys=capsys)
    guide = (Path(__file__).parent.parent / "docs/guides/command-line.md").read_text()
    for code in (0, failures.REFUSED, failures.USAGE, failures.UNREACHED, 130, 143):
        assert re.search(rf"\b{code}\b", out.partition("Exit codes")[2])
        assert f"| {code} | " in guide


def test_the_guide_lists_what_json_gives():
    guide = (Path(__file__).parent.parent / "docs/guides/command-line.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", guide, re.MULTILINE))
    assert set(rows) == {name for name in cli.build() if not name.startswith("-")}
    for line, keys in COMMANDS.values():
        listed = set(re.findall(r"`([a-z_]+)`", rows[line[0]] + rows["prune"] * (line[0] == "fit")))
        assert set(keys.split()) <= listed, line[0]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", COMMANDS)
def test_with_json_a_command_prints_one_object(name, capsys):
    if name == "figures":
        run(*PRUNE, "--journal", "run", "--resume", capsys=capsys)
    line, keys = COMMANDS[name]
    code, out, err = run(*line, "--json", "--quiet", capsys=capsys)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    found = json.loads(out)
    assert set(keys.split()) <= set(found)
    code, shown, err = run(*line, *["--resume"] * ("--journal" in line), capsys=capsys)
    assert code == 0, err
    assert not shown.startswith("{")
    assert shown.strip()


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("line", [PRUNE, ["fit", *PRUNE[1:], "--budget", "1200 B"]])
def test_numbers_of_a_pruned_network_are_those_of_its_file(line, capsys):
    code, out, _ = run(*line, "--out", "small.safetensors", "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert set(found["before"]) == set(found["after"]) >= KEPT
    assert (found["out"], found["reached"]) == ("small.safetensors", True)
    assert (found["before"]["units"], found["before"]["synapses"]) == (6, 6 * 42)
    small, test = formats.load("small.safetensors"), datasets.load("letter").test
    accuracy, loss = training.evaluate(small, test)
    after, units = found["after"], small[0].out_features
    assert units <= 4
    assert (after["units"], after["synapses"], after["parameters"]) == (
        *(units, units * 42),
        units * 42 + units + 26,
    )
    assert after["bytes"] == os.stat("small.safetensors").st_size
    assert (after["accuracy"], after["loss"]) == (accuracy, loss)


@pytest.mark.usefixtures("there")
def test_accuracy_is_null_where_targets_are_values(capsys, tmp_path):
    x = torch.rand(200, 4)
    np.savez(tmp_path / "d.npz", inputs=x.numpy(), targets=x[:, :2].numpy())
    data = ["--data", tmp_path / "d.npz"]
    words = ["train", "--model", "4-5-2", *data, "--loss", "half_squared_error", "--epochs", 1]
    code, out, err = run(*words, "--out", tmp_path / "v.safetensors", "--json", capsys=capsys)
    assert code == 0, err
    assert json.loads(out)["accuracy"] is None


@pytest.mark.usefixtures("there")
def test_a_budget_that_is_not_reached_is_said_with_code_3(capsys):
    floor = ["--accuracy-within", 0.0, "--loss-within", 0.0, "--units-at-most", 1]
    code, out, _ = run("prune", *PRUNE[1:-2], *floor, "--json", capsys=capsys)
    found = json.loads(out)
    assert (code, found["reached"], found["out"]) == (3, False, "small.safetensors")
    assert found["after"]["units"] > 1
    fit = ["fit", NET, *LETTER, "--accuracy-at-least", 0.01, "--loss-within", 0.0]
    code, out, _ = run(
        *fit, "--budget", "900 B", "--out", "no.safetensors", "--json", capsys=capsys
    )
    found = json.loads(out)
    assert code == 3
    assert (found["reached"], found["out"], found["after"]) == (False, None, None)
    assert [path["path"] for path in found["paths"]] == ["units"]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (["prune", NET, "--criterian", "x"], 2, "--criterion"),
        (["prune", NET, "--data", "letter"], 2, "where to stop"),
        (["figures", "."], 1, "run.json"),
        (["fit", NET, *LETTER, "--budget", "9 B"], 3, "bytes"),
    ],
)
def test_with_json_an_error_is_an_object_too(line, code, says, capsys):
    got, out, err = run(*line, "--json", capsys=capsys)
    assert got == code
    assert says in json.loads(out)["error"]
    assert err == f"sentei: {json.loads(out)['error']}\n"


@pytest.mark.usefixtures("there")
def test_json_and_quiet_can_stand_in_a_file(folder, capsys):
    (folder / "run.toml").write_text("[info]\njson = true\n[train]\nquiet = true\n")
    config = ["--config", "run.toml"]
    _, out, _ = run("info", NET, *config, capsys=capsys)
    assert json.loads(out)["bytes"] == os.stat(NET).st_size
    _, out, err = run(*COMMANDS["train"][0], *config, capsys=capsys)
    assert err == ""
    assert "Saved model.safetensors" in out
    _, out, err = run(*COMMANDS["train"][0], capsys=capsys)  # what was asked for once is over
    assert "training 1/1" in err
    assert "training" not in out


@pytest.mark.usefixtures("there")
def test_warnings_are_on_stderr_and_not_with_quiet(capsys):
    stuck = [*PRUNE[:-1], 1, "--loss-within", 0.0]
    code, out, err = run(*stuck, capsys=capsys)
    assert code == 3
    assert "was not reached" in err
    assert "was not reached" not in out
    assert run(*stuck, "--quiet", capsys=capsys)[2] == ""


def test_what_json_does_not_have_is_null():
    found = {"a": math.nan, "b": [math.inf, 1.5, (2, True, None)], "c": screen.Result({}, (), 3)}
    assert screen.plain(found) == {
        "a": None,
        "b": [None, 1.5, [2, True, None]],
        "c": {"data": {}, "shown": [], "code": 3},
    }


def test_a_progress_bar_is_on_the_terminal_of_stderr(capsys, monkeypatch):
    for stderr, kind in ((True, "notes"), (False, "console")):
        made = screen.Screen(stderr=stderr, force_terminal=True, width=90)
        monkeypatch.setattr(screen, kind, made)
    with screen.progress("pruning", 2) as advance:
        advance(2, "done")
    out, err = capsys.readouterr()
    assert out == ""
    assert "pruning" in err
    assert "100%" in err


@pytest.mark.parametrize("redirected", ["2>&1 | true", "2>/dev/full", ">/dev/full"])
def test_a_network_is_written_whatever_becomes_of_the_output(redirected, folder, tmp_path):
    out = tmp_path / NET
    words = f"-m sentei train letter --model 16-4-26 --epochs 1 --out {out} {redirected}"
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {words}"], capture_output=True, text=True, check=False
    )
    assert formats.load(out).fc1.out_features == 4
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if redirected == ">/dev/full" else 0)
    if redirected == ">/dev/full":
        assert "No space left" in done.stderr


@pytest.mark.parametrize("words", ["--help", "train --help", "--version"])
def test_help_may_be_cut_short(words):
    """A reader such as `head` closes the pipe: that is no error."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m sentei {words} | true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ascii_terminal_shows_everything(folder):
    words = [sys.executable, "-m", "sentei", *map(str, PRUNE), "--out", "ascii.safetensors"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=folder, env=ascii_only, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"latency" in done.stdout
