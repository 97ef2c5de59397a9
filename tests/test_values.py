"""Networks that predict values or labels, from commands to pages: no accuracy is said of values."""

from __future__ import annotations

import json
import math
import random
import re

import numpy
import pytest
import torch
from torch import nn

import sentei
from commands import run
from sentei import datasets, training
from sentei.card import Card, card_of, set_card_
from sentei.experiments import comparing
from sentei.experiments.budgets import accuracy_at_budgets
from sentei.formats.c.compiled import compiler
from sentei.metrics import MEAN_ABSOLUTE_ERROR, R2
from sentei.pruning.measuring import Measurement
from sentei.pruning.run_reader import read_run
from sentei.pruning.searching import search
from sentei.reporting.gallery import gallery
from sentei.reporting.page import explain, of_journal
from sentei.reporting.page.document import document

ROWS = 200


def table(path, seed=0):
    draw = random.Random(seed)
    lines = ["a,b,c,y"]
    for _ in range(ROWS):
        a, b, c = (draw.gauss(0, 1) for _ in range(3))
        lines.append(f"{a:.6f},{b:.6f},{c:.6f},{math.sin(a) + 0.5 * b * c:.6f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a table of values, and a network that was trained on it."""
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "t.csv")
    network = training.build("3-8-1:tanh", seed=1)
    split = datasets.load("t.csv", regression=True)
    recipe = training.Recipe(15, lr=0.02, batch_size=20, loss="half_squared_error")
    training.train(network, split.train, recipe)
    set_card_(network, Card(loss="half_squared_error", predicts="values"))
    sentei.save(network, "m.safetensors")
    return tmp_path


def test_training_writes_what_the_network_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "t.csv")
    shape = ("--model", "3-4-1", "--epochs", 2)
    code, out, _ = run("train", "--data", "t.csv", *shape, "--regression", "--out", "a.safetensors",
                       capsys=capsys)  # fmt: skip
    assert code == 0
    assert re.search(r"On 30 validation samples: R² \S+, mean absolute error \S+, loss \S+\.", out)
    assert "accuracy" not in out
    network = sentei.load("a.safetensors")
    assert card_of(network).loss == "half_squared_error"
    assert card_of(network).predicts == "values"
    split = datasets.load("t.csv", regression=True, standardise=False)
    found = training.evaluate(network, split.validation)
    assert f"loss {found.loss:.4f}" in out
    _, out, _ = run("info", "a.safetensors", capsys=capsys)
    assert re.search(r"predicts +values\s+loss +half_squared_error", out)

    run("train", "--data", "t.csv", *shape, "--regression", "--loss", "absolute_error",
        "--out", "b.safetensors", capsys=capsys)  # fmt: skip
    assert card_of(sentei.load("b.safetensors")).loss == "absolute_error"
    run("train", "--data", "letter", "--model", "16-4-26", "--epochs", 1, "--out", "c.safetensors",
        capsys=capsys)  # fmt: skip
    assert card_of(sentei.load("c.safetensors")).loss == "cross_entropy"
    assert card_of(sentei.load("c.safetensors")).predicts == "classes"
    code, _, err = run("train", "--data", "letter", "--regression", capsys=capsys)
    assert code == 2
    assert "letter has classes" in err
    code, _, err = run("train", "--data", "t.csv", *shape, capsys=capsys)
    assert code == 2
    assert "--regression" in err


def test_values_that_are_not_said_to_be_values_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = numpy.random.default_rng(0)
    numpy.savez("d.npz", x=rng.random((60, 3), "f"), y=rng.random((60, 1), "f"))
    code, _, err = run("train", "--data", "d.npz", "--model", "3-4-1", capsys=capsys)
    assert code == 2
    assert 'loss="half_squared_error"' in err
    assert "--loss" in err
    code, out, _ = run("train", "--data", "d.npz", "--model", "3-4-1", "--loss", "absolute_error",
                       "--epochs", 1, capsys=capsys)  # fmt: skip
    assert code == 0
    assert "R²" in out


