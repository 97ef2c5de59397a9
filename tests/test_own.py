"""The command line on models, weights, data and losses of the user's own."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from commands import run
from sentei import datasets, formats, rows, training
from sentei.cli import failures, references
from sentei.errors import DataError

EXAMPLE = Path(__file__).parent.parent / "examples" / "own"

OWN = """
import functools
import torch
from torch import nn
from torch.nn import functional as F
from beside import WIDTH
from sentei.datasets import Samples, Split

class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.first, self.second = nn.Linear(6, width), nn.Linear(width, 3)
    def forward(self, x):
        return self.second(self.first(x).tanh())

class Odd(Net):
    def forward(self, x):
        raise ValueError("own words")

def net():
    torch.manual_seed(0)
    return Net()

made = net()
eight = functools.partial(Net, width=8)
number = 3

def needs(width):
    return Net(width)

def fails():
    return 1 / 0

def rows(n):
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, 6, generator=g)
    return x, x[:, :3].argmax(1)

def parts():
    return rows(120), rows(60), rows(60)

def arrays():
    return [(x.numpy(), y.numpy()) for x, y in parts()]

def named():
    train, validation, test = parts()
    return {"train": train, "validation": validation, "test": test}

def batches():
    return tuple([(x[:30], y[:30]), (x[30:], y[30:])] for x, y in parts())

def split():
    features = tuple(f"f{i}" for i in range(6))
    return Split("mine", *(Samples(*part) for part in parts()), features, ("a", "b", "c"))

as_it_is = parts()

def values():
    return tuple((x, x[:, :3]) for x, _ in parts())

def two():
    return parts()[:2]

def other_shapes():
    train, validation, (x, y) = parts()
    return train, validation, (x[:, :5], y)

def two_inputs():
    return tuple(((x, x), y) for x, y in parts())

def two_targets():
    return tuple((x, {"a": y, "b": y}) for x, y in parts())

def no_rows():
    return tuple((x[:0], y[:0]) for x, y in parts())

def margin(outputs, targets):
    return F.multi_margin_loss(outputs, targets, reduction="none")

def squares(outputs, targets):
    return (outputs - targets).square().mean(1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    (path / "own.py").write_text(OWN)
    (path / "beside.py").write_text("WIDTH = 8\n")
    (path / "broken.py").write_text("import torch\n\nwidth = nothing + 1\n")
    (path / "syntax.py").write_text("def net(:\n")
    (path / "package").mkdir()
    (path / "package" / "__init__.py").touch()
    (path / "package" / "inner.py").write_text("from torch import nn\nnet = nn.Linear(6, 3)\n")
    torch.manual_seed(1)
    state = nn.ModuleDict({"first": nn.Linear(6, 8), "second": nn.Linear(8, 3)}).state_dict()
    torch.save(state, path / "state.pt")
    torch.save({"epoch": 3, "state_dict": state}, path / "checkpoint.pt")
    torch.save({f"module.{name}": t for name, t in state.items()}, path / "parallel.pt")
    save_file(state, path / "plain.safetensors")
    torch.save({**state, "extra": torch.zeros(1)}, path / "more.pt")
    torch.save({"first.weight": state["first.weight"]}, path / "less.pt")
    torch.save({**state, "first.bias": torch.zeros(9)}, path / "shape.pt")
    torch.save({**state, "first.bias": torch.full((8,), torch.nan)}, path / "nan.pt")
    torch.save([1, 2], path / "list.pt")
    steps = {"state": {0: {"exp_avg": torch.zeros(8, 6)}}, "param_groups": [{"lr": 0.1}]}
    ema = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"ema": ema, "optimizer": steps}, path / "one.pt")
    torch.save({"net": state, "ema": {"shadow": ema}, "optimizer": steps}, path / "two.pt")
    torch.save({"model": state, "ema": ema, "optimizer": steps}, path / "usual.pt")
    torch.save({"optimizer": steps}, path / "optimizer.pt")
    torch.save(nn.Linear(6, 3), path / "whole.pt")
    (path / "text.pt").write_text("weights\n")
    return path


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def found(*line, capsys):
    """Run a command; return its result."""
    code, out, err = run(*line, "--json", "--quiet", capsys=capsys)
    assert code == 0, err + out
    return json.loads(out)


def scores_of(network, part=0):
    """Exact ablation by whole passes."""
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(120))
    loss = nn.functional.cross_entropy
    y, rises = x[:, :3].argmax(1), []
    with torch.no_grad():
        for unit in range(network.first.out_features):
            kept = network.second.weight[:, unit].clone()
            network.second.weight[:, unit] = 0
            rises.append(float(loss(network(x), y)))
            network.second.weight[:, unit] = kept
        return [rise - float(loss(network(x), y)) for rise in rises]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).tanh())


MODELS = ["own.py:Net", "own.py:eight", "own.py:net", "own.py:made", "own:net", "./own.py:net"]


