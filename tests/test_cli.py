"""The command line: help, misspelled options, bad input, and commands from start to end."""

import logging
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from commands import run
from sentei import datasets, formats, training
from sentei.cli import deployment, screen
from sentei.formats.c.compiled import Compiled
from sentei.network.encoding.format import FORMATS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small trained network on Letter Recognition."""
    path = tmp_path_factory.mktemp("cli") / "model.safetensors"
    network = training.build("16-12-26")
    data = datasets.load("letter").train.first(2000)
    training.train(network, data, training.Recipe(epochs=3, optimizer="adam", lr=0.01))
    formats.save(network, path)
    return path


def test_help_comes_without_torch_and_names_every_command():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sentei", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 60
    for command in ("demo", "train", "prune", "rank", "surface", "info", "tidy", "compare"):
        assert command in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["prnue"], '"prune"'),
        (["prune", "MODEL", "--criterian", "ablation"], "--criterion"),
        (["prune", "MODEL", "--criterion", "ablatoin"], "'ablation'"),
        (["prune", "MODEL", "--schedule", "lineer", "--keep", "3"], "'linear'"),
        (["prune", "MODEL", "--schedule", "linear"], "--keep"),
        (["prune", "MODEL"], "where to stop"),
        (["prune", "MODEL", "--repair", "afine"], "'affine'"),
        (["prune", "MODEL", "--twins", "95"], "0 to 90 degrees"),
        (["prune", "MODEL", "--twins", "-1"], "0 to 90 degrees"),
        (["prune", "MODEL", "--repair", "affine", "--synapses"], "--synapses"),
        (["prune", "MODEL", "--twins", "15", "--budget", "4KiB"], "--budget"),
        (["prune", "MODEL", "--bytes-at-most", "32 XB"], "KiB"),
        (["prune", "MODEL", "--accuracy-within", "7"], "0.01"),
        (["train", "--model", "784-x-10"], "784-100-10"),
        (["train", "--data", "mnits"], "'mnist'"),
        (["train", "--epochs", "several"], "--epochs"),
        (["prune"], "--model"),
        (["surface", "MODEL", "--data", "letter", "--group", "hiden"], "Known: fc1"),
        (["surface", "MODEL", "--data", "letter", "--units", "3", "99"], "99"),
        (["surface", "MODEL", "--data", "letter", "--to", "inf"], "--to"),
        (["rank", "MODEL", "--data", "letter", "--loss", "entropy"], "'cross_entropy'"),
        (["rank", "MODEL", "--data", "letter", "--against", "tailor2"], "'taylor2'"),
        (["info", "no-such-file.safetensors"], "no-such-file"),
        (["train", "--config"], "TOML"),
    ],
)
def test_bad_usage_is_two_with_the_nearest_name(
    arguments, hint, model, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [model if word == "MODEL" else word for word in arguments]
    code, out, err = run(*arguments, capsys=capsys)
    assert hint in (out + err).replace("\n", " ")
    assert code == 2
    assert not list(tmp_path.iterdir())


def test_train_prune_rank_info_from_end_to_end(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("train", "--data", "letter", "--model", "16-10-26", "--epochs", 2,
                       "--out", "a.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    assert "training 2/2" in out  # plain lines where there is no terminal
    code, out, _ = run("rank", "a.safetensors", "--data", "letter", "--against", "magnitude",
                       "--samples", 500, capsys=capsys)  # fmt: skip
    assert code == 0
    assert "Spearman" in out
    code, out, _ = run("prune", "a.safetensors", "--data", "letter", "--units-at-most", "60 %",
                       "--samples", 500, "--out", "b.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    assert "same function" in out
    assert formats.load("b.safetensors")[0].out_features == 6
    code, out, _ = run("info", "b.safetensors", capsys=capsys)
    assert code == 0
    assert "284" in out  # 6 · 16 + 6 + 26 · 6 + 26 entries
    assert torch.get_num_threads() == 1


def test_work_is_handed_over_and_twins_go(model, capsys, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    shared = ["--data", "letter", "--samples", 300]
    code, _, _ = run("prune", model, *shared, "--units-at-most", 5, "--repair", "least-squares",
                       "--criterion", "obs", "--out", "a.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    assert formats.load("a.safetensors")[0].out_features == 5
    for degrees in (0, 90):
        caplog.clear()
        code, _, _ = run("prune", model, *shared, "--twins", degrees, capsys=capsys)
        assert code == 0
        assert ("alike and" in caplog.text) == (degrees == 90)
    assert len(caplog.messages) == len(set(caplog.messages))


def test_surfaces_are_drawn_for_chosen_units(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("surface", model, "--data", "letter", "--samples", 200, "--units", 3, 0,
                       "--points", 11, "--out", "drawn/s", capsys=capsys)  # fmt: skip
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("fc1")]
    assert [row[1] for row in rows] == ["3", "0"]
    for name in ("s", "s-approximated"):
        assert (tmp_path / "drawn" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (tmp_path / "drawn" / f"{name}.svg").read_bytes()[:2000]
    code, out, _ = run("surface", model, "--data", "letter", "--samples", 50, "--points", 3,
                       "--out", "all", capsys=capsys)  # fmt: skip
    assert code == 0
    assert sum(line.startswith("fc1") for line in out.splitlines()) == 10


def test_toml_options_have_the_same_names(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(
        '[prune]\ndata = "letter"\nunits-at-most = 7\nsamples = 300\nout = "c.safetensors"\n'
    )
    code, _, _ = run("prune", model, "--config", "run.toml", capsys=capsys)
    assert code == 0
    assert formats.load("c.safetensors")[0].out_features == 7
    (tmp_path / "run.toml").write_text("[prune]\nunits-at-mots = 7\n")
    code, out, err = run("prune", model, "--config=run.toml", capsys=capsys)
    assert code == 2
    assert "units-at-most" in out + err
    for text, words in (("units-at-most = 7\n", "under a heading"), ("[prun]\n", "'prune'"),
                        ("[prune\n", "not valid TOML")):  # fmt: skip
        (tmp_path / "run.toml").write_text(text)
        code, _, err = run("prune", model, "--config", "run.toml", capsys=capsys)
        assert code == 2
        assert words in err


def test_a_run_is_resumed_and_another_is_refused(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["prune", model, "--data", "letter", "--samples", 300, "--journal", "run"]
    code, _, _ = run(*shared, "--units-at-most", 9, "--out", "x.safetensors", capsys=capsys)
    assert code == 0
    code, _, err = run(*shared, "--units-at-most", 6, "--out", "x.safetensors", capsys=capsys)
    assert code == 1
    assert "--resume" in err
    code, _, _ = run(
        *shared, "--units-at-most", 6, "--resume", "--out", "x.safetensors", capsys=capsys
    )
    assert code == 0
    assert formats.load("x.safetensors")[0].out_features == 6


def test_a_budget_that_the_floor_forbids_has_an_exit_code_of_its_own(
    model, capsys, caplog, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, _ = run("prune", model, "--data", "letter", "--samples", 300, "--units-at-most", 1,
                       "--accuracy-within", 0.02, "--out", "y", capsys=capsys)  # fmt: skip
    assert code == 3
    assert "was not reached" in caplog.text
    assert (tmp_path / "y").exists()


def test_synapses_can_be_pruned_and_stay_dead(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = run("prune", model, "--data", "letter", "--synapses", "--criterion", "magnitude",
                     "--schedule", "linear", "--keep", "50 %", "--steps", 4, "--samples", 300,
                     "--retrain-epochs", 1, "--out", "z.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    mask = formats.load_mask("z.safetensors")
    alive = sum(mask.count(group) for group in mask.groups if group.kind == "synapse")
    assert alive == (16 * 12 + 12 * 26) // 2
    network = formats.load("z.safetensors")
    weights = [network[0].weight, network[2].weight]
    assert sum(int(w.count_nonzero()) for w in weights) == alive


def test_a_small_network_learns_from_a_saved_one(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["train", "letter", "--model", "16-6-26", "--epochs", 1]
    run(*shared, "--out", "alone.safetensors", capsys=capsys)
    code, _, _ = run(*shared, "--teacher", model, "--out", "taught.safetensors", capsys=capsys)
    assert code == 0
    alone, taught = (formats.load(f"{name}.safetensors")[0].weight for name in ("alone", "taught"))
    assert not torch.equal(alone, taught)
    code, _, err = run(*shared, "--teacher", model, "--temperature", 0, capsys=capsys)
    assert code == 2
    assert "above 0" in err


def test_tidy_takes_out_what_says_nothing(model, tmp_path, capsys):
    network = formats.load(model)
    with torch.no_grad():
        network.fc2.weight[:, 3] = 0
        network.fc1.weight[5], network.fc1.bias[5] = network.fc1.weight[6], network.fc1.bias[6]
    untidy, tidied = tmp_path / "untidy.safetensors", tmp_path / "tidied.safetensors"
    formats.save(network, untidy)
    code, out, _ = run("tidy", untidy, "--data", "letter", "--out", tidied, capsys=capsys)
    assert code == 0
    assert "unread" in out
    assert "repeated" in out
    small, inputs = formats.load(tidied), datasets.load("letter").test.inputs
    assert small.fc1.out_features == 10
    assert torch.allclose(small(inputs), network(inputs), atol=1e-4)


def test_compare_ranks_ways_and_draws_them(model, tmp_path, capsys):
    out = tmp_path / "compared"
    words = ["--data", "letter", "--steps", 2, "--keep", "4", "--seeds", 2, "--samples", 500]
    chosen = ["--criteria", "ablation", "--criteria", "wsf", "--criteria", "random"]
    code, printed, err = run("compare", model, *words, *chosen, "--out", out, capsys=capsys)
    assert code == 0, err
    lines = [line for line in printed.splitlines() if "±" in line]
    assert len(lines) == 4  # two criteria with and without repair; wsf has no trajectory
    assert "ablation + least" in lines[0]
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_budget_is_met_by_what_is_written_or_nothing_is(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["prune", model, "--data", "letter", "--format", "c-int8", "--paths", "both"]
    assert run(*fit, "--budget", "700 B", "--out", "small.c", capsys=capsys)[0] == 0
    (written,) = re.findall(r"FLASH_BYTES (\d+)L", Path("small.h").read_text())
    assert 0 < int(written) <= 700
    code, _, error = run(*fit, "--budget", "60 B", "--out", "never.c", capsys=capsys)
    assert (code, "221 bytes as c-int8" in error) == (3, True)
    floor = ["--accuracy-at-least", "0.01", "--loss-within", "0.0"]
    code, said, _ = run(*fit, "--budget", "300 B", *floor, "--out", "never.c", capsys=capsys)
    assert (code, "Nothing was written" in said) == (3, True)
    for bad in ("0", "-1KiB", "5 parsecs"):
        assert run(*fit, "--budget", bad, "--out", "never.c", capsys=capsys)[0] == 2
    code, _, error = run(*fit, "--board", "arduino-one", "--out", "never.c", capsys=capsys)
    assert (code, "Did you mean 'arduino-uno'" in error) == (2, True)
    assert (
        run(*fit, "--board", "arduino-uno", "--budget", "1KiB", "--out", "never.c", capsys=capsys)[
            0
        ]
        == 2
    )
    assert run(*fit, "--budget", "1KiB", "--out", "never.onnx", capsys=capsys)[0] == 2
    assert not Path("never.c").exists()
    assert not Path("never.onnx").exists()
    uno = ["prune", model, "--data", "letter", "--board", "arduino-uno", "--format", "c-int8-int8"]
    assert run(*uno, "--out", "uno.c", capsys=capsys)[0] == 0


def test_widths_are_trained_and_fitted_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["prune", "16-8-26:relu", "--data", "letter", "--samples", 300, "--paths", "both"]
    emulate = ["--emulate"] if shutil.which("qemu-system-arm") else []
    code, said, err = run(*fit, "--budget", "350 B", "--format", "c-int8", *emulate,
                          "--out", "net.c", capsys=capsys)  # fmt: skip
    assert code == 0, err
    assert "training 16-8-26:relu 10/10" in said
    assert re.search(r"both +\d+ +3[345]\d ", said)
    assert "units:50" not in said
    if emulate:
        assert "net: 4 of 4 golden vectors passed" in said
        classes, targets = re.findall(r"(?:are classes|targets are) ([\d ]+)", said)
        inputs, wanted = datasets.load("letter").test.first(10)
        here = Compiled("net.c")(inputs).argmax(1).tolist()
        assert [int(word) for word in classes.split()] == here
        assert [int(word) for word in targets.split()] == wanted.tolist()
    assert run(*fit, "--budget", "350 B", "--out", "9.c", capsys=capsys)[0] == 2
    code, _, err = run(
        "prune", "no-such.safetensors", "--data", "letter", "--units-at-most", 3, capsys=capsys
    )
    assert (code, "there is no file no-such.safetensors" in err) == (2, True)
    code, _, err = run(*fit, "--budget", "9 B", "--out", "never.c", "--emulate",
                       "--format", "onnx", capsys=capsys)  # fmt: skip
    assert (code, Path("never.c").exists()) == (2, False)


def test_weights_that_are_not_finite_are_refused_by_name(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = formats.load(model)
    with torch.no_grad():
        network.fc1.weight[0, 0] = float("inf")
    formats.save(network, "broken.safetensors")
    for words in (["prune", "--budget", "1KiB", "--out", "a.c"], ["compare", "--budgets", "1KiB"]):
        command, *rest = words
        code, _, err = run(command, "broken.safetensors", *rest, "--data", "letter", capsys=capsys)
        assert (code, "'fc1.weight'" in err) == (1, True)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_board_chooses_the_format_that_its_ram_allows(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["prune", model, "--data", "letter", "--samples", 300, "--paths", "both"]
    assert run(*fit, "--board", "arduino-uno", "--out", "a.c", capsys=capsys)[0] == 0
    assert "format c-int8." in Path("a.c").read_text()
    code, _, err = run(*fit, "--board", "arduino-uno", "--out", "a.onnx", capsys=capsys)
    assert (code, "--out net.c" in err) == (2, True)


def test_dead_synapses_of_a_file_stay_dead(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shared = ["--data", "letter", "--samples", 300]
    first = ["--synapses", "--criterion", "magnitude", "--schedule", "one_shot", "--keep", "40 %"]
    assert run("prune", model, *shared, *first, "--out", "a.safetensors", capsys=capsys)[0] == 0
    code, said, _ = run("prune", "a.safetensors", *shared, "--units-at-most", 9,
                        "--retrain-epochs", 1, "--out", "b.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    mask, network = formats.load_mask("b.safetensors"), formats.load("b.safetensors")
    alive = sum(mask.count(group) for group in mask.groups if group.kind == "synapse")
    assert sum(int(layer.weight.count_nonzero()) for layer in (network[0], network[2])) == alive
    assert alive <= 0.4 * (16 * 12 + 12 * 26)
    assert f"{round(0.4 * (16 * 12 + 12 * 26)):,}" in said  # before: the dead did not count


def test_budgets_are_compared_and_drawn(model, tmp_path, capsys):
    out = tmp_path / "curve"
    words = ["--data", "letter", "--samples", 300, "--budgets", "40B, 300B", "--formats", "c-int8"]
    code, said, err = run("compare", model, *words, "--out", out, capsys=capsys)
    assert code == 0, err
    assert len(re.findall(r"^ +300 +(?:units|synapses|both) ", said, re.MULTILINE)) == 3
    assert said.count("not met") == 3
    assert out.with_suffix(".svg").stat().st_size > 10_000
    for bad in ("0", "4 parsecs", "-1KiB", ""):
        assert run("compare", model, "--budgets", bad, "--data", "letter", capsys=capsys)[0] == 2


def test_export_writes_every_format(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for ending in ("c", "onnx", "safetensors"):
        out = ["--out", f"net.{ending}"]
        assert run("export", model, "--data", "letter", *out, capsys=capsys)[0] == 0
        assert Path(f"net.{ending}").stat().st_size > 0
    assert "int8_t" not in Path("net.c").read_text().split("#ifdef NET_SELF_TEST")[0]
    assert (
        run("export", model, "--data", "letter", "--to", "c", "--out", "9.c", capsys=capsys)[0] == 2
    )


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ([], "one.c"),
        (["--format", "onnx"], "one.onnx"),
        (["--to", "onnx"], "one.onnx"),
        (["--to", "onnx", "--out", "a.onnx"], "a.onnx"),
        (["--format", "c-int8", "--out", "a.c"], "a.c"),
        (["--to", "c", "--format", "c-int8", "--out", "a.c"], "a.c"),
        (["--to", "c-int8", "--format", "c-int8", "--out", "a.c"], "a.c"),
        (["--to", "safetensors"], "one.safetensors"),
    ],
)
def test_export_writes_the_format_that_is_asked_for(asked, written, tmp_path, monkeypatch, capsys):
    """The command writes nothing here: what it hands on is compared."""
    monkeypatch.chdir(tmp_path)
    formats.save(training.build("16-4-26"), "one.safetensors")
    handed = []
    monkeypatch.setattr(deployment, "ship", lambda *given: handed.append(given))
    code, _, err = run("export", "one.safetensors", "--data", "letter", *asked, capsys=capsys)
    assert code == 0, err
    ((_, out, _, format, *_),) = handed
    assert str(out) == written
    assert format == ("c-int8" if written == "a.c" else out.suffix[1:])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--format", "c-int9"], "Did you mean 'c-int8'"),
        (["--to", "onx"], "Did you mean 'onnx'"),
        (["--to", "onnx", "--format", "c"], "Leave out --to"),
        (["--to", "c-int8", "--format", "c"], "Leave out --to"),
        (["--to", "onyx", "--format", "onnx"], "Did you mean 'onnx'"),
        (["--to", "c", "--out", "a.onnx"], "Name it a.c, or choose the format 'onnx'"),
        (["--format", "onnx", "--out", "a.pt"], "unknown ending '.pt'"),
    ],
)
def test_export_refuses_formats_that_contradict(asked, says, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", model, "--data", "letter", *asked, capsys=capsys)
    assert (code, says in " ".join(err.split())) == (2, True), err
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_export_lists_every_format(capsys):
    code, said, _ = run("export", "--help", capsys=capsys)
    assert code == 0
    assert set(FORMATS) <= set(re.findall(r"[\w-]+", said))
    assert "--to" not in said


def test_what_loggers_say_is_shown_once_and_they_are_left_as_they_were(caplog):
    logger = logging.getLogger("sentei")
    with screen.logged_once("sentei", logging.INFO):
        for _ in range(2):
            logger.info("a fold is inexact")
    logger.info("not shown")
    assert caplog.messages == ["a fold is inexact"]
    assert logger.level == logging.NOTSET
    assert not logger.filters