def test_the_file_says_it_to_every_later_command(place, capsys):
    """Neither --loss nor --regression is repeated, and nowhere does an accuracy stand."""
    data = ("--data", "t.csv")
    commands = [
        ("prune", "m.safetensors", *data, "--units-at-most", 6, "--out", "s.safetensors",
         "--journal", "run", "--report", "r.html", "--retrain-epochs", 1),
        ("rank", "s.safetensors", *data, "--against", "taylor2"),
        ("explain", "s.safetensors", *data, "--out", "e.html"),
        ("export", "s.safetensors", *data, "--out", "e.c"),
        ("surface", "s.safetensors", *data, "--points", 3),
        ("tidy", "s.safetensors", *data, "--out", "t.safetensors"),
        ("fit", "m.safetensors", *data, "--budget", "150B", "--paths", "units", "--out", "f.c"),
        ("compare", "m.safetensors", *data, "--criteria", "ablation", "--repairs", "none",
         "--seeds", 1, "--steps", 2, "--keep", 4),
        ("figures", "run", "--into", "figures"),
    ]  # fmt: skip
    said = {}
    for command in commands:
        code, out, err = run(*command, capsys=capsys)
        assert code == 0, err
        assert "accuracy" not in (out + err).lower()
        assert "0.0 %" not in out
        assert "0.00%" not in out
        said[command[0]] = out
    split = datasets.load("t.csv", regression=True)
    small = sentei.load("s.safetensors")
    found = training.evaluate(small, split.test, loss="half_squared_error")
    assert f"{found.metrics[R2]:.4g}" in said["prune"]
    assert f"{found.loss:.4f}" in said["prune"]
    assert card_of(small) == card_of(sentei.load("m.safetensors"))
    assert card_of(sentei.load("t.safetensors")) == card_of(small)
    if compiler() is not None:
        words = re.search(r"The emitted code, on 30 test samples: R² (\S+),", said["export"])
        assert float(words[1]) == pytest.approx(found.metrics[R2], abs=1e-3)
    assert re.search(r"units +\d+ +\d+ +\d+ +R² 0?\.\d+", said["fit"])
    assert "R² on validation samples" in said["compare"]
    assert "%" not in said["compare"].partition("samples, ")[2]
    assert (place / "figures" / "tradeoff.svg").exists()


def test_a_loss_on_the_command_line_goes_before_that_of_the_file(place, capsys):
    split = datasets.load("t.csv", regression=True)
    network = sentei.load("m.safetensors")
    (group,) = sentei.find_units(network, split.train.inputs[:64])
    for loss in (None, "absolute_error"):
        probe = sentei.Probe(network, split.train, loss or "half_squared_error")
        lowest = sentei.criteria.ablation(probe, group).min().item()
        named = () if loss is None else ("--loss", loss)
        _, out, _ = run("rank", "m.safetensors", "--data", "t.csv", *named, capsys=capsys)
        assert f"{lowest:.5g}"[:6] in out
    run("prune", "m.safetensors", "--data", "t.csv", "--units-at-most", 7, "--loss",
        "absolute_error", capsys=capsys)  # fmt: skip
    assert card_of(sentei.load("small.safetensors")).loss == "absolute_error"
    code, _, err = run("rank", "m.safetensors", "--data", "t.csv", "--loss", "cross_entropy",
                       capsys=capsys)  # fmt: skip
    assert code == 2
    assert "the loss of this network, cross_entropy, needs" in err


def test_a_file_that_says_nothing_takes_both_options(place, capsys):
    network = sentei.load("m.safetensors")
    set_card_(network, Card())
    sentei.save(network, "bare.safetensors")
    code, out, _ = run("rank", "bare.safetensors", "--data", "t.csv", "--regression", capsys=capsys)
    assert code == 0
    assert out == run("rank", "m.safetensors", "--data", "t.csv", capsys=capsys)[1]
    code, _, err = run("prune", "bare.safetensors", "--data", "t.csv", "--regression",
                       "--units-at-most", 7, capsys=capsys)  # fmt: skip
    assert code == 0, err
    assert card_of(sentei.load("small.safetensors")) == card_of(sentei.load("m.safetensors"))


def test_a_network_that_is_named_by_widths_is_trained_on_values(place, capsys):
    code, out, err = run("prune", "3-6-1", "--data", "t.csv", "--regression", "--units-at-most", 4,
                         capsys=capsys)  # fmt: skip
    assert code == 0, err
    assert "accuracy" not in out
    assert card_of(sentei.load("small.safetensors")).predicts == "values"


def test_labels_have_an_accuracy_but_no_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = numpy.random.default_rng(0).standard_normal((ROWS, 4)).astype("f")
    numpy.savez("d.npz", x=x, y=(x[:, :3] > 0).astype("f"))
    shape = ("--model", "4-8-3:tanh", "--epochs", 30, "--lr", "0.02")
    code, out, _ = run("train", "--data", "d.npz", *shape, "--loss", "binary_cross_entropy",
                       capsys=capsys)  # fmt: skip
    assert code == 0
    assert float(re.search(r"accuracy (\S+)%", out)[1]) > 80
    code, out, err = run("prune", "model.safetensors", "--data", "d.npz", "--accuracy-within",
                         "0.1", "--out", "s.c", "--journal", "run", capsys=capsys)  # fmt: skip
    assert code == 0, err
    split = datasets.load("d.npz", standardise=False)
    network = sentei.load("model.safetensors")
    right = ((network(split.test.inputs) > 0) == (split.test.targets > 0.5)).double().mean().item()
    assert f"{right:.2%}" in out
    if compiler() is not None:
        assert "Accuracy of the emitted code" in out
    whole = document(of_journal("run"))
    assert whole["classes"] == []
    assert whole["byClass"] is None
    code, _, err = run("fit", "model.safetensors", "--data", "d.npz", "--budget", "200B", "--out",
                       "f.c", "--paths", "units", capsys=capsys)  # fmt: skip
    assert code == 0, err