@pytest.mark.parametrize("model", MODELS)
def test_every_way_to_name_a_network(model, there, capsys):
    listed = found("units", model, capsys=capsys)
    assert [(group["name"], group["units"]) for group in listed["groups"]] == [("first", 8)]


def test_a_module_of_a_package(there, capsys):
    assert found("units", "package.inner:net", capsys=capsys)["groups"] == []


WEIGHTS = ["state.pt", "checkpoint.pt", "parallel.pt", "plain.safetensors"]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("data", ["own.py:parts", "own:batches"])
def test_every_file_of_weights(weights, data, there, capsys):
    network = Net()
    network.load_state_dict(torch.load("state.pt", weights_only=True))
    line = ("rank", "own.py:Net", "--weights", weights, "--data", data)
    scores = found(*line, capsys=capsys)["scores"]["first"]
    assert scores == pytest.approx(scores_of(network), abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "shift"),
    [
        ("one.pt", 1),
        ("two.pt:net", 0),
        ("two.pt:ema.shadow", 1),
        ("usual.pt", 0),
        ("usual.pt:ema", 1),
    ],
)
def test_a_checkpoint_with_several_state_dicts(weights, shift, there, capsys):
    network = Net()
    state = torch.load("state.pt", weights_only=True)
    network.load_state_dict({name: tensor + shift for name, tensor in state.items()})
    line = ("rank", "own.py:Net", "--weights", weights, "--data", "own.py:parts")
    code, out, err = run(*line, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["scores"]["first"] == pytest.approx(scores_of(network), abs=1e-5)
    assert ("--weights usual.pt:ema" in err) == (weights == "usual.pt")  # what is not taken is said
    line = ("prune", *line[1:], "--units-at-most", 6, "--out", "w.safetensors")
    done = found(*line, capsys=capsys)
    assert done["before"]["bytes"] == Path(weights.partition(":")[0]).stat().st_size


DATA = ["parts", "arrays", "named", "batches", "split", "as_it_is"]


@pytest.mark.parametrize("name", DATA)
def test_every_form_of_data(name, there, capsys):
    line = ("rank", "own.py:net", "--data")
    same = found(*line, f"own.py:{name}", capsys=capsys)
    assert same["scores"] == found(*line, "own.py:parts", capsys=capsys)["scores"]


def test_from_training_to_a_network_that_is_pruned_twice(there, capsys):
    data = ("--data", "own.py:split")
    line = ("train", "--model", "own.py:Net", *data, "--epochs", 3, "--out", "trained.safetensors")
    before = found(*line, capsys=capsys)
    own = ("own.py:Net", "--weights", "trained.safetensors", *data)
    line = ("prune", *own, "--units-at-most", 5, "--out", "small.safetensors")
    first = found(*line, capsys=capsys)
    assert (first["before"]["units"], first["after"]["units"]) == (8, 5)
    assert before["accuracy"] is not None
    own = ("own.py:Net", "--weights", "small.safetensors", *data)
    line = ("prune", *own, "--synapses", "--criterion", "magnitude", "--synapses-at-most", 20)
    second = found(*line, "--out", "sparse.safetensors", capsys=capsys)
    assert second["before"]["units"] == 5
    assert second["after"]["synapses"] <= 20
    own = ("own.py:Net", "--weights", "sparse.safetensors", *data)
    left = found("prune", *own, "--units-at-most", 3, "--out", "last.safetensors", capsys=capsys)
    assert left["before"]["synapses"] <= 20  # what is dead in the file stays dead
    small = formats.load("last.safetensors", into=Net())
    assert small.first.out_features == left["after"]["units"]


@pytest.mark.parametrize("command", ["tidy", "surface", "compare", "explain"])
def test_other_commands_take_them_too(command, there, tmp_path, capsys):
    more = {"compare": ["--criteria", "magnitude", "--steps", 2, "--seeds", 1]}.get(command, [])
    out = tmp_path / {"tidy": "t.safetensors", "explain": "e.html"}.get(command, "figure")
    line = (command, "own.py:Net", "--weights", "state.pt", "--data", "own.py:parts", "--out", out)
    found(*line, *more, capsys=capsys)
    assert list(tmp_path.iterdir())


def test_an_own_network_trained_on_a_table_is_read_again(there, capsys):
    """It takes standardised samples, and no layer is put before it."""
    rows = "".join(f"{i % 7},{i * 13 % 5},{1000 + i * 7 % 11},c{i % 3}\n" for i in range(90))
    (there / "table.csv").write_text("a,b,c,kind\n" + rows)
    (there / "three.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n"
        "def plain():\n"
        "    return Net().layers\n"
    )
    for name in ("Net", "plain"):
        own = (f"three.py:{name}", "--data", "table.csv")
        line = ("train", "--model", *own, "--epochs", 2, "--out", f"{name}.safetensors")
        trained = found(*line, capsys=capsys)
        line = ("prune", *own, "--weights", f"{name}.safetensors", "--units-at-most", 3)
        done = found(*line, "--out", f"{name}-small.safetensors", capsys=capsys)
        assert (done["before"]["units"], done["after"]["units"]) == (5, 3)
        assert trained["loss"] < 3  # of standardised samples; as they are, c is above 1000


def test_an_error_in_own_code_during_a_run_names_its_line(there, capsys):
    (there / "late.py").write_text("def loss(outputs, targets):\n    return outputs['x']\n")
    line = ("rank", "own.py:net", "--data", "own.py:parts", "--loss", "late.py:loss", "--quiet")
    code, _, err = run(*line, capsys=capsys)
    assert code == failures.REFUSED
    assert "late.py, line 2: " in err


def test_fit_takes_them_too(there, capsys):
    line = ("fit", "own.py:net", "--data", "own.py:parts", "--budget", "500 B", "--paths", "units")
    assert found(*line, "--out", "fit.safetensors", capsys=capsys)["reached"]


def test_values_are_predicted(there, capsys):
    line = ("prune", "own.py:net", "--data", "own.py:values", "--regression")
    done = found(*line, "--units-at-most", 6, "--out", "v.safetensors", capsys=capsys)
    assert done["after"]["accuracy"] is None
    assert "r2" in done["after"]["metrics"]


def test_a_loss_of_ones_own(there, capsys):
    own = ("own.py:net", "--data", "own.py:parts", "--loss", "own.py:margin")
    scores = found("rank", *own, capsys=capsys)["scores"]
    assert scores != found("rank", *own[:3], capsys=capsys)["scores"]
    line = ("train", "--model", *own, "--epochs", 2, "--out", "margin.safetensors")
    trained = found(*line, capsys=capsys)
    assert formats.inspect("margin.safetensors").card.loss is None
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(60))
    network = formats.load("margin.safetensors", into=Net())
    with torch.no_grad():
        loss = nn.functional.multi_margin_loss(network(x), x[:, :3].argmax(1))
    assert trained["loss"] == pytest.approx(float(loss), rel=1e-5)
    done = found("prune", *own, "--units-at-most", 6, "--out", "m.safetensors", capsys=capsys)
    assert done["after"]["loss"] > 0


