"""Bad command lines: each is refused with an exit code, one line, and nothing written."""

import math
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch
from cyclopts import CycloptsError
from torch import nn

from commands import run
from sentei import cli, formats, training
from sentei.cli import conflicts, failures, loading

NET = "net.safetensors"
APP = cli.build()
COMMANDS = sorted(name for name in APP if not name.startswith("-"))
# What each command needs at least; those that take a network first.
NEEDS = {
    "rank": [NET], "surface": [NET], "tidy": [NET], "compare": [NET], "explain": [NET],
    "export": [NET], "prune": [NET, "--units-at-most", 3], "fit": [NET, "--budget", "1KiB"],
    "train": ["--model", "16-4-26"], "info": [NET], "units": [NET], "figures": ["run"],
    "watch": ["run", "--until-input-ends"], "reproduce": ["wsf"], "demo": [],
}  # fmt: skip
NO_DATA = ("info", "units", "figures", "watch", "reproduce", "demo")
MEASURES = [name for name in NEEDS if name not in NO_DATA]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that commands are given: some good, most bad."""
    path = tmp_path_factory.mktemp("bad")
    network = training.build("16-4-26")
    formats.save(network, path / NET)
    whole = (path / NET).read_bytes()
    with torch.no_grad():
        network.fc2.bias[1] = math.nan
    formats.save(network, path / "nan.safetensors")
    (path / "text.safetensors").write_text("no network\n")
    (path / "empty.safetensors").touch()
    (path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    (path / "zeros.safetensors").write_bytes(bytes(5000))
    formats.save(nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3)), path / "7.safetensors")
    rng = np.random.default_rng(0)
    np.savez(path / "good.npz", inputs=rng.random((60, 16)), targets=np.arange(60) % 3)
    np.savez(path / "narrow.npz", inputs=rng.random((60, 5)), targets=np.arange(60) % 3)
    np.savez(path / "names.npz", x=np.zeros((4, 16)), y=np.zeros(4))
    np.savez(path / "nan.npz", inputs=np.full((60, 16), np.nan), targets=np.arange(60) % 3)
    (path / "cut.npz").write_bytes((path / "good.npz").read_bytes()[:500])
    (path / "empty.csv").touch()
    (path / "header.csv").write_text("a,b,label\n")
    (path / "bytes.csv").write_bytes(bytes(range(256)) * 4)
    (path / "ragged.csv").write_text("a,b,label\n1,2,x\n1,2\n" * 20)
    (path / "words.csv").write_text("a,b,label\n1,red,x\n2,blue,y\n" * 20)
    (path / "holes.csv").write_text("a,b,label\n1,,x\n2,3,y\n" * 20)
    (path / "folder").mkdir()
    (path / "run").mkdir()
    return path


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def everything(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refused(line, folder, capsys):
    """Run a bad line; assert what holds for all of them, and return its code and message."""
    before = everything(folder)
    code, out, err = run(*line, "--quiet", capsys=capsys)
    assert (out, err.count("\n"), err[:8]) == ("", 1, "sentei: "), line
    assert code in (failures.REFUSED, failures.USAGE), err
    assert len(err) > 20
    assert "does not expect" not in err, err
    assert everything(folder) == before
    return code, err


# Every option of every command.


def options(command):
    found = APP[command].assemble_argument_collection(parse_docstring=True)
    return [argument for argument in found if argument.parse]


def numbers(hint):
    """The number types in a type, of which an option is one, or a list, or neither."""
    if hint in (int, float):
        return {hint}
    return set().union(*map(numbers, typing.get_args(hint)))


NUMERIC = [
    (command, argument.name, max(numbers(argument.hint), key=lambda kind: kind is float))
    for command in COMMANDS
    for argument in options(command)
    if numbers(argument.hint)
]
OUTSIDE = {int: ("-1", "1.5", "nan", "x", "9" * 30), float: ("nan", "inf", "-1", "x", "1e999")}


def test_the_sweep_covers_all_that_takes_a_number():
    assert len(NUMERIC) > 45
    assert {command for command, *_ in NUMERIC} == set(COMMANDS) - {"info"}
    names = {name for _, name, _ in NUMERIC}
    assert names >= {
        "--threads",
        "--seed",
        "--twins",
        "--lr",
        "--accuracy-within",
        "--units",
        "--to",
    }


def parsed(command, option, value):
    """Parse a line with a value for an option, and with what the option needs."""
    line = [*map(str, NEEDS[command]), f"{option}={value}"]
    for rule in conflicts.RULES.get(command, ()):
        if isinstance(rule, conflicts.Needs) and option in rule.options:
            line += BESIDE[rule.one_of.split()[0]]
    return APP.parse_args([command, *line], exit_on_error=False, print_error=False)


BESIDE = {
    "--teacher": ["--teacher", NET],
    "--schedule": ["--schedule", "linear", "--keep", "3"],
    "--budgets": ["--budgets", "1KiB"],
    "--journal": ["--journal", "run"],
}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("command", "option", "kind"), NUMERIC)
def test_a_number_has_bounds(command, option, kind):
    """A new option without bounds fails here: give it a type of `cli/bounds.py`."""
    for value in OUTSIDE[kind]:
        with pytest.raises((CycloptsError, ValueError), match=f"{option}[. :]"):
            parsed(command, option, value)


COUNTS_FROM_1 = "threads samples epochs batch-size most steps processes jobs"


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("command", "option"),
    [(c, o) for c, o, _ in NUMERIC if o[2:] in COUNTS_FROM_1.split() or (c, o[2:]) in (
        ("compare", "seeds"), ("reproduce", "seeds"), ("surface", "points"), ("surface", "to"),
        ("train", "lr"), ("train", "temperature"),
    )],
)  # fmt: skip
def test_nothing_is_done_no_times(command, option):
    with pytest.raises(CycloptsError, match=f"{option}[. :]"):
        parsed(command, option, "0")
    assert parsed(command, option, "2")[1].arguments


TEXTS = {
    "prune": {"--keep": "nan %", "--units-at-most": "-3", "--synapses-at-most": "0",
              "--parameters-at-most": "120 %", "--bytes-at-most": "0 B"},
    "compare": {"--keep": "-1 %"},
    "fit": {"--budget": "nan", "--units-at-most": "1e3 %", "--bytes-at-most": "-5 KiB"},
}  # fmt: skip


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("command", "option"), [(c, o) for c in TEXTS for o in TEXTS[c]])
def test_amounts_and_sizes_have_bounds(command, option, folder, capsys):
    line = [command, *NEEDS[command], "--schedule", "linear"][: 10 if command == "prune" else -2]
    code, err = refused([*line, f"{option}={TEXTS[command][option]}"], folder, capsys)
    assert (code, option in err) == (2, True)


# Networks and data from files.

NETWORKS = ["nan", "text", "empty", "half", "zeros", "missing"]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    "file", [*(f"{name}.safetensors" for name in NETWORKS), "folder", "16-x-26"]
)
@pytest.mark.parametrize("command", MEASURES)
def test_a_bad_network(command, file, folder, capsys):
    words = [file if word == NET else word for word in NEEDS[command]]
    words += ["--teacher", file] if command == "train" else []
    assert file in refused([command, *words, "--data", "letter"], folder, capsys)[1]


DATA = {
    "missing.csv": "no file", "empty.csv": "empty.csv", "header.csv": "header.csv",
    "bytes.csv": "bytes.csv", "ragged.csv": "ragged.csv", "words.csv": "--text",
    "holes.csv": "--missing", "missing.npz": "no file", "cut.npz": "cut.npz",
    "names.npz": "inputs", "nan.npz": "nan.npz", "narrow.npz": "16", "folder": "folder",
    "lettre": "'letter'", "letter:half": "half", "net.safetensors": "net.safetensors",
}  # fmt: skip


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("command", MEASURES)
def test_bad_data(command, data, folder, capsys):
    _, err = refused([command, *NEEDS[command], "--data", data], folder, capsys)
    assert data in err or DATA[data] in err


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("command", [c for c in MEASURES if c != "train"])
def test_data_of_another_width(command, folder, capsys):
    words = ["7.safetensors" if word == NET else word for word in NEEDS[command]]
    refused([command, *words, "--data", "letter"], folder, capsys)


# Options that have no effect.

WITHOUT_EFFECT = {
    "train": ["--temperature 4", "--teacher-weight 0.9"],
    "prune": [
        *("--resume", "--paths both", "--keep 3", "--steps 3", "--synapses --inputs"),
        *("--synapses --repair mean", "--synapses --twins 3", "--twins 3 --criterion ablation"),
        *("--twins 3 --schedule linear --keep 3", "--twins 3 --within network"),
        *("--budget 1KiB --board nucleo-f031k6", "--budget 1KiB --schedule linear --keep 3"),
        *("--budget 1KiB --synapses", "--budget 1KiB --within group", "--budget 1KiB --twins 3"),
        *("--board arduino-uno --repair mean", "--schedule one_shot --keep 3 --steps 4"),
        *("--schedule one_at_a_time --keep 3", "--emulate", "--emulate --out a.onnx"),
        *("--out a.onnx --format c", "--out a.c --format safetensors", "--metric-at-least 0.9"),
        *("--metric-at-most 0.1", "--metric-within 0.1", "--budget 1KiB --metric a:b"),
        "--metric a:b --metric-at-least 0 --metric-lower-is-better", "--watch",
        "--watch --journal run --budget 1KiB", "--depth --synapses",
        *("--twins 3 --alike *", "--budget 1KiB --keep-of *=3", "--twins 3 --multiples-of 4"),
        "--board arduino-uno --at-least 2", "--budget 1KiB --board-latency 5ms",
        "--synapse-criterion obs",
    ],
    "fit": [
        *("--resume", "--budget 1KiB --board arduino-uno", "--emulate", "--out a.c --format onnx"),
        *("--jobs 2", "--backend dask", "--shard 1/2"),
        "--budget 1KiB --board-latency 5ms", "--budget 1KiB --synapse-criterion obs",
        "--budget 1KiB --out a.c --paths units --synapse-criterion obs",
    ],
    "units": ["--data letter --shape 16"],
    "surface": ["--points 5 --literal-grid"],
    "compare": [
        *("--paths both", "--formats c", "--retrain-epochs 1"),
        *("--budgets 1KiB --steps 9", "--budgets 1KiB --keep 3", "--budgets 1KiB --seeds 3"),
        *("--budgets 1KiB --repairs mean", "--budgets 1KiB --retrain 1", "--shard 1/2"),
    ],
    "export": ["--format c --to onnx", "--format onnx --out a.safetensors", "--to c --format onnx"],
    "reproduce": ["--quick --page a.md", "--jobs 2 --processes 2", "--images .", "--so-far"],
}  # fmt: skip
TABLES = ["--target label", "--target -1", "--missing drop", "--text one-hot"]
LINES = [
    *((command, words) for command, lines in WITHOUT_EFFECT.items() for words in lines),
    *((command, f"{words} --data {data}") for command in MEASURES for words in TABLES
      for data in ("letter", "good.npz")),
    *((command, words) for command in MEASURES for words in TABLES),
]  # fmt: skip


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("command", "words"), LINES)
def test_an_option_without_effect(command, words, folder, capsys, monkeypatch):
    monkeypatch.setattr(loading, "loaded", None)  # it is found before any work
    monkeypatch.setattr(training, "build", None)
    code, err = refused([command, *NEEDS[command], *words.split()], folder, capsys)
    assert code == 2
    named = [word for word in words.split() if word.startswith("--")]
    assert any(word in err or word[2:] in err for word in named), err


def test_all_rules_about_options_are_swept():
    for command, rules in conflicts.RULES.items():
        tried = " ".join(WITHOUT_EFFECT[command])
        for rule in rules:
            for option in rule.options.split():
                assert option in tried, (command, option)


@pytest.mark.usefixtures("there")
def test_an_option_with_effect_is_taken(folder, capsys):
    """The rules forbid no more than they say."""
    (folder / "off.toml").write_text("[prune]\nsynapses = false\nresume = false\n")
    for line in (
        ["train", "words.csv", "--target", "label", "--teacher", NET, "--temperature", "2"],
        [
            "prune",
            NET,
            "--schedule",
            "one_shot",
            "--keep",
            "3",
            "--data",
            "words.csv",
            "--text=one-hot",
        ],
        ["prune", NET, "--synapses", "--journal", "j", "--resume"],
        ["compare", NET, "--budgets", "1KiB", "--criteria", "obd", "--paths", "both"],
    ):
        APP.parse_args(line, exit_on_error=False, print_error=False)
    off = ["prune", NET, "--repair", "mean"]
    cli.build("off.toml").parse_args(off, exit_on_error=False, print_error=False)
    (folder / "off.toml").write_text("[prune]\nsynapses = true\n")
    _, err = refused([*off, "--config", "off.toml"], folder, capsys)
    assert "--synapses and --repair" in err
    (folder / "off.toml").unlink()


# Places, configurations, commands.

PLACES = ["folder", "/dev/null", "/dev/null/net", "net.safetensors/a", "x" * 300]
WRITES = [*MEASURES, "figures", "reproduce", "demo"]
OUT = {"rank": None, "figures": "--into", "reproduce": "--into"}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", [name for name in WRITES if name != "rank"])
def test_a_place_that_cannot_be_written(command, place, folder, capsys, monkeypatch):
    option = OUT.get(command, "--out")
    takes_a_folder = option == "--into" or command == "demo"
    if place in ("folder", "/dev/null") and (takes_a_folder or command in ("compare", "surface")):
        place = f"{NET}/a"
    monkeypatch.setattr(loading, "loaded", None)
    monkeypatch.setattr(training, "build", None)
    monkeypatch.setattr("sentei.papers.reproduce", None)
    code, err = refused([command, *NEEDS[command], option, place], folder, capsys)
    assert code == 2, err


CONFIGS = {
    "[prune]\nunits-at-mots = 7\n": "units-at-most",
    "[prun]\nseed = 1\n": "'prune'",
    "seed = 1\n": "under a heading",
    "[prune\n": "TOML",
    "prune = 3\n": "prune",
    "[prune]\nseed = -1\n": "[seed]",
    "[prune]\nseed = nan\n": "[seed]",
    "[prune]\nkeep = 3\n": "--schedule",
    "[prune]\nresume = true\n": "--journal",
    "[prune]\naccuracy-within = inf\n": "[accuracy-within]",
    "[prune]\nseed = [1, 2]\n": "[seed]",
    "[prune.seed]\na = 1\n": "seed",
    "\x00": "TOML",
}  # fmt: skip


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("text", CONFIGS)
def test_a_bad_configuration(text, folder, capsys):
    (folder / "run.toml").write_text(text)
    line = ["prune", NET, "--data", "letter", "--units-at-most", 3, "--config", "run.toml"]
    code, err = refused(line, folder, capsys)
    (folder / "run.toml").unlink()
    assert (code, CONFIGS[text] in err) == (2, True), err


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("file", ["none.toml", "folder", "half.safetensors"])
def test_a_configuration_that_is_no_text(file, folder, capsys):
    refused(["info", NET, "--config", file], folder, capsys)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("words", ["--config=a --config b", "--config a --config"])
def test_two_configurations(words, folder, capsys):
    code, err = refused(["info", NET, *words.split()], folder, capsys)
    assert (code, "--config" in err) == (2, True)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    "words", ["", "--bad", "x", "x x", "--json=maybe", "--quiet=7", "--threads"]
)
@pytest.mark.parametrize("command", [*COMMANDS, "prnue", "--prune"])
def test_arguments_that_no_command_has(command, words, folder, capsys, monkeypatch):
    if not words and command in ("demo", "train"):
        words = "-z"
    monkeypatch.setattr(loading, "opened", None)
    refused([command, *words.split()], folder, capsys)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(28, "No space left on device", "a.c"), 1, "a.c: No space left on device"),
        (PermissionError(13, "Permission denied", "a"), 1, "a: Permission denied"),
        (OSError("odd"), 1, "odd"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 1, "encoding"),
        (MemoryError(), 1, "--samples"),
        (RuntimeError("DefaultCPUAllocator: not enough memory:\nyou tried"), 1, "--samples"),
        (RecursionError("maximum recursion depth"), 1, "RecursionError: maximum"),
        (RuntimeError("mat1 and mat2"), 1, "RuntimeError: mat1 and mat2. Please report"),
        (KeyError("fc1"), 1, "KeyError: 'fc1'. Please report"),
        (AssertionError(), 1, "AssertionError: . Please report"),
        (ValueError("a count of 1 or more"), 2, "a count of 1 or more"),
        (ValueError(), 2, "ValueError"),
    ],
)
def test_any_error_is_one_line(error, code, says, capsys, monkeypatch):
    def loaded(*_):
        raise error

    monkeypatch.setattr(loading, "loaded", loaded)
    got, out, err = run("rank", "16-4-26", "--data", "letter", capsys=capsys)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert says in err
    monkeypatch.setenv(failures.SHOW, "1")
    assert "Traceback" in run("rank", "16-4-26", "--data", "letter", capsys=capsys)[2]


@pytest.mark.parametrize(
    "words",
    ["prnue", "prune 16-4-26 --threads 0", "train --epochs -1", "rank none.safetensors", "info ."],
)
def test_in_a_process_of_its_own(words, tmp_path):
    command = [sys.executable, "-m", "sentei", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (done.stderr[:8], done.stderr.count("\n")) == ("sentei: ", 1)
    assert not list(tmp_path.iterdir())