# In Python.


def regression():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(90, 4)
    y = torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)
    recipe = training.Recipe(20, lr=0.02, batch_size=15, loss="half_squared_error")
    training.train(network, (x, y), recipe)
    set_card_(network, Card(loss="half_squared_error"))
    return network, x, y


def test_a_journal_keeps_the_metrics_and_a_page_and_figures_show_them(tmp_path):
    network, x, y = regression()
    probe = sentei.Probe(network, (x, y))
    groups = sentei.find_units(network, x)
    propose = sentei.ranked("ablation", sentei.one_at_a_time())
    run_ = sentei.prune(
        network, groups, probe, propose, sentei.units_at_most(5), journal=tmp_path / "run"
    )
    measured = [step.measured for step in run_]
    records = read_run(tmp_path / "run").records
    assert [record.measured for record in records] == measured
    assert [record.measured.metrics for record in records] == [each.metrics for each in measured]
    assert len({hash(each) for each in measured}) == len(measured)
    story = of_journal(tmp_path / "run")
    whole = document(story)
    r2 = [each.metrics[R2] for each in measured]
    assert whole["steps"]["metrics"] == [
        ["R²", r2],
        ["mean absolute error", [each.metrics[MEAN_ABSOLUTE_ERROR] for each in measured]],
    ]
    assert whole["steps"]["accuracy"] == [None] * 4
    assert f"R² went from {r2[0]:.4f} to {r2[-1]:.4f}." in whole["lead"][0]
    assert whole["agreements"]
    (line, *_) = gallery(story)["tradeoff"].axes[0].get_lines()
    assert list(line.get_ydata()) == r2


def test_numbers_of_a_measurement_are_read_again():
    class_numbers = {"accuracy": 0.5, "loss": 1.0, "units": 1, "synapses": 2, "parameters": 3}
    without = Measurement.read({**class_numbers, "bytes": 4})
    assert without.metrics == {}
    assert "metrics" not in without.numbers()
    numbers = {**class_numbers, "accuracy": None, "bytes": 4, "metrics": {"r2": 0.25}}
    measured = Measurement.read(numbers)
    assert measured.numbers() == numbers
    assert measured != without
    assert str(measured).startswith("R² 0.25, loss 1.0000, 1 units")
    for wrong in ({"r2": "much"}, {"r2": None}, [1], "r2", {"r2": True}):
        with pytest.raises(TypeError, match="no measurements"):
            Measurement.read({**numbers, "metrics": wrong})


def test_a_page_about_one_network_says_r2(tmp_path):
    network, x, y = regression()
    path = explain(network, tmp_path / "p.html", (x, y))
    data = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])
    assert data["steps"]["metrics"][0][0] == "R²"
    assert re.search(r"synapses, R² 0\.\d+, mean absolute error 0\.\d+\.", data["lead"][0])
    assert ["loss", "half_squared_error"] in data["run"]


def test_a_search_among_regressions_is_decided_by_the_loss():
    network, x, y = regression()
    found = search(network, (x, y), sentei.MemoryBudget("c", "300B"), paths=["units", "synapses"])
    assert [each.accuracy for each in found] == [None, None]
    losses = [each.step.measured.loss for each in found]
    assert losses == sorted(losses)


def test_ways_are_compared_by_r2():
    network, x, y = regression()
    set_card_(network, Card())
    samples = datasets.Samples(x, y)
    todo = comparing.ways(["ablation"], [None], [0])
    with pytest.raises(sentei.LossError, match="half_squared_error"):
        comparing.compare(network, samples, samples, todo, keep="4", steps=2, seeds=1)
    (curve,) = comparing.compare(
        network, samples, samples, todo, keep="4", steps=2, seeds=1, loss="half_squared_error"
    )
    assert curve.metric == R2
    start = training.evaluate(network, samples, loss="half_squared_error").metrics[R2]
    assert curve.accuracy[0] == pytest.approx(start)
    same = datasets.Samples(x, torch.ones(90, 2))
    with pytest.raises(sentei.DataError, match="have neither"):
        comparing.compare(
            network, samples, same, todo, keep="4", steps=2, seeds=1, loss="half_squared_error"
        )


def test_accuracy_at_sizes_needs_classes():
    network, x, y = regression()
    part = datasets.Samples(x, y)
    split = datasets.Split("values", part, part, part, (), ())
    with pytest.raises(sentei.DataError, match="not classes"):
        accuracy_at_budgets(network, split, ["200B"], paths=["units"], formats=["c"])
    set_card_(network, Card(loss="binary_cross_entropy"))
    part = datasets.Samples(x, (y > 0).float())
    split = datasets.Split("labels", part, part, part, (), ())
    with pytest.raises(sentei.DataError, match="not classes"):
        accuracy_at_budgets(network, split, ["200B"], paths=["units"], formats=["c"])