def test_a_metric_of_ones_own_is_the_floor(there, capsys):
    (there / "metric.py").write_text(
        "seen = []\n"
        "def worst(network, data):\n"
        "    x, y = data\n"
        "    right = network(x).argmax(1) == y\n"
        "    seen.append(len(x))\n"
        "    return {'worst': min(float(right[y == k].float().mean()) for k in y.unique())}\n"
        "def size(network):\n"
        "    return int(network.second.weight.any(0).sum())\n"
        "def breaks(network):\n"
        "    return network.none\n"
    )
    own = ("prune", "own.py:net", "--data", "own.py:parts", "--metric")
    line = (*own, "metric.py:worst", "--metric-at-least", "worst=0", "--units-at-most", 4)
    assert found(*line, "--out", "w.safetensors", capsys=capsys)["after"]["units"] == 4
    line = (*own, "metric.py:worst", "--metric-at-least", "worst=1")
    code, _, err = run(*line, "--quiet", capsys=capsys)
    assert (code, "worst" in err) == (failures.REFUSED, True) or code == failures.USAGE
    line = (*own, "metric.py:size", "--metric-at-least", "5", "--out", "s.safetensors")
    assert found(*line, capsys=capsys)["after"]["units"] == 5
    code, _, err = run(*own, "metric.py:breaks", "--units-at-most", 4, "--quiet", capsys=capsys)
    assert code != 0
    assert "metric.py, line 10: AttributeError" in err


def test_a_loss_of_ones_own_in_every_command(there, tmp_path, capsys):
    (there / "chain.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    own = ("chain.py:net", "--data", "own.py:parts", "--loss", "own.py:margin")
    page = tmp_path / "page.html"
    found("explain", *own, "--out", page, capsys=capsys)
    margin = nn.functional.multi_margin_loss
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(60))
    chain = references.referred("chain.py:net")()
    with torch.no_grad():
        loss = float(margin(chain(x), x[:, :3].argmax(1)))
    baseline = re.search(r'"baseline":([\d.]+)', page.read_text())
    assert baseline is not None
    assert float(baseline[1]) == pytest.approx(loss, rel=1e-5)
    done = found("export", *own, "--out", tmp_path / "net.c", capsys=capsys)
    share = float((chain(x).argmax(1) == x[:, :3].argmax(1)).double().mean())
    assert done["accuracy"] == pytest.approx(share)
    line = ("--budgets", "250B", "--formats", "c", "--paths", "units", "--retrain-epochs", 60)
    out = ("--out", tmp_path / "figure")
    curves = found("compare", *own, *line, *out, capsys=capsys)["budgets"]
    plain = found("compare", *own[:3], *line, *out, capsys=capsys)["budgets"]
    assert curves[0]["points"][0]["bytes"] <= 250
    assert curves[0]["untouched"] == plain[0]["untouched"]
    assert curves[0]["points"] != plain[0]["points"]


METRICS = """
from own import rows
def parts():
    return rows(121), rows(122), rows(123)
def right(network, data):
    x, y = data
    share = float((network(x).argmax(1) == y).float().mean())
    return {"right": share, "wrong": 1 - share}
"""


def test_a_metric_stands_beside_accuracy_and_loss(there, capsys, tmp_path):
    (there / "right.py").write_text(METRICS)
    own = ("prune", "own.py:net", "--data", "right.py:parts", "--metric", "right.py:right")
    run_ = tmp_path / "run"
    out = ("--journal", run_, "--out", tmp_path / "r.safetensors")
    done = found(*own, "--units-at-most", 6, *out, capsys=capsys)
    for facts in (done["before"], done["after"]):  # of test samples
        assert facts["metrics"]["right"] == pytest.approx(facts["accuracy"], abs=1e-6)
    for row in rows(run_):  # of validation samples
        assert row["right"] == pytest.approx(row["accuracy"], abs=1e-6)
    assert rows(run_)[0]["accuracy"] != done["before"]["accuracy"]
    line = (*own, "--units-at-most", 7, "--out", tmp_path / "s.safetensors", "--quiet")
    _, shown, _ = run(*line, capsys=capsys)
    assert re.search(r"^right +0\.\d+ +0\.\d+ *$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "floor",
    [
        ("--metric-within", "right=0.1"),
        ("--metric-within", "wrong=0.1", "--metric-lower-is-better"),
        ("--accuracy-within", "0.1"),
    ],
)
def test_floors_of_a_metric_and_of_accuracy_are_of_one_kind(floor, there, capsys, tmp_path):
    (there / "right.py").write_text(METRICS)
    line = ("prune", "own.py:net", "--data", "right.py:parts", "--metric", "right.py:right")
    out = ("--journal", tmp_path / "run", "--out", tmp_path / "r.safetensors")
    found(*line, "--retrain-epochs", 9, *floor, *out, capsys=capsys)
    right = [row["right"] for row in rows(tmp_path / "run")]
    assert 1 < len(right) < 9  # the floor ends the run, at none of its first steps
    assert all(share >= right[0] - 0.1 - 1e-6 for share in right)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--metric-at-least", "0.9"], "no effect without --metric"),
        (["--metric", "own.py:number"], "must name a function of the network"),
        (["--metric", "own.py:net", "--metric-at-least", "a=b"], "a number, or NAME=NUMBER"),
        (["--metric", "own.py:net", "--metric-within", "-1"], "a change of 0 or more"),
        (["--metric", "own.py:net", "--metric-lower-is-better"], "no effect without"),
        (["--multiply-adds-at-most", "many"], "a count like 40 or a percentage"),
        (["--latency-at-most", "soon"], "--latency-at-most"),
    ],
)
def test_bad_limits_are_refused(more, words, there, capsys):
    line = ("prune", "own.py:net", "--data", "own.py:parts", "--units-at-most", 4, *more)
    code, out, err = run(*line, "--quiet", capsys=capsys)
    assert (code, out, err.count("\n")) == (failures.USAGE, "", 1)
    assert words in err


def test_budgets_in_multiply_adds_and_in_time(there, capsys):
    own = ("prune", "own.py:net", "--data", "own.py:parts", "--out", "b.safetensors")
    done = found(*own, "--multiply-adds-at-most", "50 %", capsys=capsys)
    assert done["after"]["multiply_adds"] <= done["before"]["multiply_adds"] / 2
    assert found(*own, "--latency-at-most", "10 s", capsys=capsys)["after"]["units"] == 8


def test_a_convolution_goes_along_the_rows_of_a_table(there, tmp_path, capsys):
    rows = "".join(
        f"{i % 7},{i * 13 % 5},{1000 + i * 7 % 11},{i % 4},c{i % 3}\n" for i in range(90)
    )
    (there / "four.csv").write_text("a,b,c,d,kind\n" + rows)
    table, file = ("--data", "four.csv"), tmp_path / "row.safetensors"
    line = ("train", "--model", "conv:1x4:5:3", *table, "--epochs", 2, "--out", file)
    trained = found(*line, capsys=capsys)
    assert trained["loss"] < 3  # standardised; as they are, c is above 1000
    small = ("--units-at-most", 3, "--out", tmp_path / "row.c")
    done = found("prune", file, *table, *small, capsys=capsys)
    assert (done["before"]["units"], done["after"]["units"]) == (5, 3)
    assert done["written"]["accuracy"] == pytest.approx(done["after"]["accuracy"])


@pytest.mark.parametrize("model", ["conv:2x8:4:26", "conv:1x4x4:4:26"])
def test_rows_have_no_channels_and_no_height(model, there, capsys):
    code, _, err = run("train", "letter", "--model", model, "--quiet", capsys=capsys)
    assert code == failures.USAGE
    assert "rows of 16 values without channels" in err
    assert "conv:1x16:8:10" in err


def test_the_networks_of_papers_and_specs_come_first(there, capsys):
    (there / "conv.py").write_text("raise RuntimeError\n")
    line = ("units", "conv:2x12:4:3", "--shape", 2, 12)
    assert [g["units"] for g in found(*line, capsys=capsys)["groups"]] == [4]


TWO = """
import torch
from torch import nn
from torch.nn import functional as F

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(3, 8), nn.Linear(8, 2)
    def forward(self, a, b):
        return self.out((self.a(a) + self.b(b)).tanh())

def part(seed):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(90, 5, generator=g), torch.randn(90, 3, generator=g)
    return (a, b), torch.stack([a[:, 0] * b[:, 0], a[:, 1]], 1)

def pairs():
    return part(0), part(1), part(2)

def named():
    return [({"a": a, "b": b}, y) for (a, b), y in pairs()]

def batches():
    return [[(a[:50], b[:50], y[:50]), (a[50:], b[50:], y[50:])] for (a, b), y in pairs()]

def other():
    train, validation, ((a, b), y) = pairs()
    return train, validation, ((a, b[:, :2]), y)

def huber(outputs, targets):
    return F.huber_loss(outputs, targets, reduction="none").mean(1)

def worst(network, data):
    x, y = data
    out = network(**x) if isinstance(x, dict) else network(*x)
    return float((out - y).abs().mean(0).max())
"""


@pytest.fixture
def two(tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(TWO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("data", ["pairs", "named", "batches"])
def test_a_network_of_two_inputs_from_training_to_the_smaller_one(data, two, capsys):
    own = ("--data", f"two.py:{data}", "--loss", "two.py:huber")
    line = ("train", "--model", "two.py:Two", *own, "--epochs", 9, "--lr", 0.02)
    trained = found(*line, "--out", "t.safetensors", capsys=capsys)
    own = ("two.py:Two", "--weights", "t.safetensors", *own)
    network = formats.load("t.safetensors", into=references.referred("two.py:Two")())
    inputs, targets = references.referred("two.py:part")(1)
    with torch.no_grad():
        by_hand = nn.functional.huber_loss(network(*inputs), targets)
    assert trained["loss"] == pytest.approx(float(by_hand), rel=1e-5)
    scores = found("rank", *own, capsys=capsys)["scores"]
    assert [len(values) for values in scores.values()] == [8]
    line = ("prune", *own, "--metric", "two.py:worst", "--metric-within", 0.3)
    line = (*line, "--metric-lower-is-better", "--retrain-epochs", 1, "--units-at-most", 5)
    done = found(*line, "--journal", "run", "--out", "small.safetensors", capsys=capsys)
    assert (done["before"]["units"], done["after"]["units"]) == (8, 5)
    small = formats.load("small.safetensors", into=references.referred("two.py:Two")())
    inputs, targets = references.referred("two.py:part")(2)
    with torch.no_grad():
        worst = (small(*inputs) - targets).abs().mean(0).max()
    assert done["after"]["metrics"]["metric"] == pytest.approx(float(worst), rel=1e-5)


def test_other_commands_take_two_inputs_or_say_why_not(two, capsys):
    own = ("two.py:Two", "--data", "two.py:pairs", "--loss", "two.py:huber")
    line = ("units", "two.py:Two", "--data", "two.py:pairs")
    assert [g["units"] for g in found(*line, capsys=capsys)["groups"]] == [8]
    for command, more in {
        "surface": ["--points", 3],
        "tidy": [],
        "compare": ["--criteria", "magnitude", "--steps", 2, "--seeds", 1],
        "fit": ["--budget", "700 B", "--paths", "units"],
    }.items():
        assert found(command, *(own if command != "tidy" else own[:3]), *more, capsys=capsys)
    for command, more in {
        "explain": [],
        "export": ["--out", "n.c"],
        "fit": ["--budget", "700 B", "--out", "n.c"],
        "prune": ["--units-at-most", 5, "--report", "page.html", "--journal", "r"],
        "compare": ["--budgets", "300B"],
    }.items():
        code, out, err = run(command, *own, *more, "--quiet", capsys=capsys)
        assert (code, out) == (failures.USAGE, ""), command
        assert "for networks of one input, and two.py:pairs has shape (5,) and shape (3,)" in err
    code, _, err = run("units", "two.py:Two", "--shape", 5, "--quiet", capsys=capsys)
    assert code == failures.USAGE
    assert "For several inputs name --data" in err
    code, _, err = run("rank", own[0], "--data", "two.py:other", "--quiet", capsys=capsys)
    assert code == failures.USAGE
    assert "train, validation and test must have one shape" in err


def test_pages_and_figures_of_an_own_network(there, tmp_path, capsys):
    own = ("own.py:net", "--data", "own.py:parts")
    page, run_ = tmp_path / "page.html", tmp_path / "run"
    line = ("prune", *own, "--units-at-most", 6, "--report", page, "--journal", run_)
    found(*line, "--out", tmp_path / "s.safetensors", capsys=capsys)
    assert page.stat().st_size > 10_000
    line = ("figures", run_, "--model", "own.py:net", "--into", tmp_path / "figures")
    assert found(*line, capsys=capsys)["figures"]


# What is refused.

BAD = {
    "no file": (["units", "none.py:net"], "there is no file none.py"),
    "no module": (["units", "none.inner:net"], "there is no module none.inner"),
    "no name": (["units", "own.py:nett"], "no name in own.py 'nett'|nett.*net"),
    "broken": (["units", "broken.py:net"], "broken.py, line 3: NameError: name 'nothing'"),
    "syntax": (["units", "syntax.py:net"], "syntax.py, line 1: "),
    "fails": (["units", "own.py:fails"], "own.py, line [0-9]+: ZeroDivisionError"),
    "arguments": (["units", "own.py:needs"], "own.py:needs fails: .*missing 1 required"),
    "no network": (["units", "own.py:number"], "must be a network .* it gives a int"),
    "weights and file": (
        ["units", "plain.safetensors", "--weights", "state.pt"],
        "holds weights itself; leave --weights out",
    ),
    "class unknown": (["rank", "small.safetensors"], "name the class too, .*--weights small"),
    "export a name": (["export", "16-4-3"], "there is no file 16-4-3"),
    **{
        name: (["units", "own.py:Net", "--weights", f"{name}.pt"], words)
        for name, words in {
            "more": r"must hold the weights of this network, 4 tensors: 1 not in.*\(extra\)",
            "less": r"3 missing from it \(first.bias, second.weight, second.bias\)",
            "shape": r"1 of another shape \(first.bias is \(9,\) here and \(8,\) in the network\)",
            "nan": "weights must be finite; 'first.bias' in nan.pt",
            "list": "must hold a state_dict, .*; it holds a list",
            "whole": r"torch.load\(weights_only=True\) cannot read it",
            "text": r"torch.load\(weights_only=True\) cannot read it",
            "two": "2 state_dicts of this network; choose one: --weights two.pt:net or --weigh",
            "optimizer": "must hold a state_dict, .*; it holds a dict with 'optimizer'",
        }.items()
    },
    **{
        name: (["rank", "own.py:net", "--data", f"own.py:{name}"], words)
        for name, words in {
            "two": "must give a Split, or train, validation and test data.* a tuple of 2",
            "number": "must give a Split, or train, .* it gives a int",
            "other_shapes": r"the inputs of train, validation and test must have one shape",
            "two_inputs": r"must take the inputs of own.py:two_inputs, shape \(6,\) and shape",
            "two_targets": "targets are one tensor. From Python",
            "no_rows": "own.py:no_rows, train: .*at least one sample",
            "values": "targets are float32.*--loss",
        }.items()
    },
    "no state_dict": (
        ["units", "own.py:Net", "--weights", "two.pt:emma"],
        "two.pt: unknown state_dict 'emma'",
    ),
    "no weights": (["units", "own.py:Net", "--weights", "no.pt:a"], "no file no.pt with weights"),
    "forward": (
        ["rank", "own.py:Odd", "--data", "own.py:parts"],
        r"it fails: own words.*own.py, line 18\)",
    ),
    "data of another width": (
        ["rank", "package.inner:net", "--data", "mnist"],
        r"the network must take the inputs of mnist|fails|has no units|can be removed",
    ),
    "no loss": (
        ["rank", "own.py:net", "--data", "own.py:parts", "--loss", "own.py:number"],
        "--loss own.py:number must name a function",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_references_are_refused_in_one_line(name, there, capsys):
    formats.save(Net(), "small.safetensors")
    line, words = BAD[name]
    before = set(there.rglob("*.*"))
    code, out, err = run(*line, "--quiet", capsys=capsys)
    assert code in (failures.REFUSED, failures.USAGE), err
    assert (out, err.count("\n")) == ("", 1)
    assert "does not expect" not in err
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(err)
    assert [
        p for p in sorted(there.rglob("*.*")) if p not in before and "cache" not in str(p)
    ] == []


# Images.


def draw(folder, of, *, size=(8, 6), colour=True, seed=0):
    """Write images of two classes: bright ones and dark ones."""
    random = np.random.default_rng(seed)
    for at, name in enumerate(("bright", "dark")):
        (folder / name).mkdir(parents=True)
        for number in range(of):
            shape = (*size, 3) if colour else size
            pixels = random.integers(0, 120, shape) + 120 * (1 - at)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def test_images_by_class(tmp_path):
    draw(tmp_path, 20)
    split = datasets.load(tmp_path, flat=False)
    assert split.shape == (3, 8, 6)
    assert split.classes == ("bright", "dark")
    assert [part.rows for part in (split.train, split.validation, split.test)] == [28, 6, 6]
    for part in (split.train, split.validation, split.test):
        assert part.targets.bincount().tolist() == [part.rows // 2] * 2
        assert torch.equal(part.targets, (part.inputs.mean((1, 2, 3)) < 0.35).long())
    with Image.open(tmp_path / "dark" / "0.png") as image:
        expected = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255
    every = torch.cat([part.inputs for part in (split.train, split.validation, split.test)])
    assert (every == expected).flatten(1).all(1).sum() == 1
    rows = datasets.load(tmp_path)
    assert torch.equal(rows.train.inputs, split.train.inputs.flatten(1))
    assert rows.features[1] == "pixel 0,0,1"


def test_images_in_parts(tmp_path):
    for at, (part, of) in enumerate({"train": 24, "val": 4, "test": 5}.items()):
        draw(tmp_path / part, of, colour=False, seed=at)
    split = datasets.load(tmp_path, flat=False)
    assert split.shape == (1, 8, 6)
    assert [part.rows for part in (split.train, split.validation, split.test)] == [48, 8, 10]
    shutil.rmtree(tmp_path / "val")
    split = datasets.load(tmp_path, flat=False)
    assert [part.rows for part in (split.train, split.validation, split.test)] == [44, 4, 10]


def test_images_are_resized_when_asked(tmp_path):
    draw(tmp_path / "a", 6)
    draw(tmp_path / "b", 6, size=(9, 9))
    shutil.move(tmp_path / "b" / "dark", tmp_path / "a" / "other")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(DataError, match=r"8x6 .*9x9 .*--size"):
        datasets.load(tmp_path / "a")
    assert datasets.load(tmp_path / "a", flat=False, size="4x5").shape == (3, 4, 5)
    with pytest.raises(ValueError, match='height and width, such as "32x32"'):
        datasets.load(tmp_path / "a", size="4")


def test_damaged_images_and_folders_without_any(tmp_path):
    draw(tmp_path / "some", 6)
    (tmp_path / "some" / "dark" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        datasets.load(tmp_path / "some")
    draw(tmp_path / "parts" / "train", 6)
    with pytest.raises(ValueError, match="must have a folder of images for each class"):
        datasets.load(tmp_path / "parts")
    shutil.copytree(tmp_path / "parts" / "train", tmp_path / "parts" / "test")
    shutil.rmtree(tmp_path / "parts" / "test" / "dark")
    with pytest.raises(ValueError, match="test has none of dark"):
        datasets.load(tmp_path / "parts")


def one_image(folder, image, name="0.png", **saved):
    """Write an image as one of a class, beside grey ones."""
    draw(folder, 20, colour=False)
    (folder / "dark" / "0.png").unlink()
    image.save(folder / "dark" / name, **saved)
    split = datasets.load(folder, flat=False)
    return torch.cat([part.inputs for part in (split.train, split.validation, split.test)])


DEEP = np.arange(0, 48 * 1365, 1365, dtype=np.uint16).reshape(8, 6)
EIGHT = (DEEP // 257).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [(m, 1) for m in ("1", "L", "LA", "I;16")]
    + [(m, 3) for m in ("P", "PA", "RGB", "RGBA", "CMYK")],
)
def test_every_kind_of_pixels(mode, channels, tmp_path):
    """An opaque image of any kind is what it is in grey or in colours."""
    grey = Image.fromarray(EIGHT)
    image = Image.fromarray(DEEP) if mode == "I;16" else grey.convert("RGB").convert(mode)
    name = "0.tif" if mode in ("CMYK", "PA") else "0.png"
    if mode == "PA":
        image, name = grey.convert("P"), "0.png"
    found = one_image(tmp_path, image, name)
    shown = DEEP / 65535 if mode == "I;16" else np.asarray(image.convert("RGB"))[..., 0] / 255
    assert found.shape[1] == channels
    assert (found - torch.tensor(shown).float()).abs().flatten(1).amax(1).min() < 1e-6


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    upright = Image.fromarray(np.repeat(EIGHT[..., None], 3, 2))
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert turned.size != upright.size
    found = one_image(tmp_path, turned, exif=exif)
    expected = torch.tensor(np.asarray(upright)).permute(2, 0, 1) / 255
    assert (found == expected).flatten(1).all(1).sum() == 1


CLEAR = np.full((8, 6, 4), 255, np.uint8)
CLEAR[2, 3, 3] = 254


@pytest.mark.parametrize(
    ("image", "name", "saved", "words"),
    [
        (Image.fromarray(CLEAR), "0.png", {}, "must not be transparent.*0.png"),
        (Image.fromarray(CLEAR).convert("LA"), "0.png", {}, "must not be transparent"),
        (Image.fromarray(EIGHT), "0.png", {"transparency": 0}, "must not be transparent"),
        (Image.fromarray(EIGHT).convert("P"), "0.png", {"transparency": 0}, "must not be transp"),
        (Image.fromarray(EIGHT.astype(np.float32)), "0.tif", {}, "8 or 16 bits"),
        (Image.fromarray(EIGHT.astype(np.int32)), "0.tif", {}, "8 or 16 bits"),
        *(
            (
                Image.fromarray(EIGHT),
                name,
                {"save_all": True, "append_images": [Image.fromarray(255 - EIGHT)]},
                "2 frames. Save each as a file",
            )
            for name in ("0.png", "0.tif", "0.webp")
        ),
    ],
)
def test_images_without_known_colours_are_refused(image, name, saved, words, tmp_path):
    with pytest.raises(DataError, match=words):
        one_image(tmp_path, image, name, **saved)


def test_images_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "pictures", 20)
    line = ("train", "--model", "conv:3x8x6:4:2", "--data", "pictures", "--epochs", 8, "--lr", 0.02)
    assert found(*line, capsys=capsys)["accuracy"] == 1
    line = ("prune", "model.safetensors", "--data", "pictures", "--accuracy-within", 0.0)
    assert found(*line, capsys=capsys)["after"]["units"] < 4


# Convolutional networks by their sizes.


@pytest.mark.parametrize(
    ("spec", "shape", "layers"),
    [
        (
            "conv:3x32x32:16-32:64-10",
            (3, 32, 32),
            "conv1 act1 pool1 conv2 act2 pool2 flatten fc1 act3 fc2",
        ),
        ("conv:2x128:16:5", (2, 128), "conv1 act1 pool1 flatten fc1"),
        (
            "conv:1x3x2:4-4-4:2:tanh",
            (1, 3, 2),
            "conv1 act1 pool1 conv2 act2 conv3 act3 flatten fc1",
        ),
    ],
)
def test_convolutional_networks_of_any_input(spec, shape, layers):
    network = training.build(spec)
    assert " ".join(network._modules) == layers
    outputs = network(torch.randn(2, *shape))
    assert outputs.shape == (2, int(spec.split(":")[3].split("-")[-1]))
    again = training.build(spec)
    assert all(map(torch.equal, network.parameters(), again.parameters()))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("conv", "has to say the shape of an input"),
        ("conv:3x32x32:16", "has to say the shape of an input"),
        ("conv:3:16:10", "channels and length, or channels, height and width"),
        ("conv:3x0x2:16:10", "whole numbers from 1"),
        ("conv:3x8x8:a:10", "channels must be whole numbers"),
        ("conv:3x8x8:16:", "widths must be whole numbers"),
        ("conv:3x8x8:16:10:swish", "activation 'swish'"),
        ("conv:3x8x8:16:10:relu:x", "may have 4 at most"),
    ],
)
def test_bad_sizes_of_convolutional_networks(spec, words):
    with pytest.raises(ValueError, match=words):
        training.build(spec)


# The worked example.


def test_the_guide_has_the_commands_of_the_worked_example():
    guide = (EXAMPLE.parent.parent / "docs" / "guides" / "own-model.md").read_text()
    script = (EXAMPLE / "run.sh").read_text().replace("\\\n", " ")
    shell = guide.partition("## From Python")[0]
    texts = [script, "\n".join(re.findall(r"^```sh\n(.*?)^```", shell, re.MULTILINE | re.DOTALL))]
    lines = [[line for line in text.splitlines() if line.startswith("sentei ")] for text in texts]
    said, typed = ([shlex.split(line, comments=True) for line in each] for each in lines)
    assert len(said) == 5
    assert said == typed


def test_the_worked_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    for file in EXAMPLE.glob("*.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    script = (tmp_path / "run.sh").read_text().replace("\\\n", " ")
    lines = [line for line in script.splitlines() if line.startswith("sentei ")]
    assert len(lines) == 5
    out = ""
    for line in lines:
        code, out, err = run(*shlex.split(line)[1:], capsys=capsys)
        assert (code, bool(out)) == (0, True), err
        if line.startswith("sentei units"):
            assert "each row counts all of its own" in out  # shares add up to more than 100 %
            assert "A pass is one run" in out
        if line.startswith("sentei prune"):
            assert out.count("metric (close)") == 1
            assert "removed 29/48" in err
            assert "undone: 0. After each kept step metric_at_least('metric', 0.9) holds." in err
    assert "dead" not in out  # the last is info: no synapse is dead
    assert (tmp_path / "run").is_dir()
    small = formats.inspect(tmp_path / "small.safetensors")
    assert small.entries < formats.inspect(tmp_path / "sensor.safetensors").entries * 0.7
