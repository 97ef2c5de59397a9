"""Inputs as they are in the data: `Standardise`, its way into every file, and names that travel."""

import copy
import json
import re
import subprocess
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import sentei
from commands import run
from sentei import Card, Standardise, card_of, datasets, formats, set_card_, training
from sentei.errors import DataError
from sentei.formats.c import as_c, write_c
from sentei.formats.c.compiled import STRICT, Compiled, compiler, has_classify
from sentei.formats.c.quantised import outputs
from sentei.network.encoding import converting, merging, size
from sentei.network.encoding.stages import Weighted
from sentei.network.layers import standardises
from sentei.network.mask import Mask
from sentei.pruning.boards import board

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")

MEAN, STD = [20.0, 1000.0, 0.5, -3.0, 8.0], [5.0, 200.0, 0.01, 1.0, 40.0]


def rows(count=400, seed=0):
    """Raw rows whose columns differ in mean and deviation by orders of magnitude."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(MEAN)))
    return torch.from_numpy(drawn * STD + MEAN).float()


def images(count=200, seed=0):
    pixels = np.random.default_rng(seed).normal(size=(count, 2, 6, 6))
    scales = np.array([50.0, 0.1])[:, None, None]
    return torch.from_numpy(pixels * scales + [[[100.0]], [[-1.0]]]).float()


def fitted(x, *, by_channel=False):
    """Return a Standardise for inputs, with one entry for each value or for each channel."""
    if not by_channel:
        return Standardise.of(datasets.Scaling.of(x))
    channels = x.transpose(0, 1).flatten(1)
    return Standardise(channels.mean(1)[:, None, None], channels.std(1)[:, None, None])


def table(path, x=None, seed=0):
    """Write a table of raw rows with three classes; return its rows and classes."""
    x = rows(seed=seed) if x is None else x
    z = (x - x.mean(0)) / x.std(0)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(3, x.shape[1]))).float()
    names = np.array(["cold", "damp", "hot"])[(z @ weights.T).argmax(1).numpy()]
    features = [f"sensor {place}" for place in range(x.shape[1])]
    cells = [[f"{value:.9g}" for value in row] for row in x.tolist()]
    lines = [",".join([*row, name]) for row, name in zip(cells, names, strict=True)]
    path.write_text("\n".join([",".join([*features, "weather"]), *lines]))
    return x, names


# The layer.


def test_the_layer_does_what_the_scaling_does():
    x = rows()
    scaling = datasets.Scaling.of(x)
    layer = Standardise.of(scaling)
    torch.testing.assert_close(layer(x), scaling(x), atol=1e-5, rtol=0)
    assert (layer(x).dtype, layer(x.double()).dtype) == (torch.float32, torch.float64)
    assert layer.half()(x).dtype == torch.float32
    counts = torch.tensor([[8], [4]])
    assert Standardise(torch.tensor([2.0]), torch.tensor([4.0]))(counts).tolist() == [[1.5], [0.5]]
    assert repr(fitted(images())) == "Standardise(2 x 6 x 6)"


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_what_cannot_be_divided_by_is_refused(std):
    with pytest.raises(ValueError, match=r"value 1 has mean 3 and deviation .*Use deviation 1"):
        Standardise(torch.tensor([1.0, 3.0]), torch.tensor([1.0, std]))


def test_layers_keep_their_names_behind_it():
    network = training.build("5-4-3:relu")
    set_card_(network, Card(classes=("a", "b", "c")))
    network.eval()
    whole = fitted(rows()).before(network)
    assert list(dict(whole.named_children())) == ["standardise", "fc1", "act1", "fc2"]
    assert (whole.training, card_of(whole)) == (False, card_of(network))
    assert whole.fc1 is network.fc1
    assert (standardises(whole), standardises(network)) == (True, False)
    twice = fitted(rows()).before(whole)
    assert list(dict(twice.named_children())) == ["standardise", "network"]
    single = fitted(rows()).before(nn.Linear(5, 2))
    assert single(rows()).shape == (400, 2)


# Cutting.


@pytest.mark.parametrize("first", [lambda: fitted(rows()), lambda: nn.BatchNorm1d(5)])
def test_inputs_behind_a_norm_are_removed_and_still_passed(first):
    """Before, the norm was cut too, although all inputs still arrive at it."""
    torch.manual_seed(0)
    network = nn.Sequential(first(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = rows(64)
    network[0].train()(x)
    groups = sentei.find_units(network.eval(), x, inputs=True)
    assert [group.kind for group in groups] == ["input", "neuron"]
    for removed in ({0: [1]}, {0: [3], 1: [0, 7]}):
        mask = Mask.full(groups).without({groups[at]: units for at, units in removed.items()})
        small = sentei.shrink(network, mask, x)
        assert small[1][0].index.tolist() == [u for u in range(5) if u not in removed[0]]
        masked = copy.deepcopy(network)
        mask.apply_(masked)
        torch.testing.assert_close(small(x), masked(x))
        again = sentei.find_units(small, x, inputs=True)
        smaller = sentei.shrink(small, Mask.full(again).without({again[0]: [0]}), x)
        assert len(smaller[1][0].index) == len(small[1][0].index) - 1


def test_what_is_behind_a_selection_follows_it():
    torch.manual_seed(0)
    select = sentei.network.layers.Select(torch.tensor([4, 1, 2]))
    first = Standardise(torch.rand(5), torch.rand(5) + 1)
    network = nn.Sequential(select, nn.BatchNorm1d(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = first.before(network).train()
    x = torch.randn(40, 5)
    network(x)
    inputs, _ = sentei.find_units(network.eval(), x, inputs=True)
    followers = [part.parameter for part in inputs.followers]
    assert followers[:2] == ["0.index", "1.weight"]
    assert not any("standardise" in name for name in followers)
    mask = Mask.full([inputs]).without({inputs: [1]})
    small = sentei.shrink(network, mask, x)
    mask.apply_(network)
    torch.testing.assert_close(small(x), network(x))
    assert small.get_submodule("0").index.numel() == 2


def test_sizes_are_those_of_the_file_and_no_example_is_needed(tmp_path):
    network = fitted(rows()).before(training.build("5-6-3"))
    everything = Mask.full([])
    formats.save(network, tmp_path / "n.safetensors")
    assert (tmp_path / "n.safetensors").stat().st_size == size.counts(network, everything).bytes
    (group,) = sentei.find_units(network, rows(2))
    small = sentei.shrink(network, Mask.full([group]).without({group: [2]}))
    torch.testing.assert_close(formats.load(tmp_path / "n.safetensors")(rows()), network(rows()))
    assert small(rows()).shape == (400, 3)


# Files that take raw rows.


def networks(kind):
    """Return a trained-looking network that takes raw inputs, and raw inputs."""
    torch.manual_seed(3)
    if kind == "mlp":
        x = rows()
        return fitted(x).before(training.build("5-16-12-3:relu", seed=3)).eval(), x
    x = images()
    conv = nn.Conv2d(2, 4, 3, padding=int("padded" in kind), groups=1 + ("grouped" in kind))
    width = 36 if "padded" in kind else 16
    layers = OrderedDict(
        conv=conv, act=nn.ReLU(), pool=nn.MaxPool2d(2), flat=nn.Flatten(), fc=nn.Linear(width, 3)
    )
    return fitted(x, by_channel="channel" in kind).before(nn.Sequential(layers)).eval(), x


KINDS = [
    "mlp",
    "conv",
    "conv padded",
    "conv channel",
    "conv channel padded",
    "conv grouped channel",
]
CUTS = ["whole", "dead synapses", "removed inputs"]
CASES = [(kind, cut) for kind in KINDS for cut in CUTS if kind == "mlp" or cut != "removed inputs"]


def cut(network, x, how):
    """Return the network with what was removed, and its mask."""
    units = sentei.find_units(network, x[:8], inputs=how == "removed inputs")
    mask = Mask.full([*units, *sentei.find_synapses(network)])
    links = [group for group in mask.groups if group.kind == "synapse"]
    if how == "whole":
        return network, None
    if how == "removed inputs":
        mask = mask.without({units[0]: [1, 3], units[1]: [0]})
    dead = {group: torch.randperm(group.size)[: group.size // 2] for group in links}
    mask = mask.without(dead)
    mask.apply_(network)
    return sentei.shrink(network, mask, x[:64]), mask.shrunk()


@needs_cc
@pytest.mark.parametrize("format", ["c", "c-int8", "c-int8-int8"])
@pytest.mark.parametrize(("kind", "how"), CASES)
def test_c_takes_raw_rows(kind, how, format, tmp_path):
    network, x = networks(kind)
    network, mask = cut(network, x, how)
    plan = write_c(network, tmp_path / "net.c", x, mask, format)
    emitted = Compiled(tmp_path / "net.c")
    with torch.no_grad():
        wanted = network(x)
    found = emitted(x)
    reach = float(wanted.abs().max())
    bound = {"c": 1e-4, "c-int8": 0.02, "c-int8-int8": 0.05}[format] * reach
    assert (found - wanted).abs().max() < bound
    simulated = outputs(as_c(network, x, mask, format), x)
    assert (found - simulated).abs().max() < 1e-5 * reach
    same = (found.argmax(1) == wanted.argmax(1)).float().mean()
    assert same >= (1.0 if format == "c" else 0.95)
    everything = Mask.full([]) if mask is None else mask
    assert plan.flash == size.bytes_in(network, everything, format, x)
    assert plan.ram == size.ram_in(network, everything, format, x)
    if how == "whole":
        bare = size.bytes_in(network[1:], everything, format, x)
        grows = format != "c" or kind in ("conv", "conv padded", "conv channel padded")
        assert plan.flash - bare == (8 * network.standardise.mean.numel() if grows else 0)


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_onnx_takes_raw_rows(kind, how, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'sentei[onnx]'")
    network, x = networks(kind)
    network, mask = cut(network, x, how)
    set_card_(network, Card(classes=("a", "é", '"'), features=("x",)))
    path = tmp_path / "net.onnx"
    sentei.export(network, path, x, mask)
    everything = Mask.full([]) if mask is None else mask
    assert path.stat().st_size == size.bytes_in(network, everything, "onnx", x)
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        wanted = network(x)
    assert np.abs(found - wanted.numpy()).max() < 1e-4 * float(wanted.abs().max())
    known = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in known.items()} == {
        "classes": ["a", "é", '"'],
        "features": ["x"],
    }


@needs_cc
@pytest.mark.parametrize("ratio", [1.0, converting.FOLDED, 1e4])
def test_large_means_cost_no_digits(ratio, tmp_path):
    """Folded, they would: the sums of weighted inputs and the bias cancel."""
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 64)))
    x = (3 * z + 3 * ratio).float()
    network = fitted(x).before(training.build("64-32-10:relu", seed=0)).eval()
    std = network.standardise.std
    network.standardise = Standardise(std * ratio, std)
    with torch.no_grad():
        wanted = network(x)
    step = ratio > converting.FOLDED
    assert len(merging.folded(converting.stages(network, (64,)))) == 3 + step
    plan = write_c(network, tmp_path / "net.c", x)
    assert plan.flash == 4 * (64 * 32 + 32 + 32 * 10 + 10) + 8 * 64 * step
    assert plan.flash == size.bytes_in(network, Mask.full([]), "c", x)
    sentei.export(network, tmp_path / "net.onnx", x)  # it compares its size with the planned one
    off = (Compiled(tmp_path / "net.c")(x) - wanted).abs().max()
    assert off < 1e-4 * wanted.abs().max()


def test_int8_weights_never_hold_deviations():
    """A row has one scale; a column of deviation 0.01 would leave all others no digits."""
    network, x = networks("mlp")
    with torch.no_grad():
        wanted = network(x)
    ruined = [
        stage
        for stage in merging.folded(converting.stages(network, (5,)))
        if isinstance(stage, Weighted)
    ]
    weight = ruined[0].weight
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((weight / step).round() == 0).float().mean() > 0.5
    for name in ("c-int8", "c-int8-int8"):
        found = outputs(as_c(network, x, None, name), x)
        assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.95


@needs_cc
@pytest.mark.parametrize(
    ("first", "x"),
    [
        (nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), torch.randn(200, 1, 8, 8)),
        (sentei.network.layers.Select(torch.tensor([0, 1, 2, 4])), None),
    ],
)
def test_int8_values_that_are_passed_on_keep_their_step(first, x, tmp_path):
    """A pool or a selection in front got the step of its outputs for values in that of inputs."""
    torch.manual_seed(0)
    if x is None:
        x = torch.randn(200, 5) * torch.tensor([1.0, 1.0, 1.0, 100.0, 1.0])
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    network = nn.Sequential(first, layers).eval()
    sentei.export(network, tmp_path / "net.c", x, format="c-int8-int8")
    with torch.no_grad():
        wanted = network(x)
    off = (Compiled(tmp_path / "net.c")(x) - wanted).abs().max()
    assert off < 0.05 * wanted.abs().max()


def test_only_the_first_block_may_standardise_int8():
    x = rows()
    network = nn.Sequential(nn.Linear(5, 5), fitted(x), nn.Linear(5, 3))
    with pytest.raises(sentei.StructureError, match="only the first layer may"):
        as_c(network, x, None, "c-int8-int8")
    with torch.no_grad():
        torch.testing.assert_close(outputs(as_c(network, x, None, "c"), x), network(x))


def test_selected_channels_are_standardised_before_they_are_flattened(tmp_path):
    x = images()
    select = sentei.network.layers.Select(torch.tensor([1]), dim=-3)
    behind = nn.Sequential(select, nn.Flatten(), nn.Linear(36, 3))
    for by_channel in (False, True):
        network = fitted(x, by_channel=by_channel).before(behind).eval()
        with torch.no_grad():
            wanted = network(x)
        for format in ("c", "c-int8"):
            off = (outputs(as_c(network, x, None, format), x) - wanted).abs().max()
            assert off < 0.02 * wanted.abs().max()
            planned = size.bytes_in(network, Mask.full([]), format, x)
            assert write_c(network, tmp_path / "net.c", x, format=format).flash == planned


def test_a_sample_that_does_not_fit_is_refused():
    network = nn.Sequential(fitted(rows()), nn.Linear(5, 2))
    with pytest.raises(sentei.StructureError, match="standardises samples of shape"):
        as_c(network, torch.rand(4, 6), None, "c")
    network[0].std[1] = 0  # as in a damaged file
    with pytest.raises(sentei.StructureError, match="layer '0' has others"):
        as_c(network, torch.rand(4, 5), None, "c")


# Data.


def test_raw_rows_come_with_the_scaling_that_they_need(tmp_path):
    x, _ = table(tmp_path / "w.csv")
    raw = datasets.load(tmp_path / "w.csv", standardise=False)
    scaled = datasets.load(tmp_path / "w.csv")
    assert (raw.raw, scaled.raw) == (True, False)
    assert raw.scaling is not None
    assert {tuple(row) for row in raw.test.inputs.tolist()} <= {tuple(row) for row in x.tolist()}
    torch.testing.assert_close(raw.scaling(raw.test.inputs), scaled.test.inputs)
    again = raw.standardised()
    assert (again.raw, torch.equal(again.test.inputs, scaled.test.inputs)) == (False, True)
    letters = datasets.load("letter", standardise=False)
    assert torch.equal(letters.train.inputs, letters.train.inputs.round())
    assert letters.train.inputs.max() == 15
    assert datasets.load("mnist", standardise=False).scaling is None


def test_names_that_only_count_are_no_names(tmp_path):
    np.savez(tmp_path / "d.npz", inputs=rows().numpy(), targets=np.arange(400) % 3)
    arrays = datasets.load(tmp_path / "d.npz")
    assert (arrays.named_features, arrays.named_classes) == ((), ())
    table(tmp_path / "w.csv")
    named = datasets.load(tmp_path / "w.csv")
    assert named.named_features == tuple(f"sensor {k}" for k in range(5))
    assert named.named_classes == ("cold", "damp", "hot")
    digits = datasets.load("mnist")
    assert (digits.named_features, digits.named_classes) == ((), ())


@pytest.mark.parametrize(("mean", "deviation"), [(1e6, 1e-2), (1.7e9, 600.0), (1e12, 1e3)])
def test_values_that_float32_cannot_tell_apart_are_refused(mean, deviation, tmp_path):
    x = rows().double()
    x[:, 2] = torch.from_numpy(np.random.default_rng(2).normal(size=400)) * deviation + mean
    targets = np.arange(400) % 3
    np.savez(tmp_path / "d.npz", inputs=x.numpy(), targets=targets)
    lines = [
        ",".join(map(repr, [*row, f"c{y}"])) for row, y in zip(x.tolist(), targets, strict=True)
    ]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,time,d,e,class", *lines]))
    for name, feature in (("d.csv", "time"), ("d.npz", "value 2")):
        with pytest.raises(DataError, match=rf"{name}: {feature} .*Subtract about"):
            datasets.load(tmp_path / name)


@pytest.mark.parametrize(
    ("mean", "deviation"), [(1.7e9, 1e7), (0.3, 0.0), (1e6, 10.0), (0.0, 1e-30), (1e12, 0.0)]
)
def test_values_that_float32_tells_apart_are_taken(mean, deviation, tmp_path):
    x = rows().double()
    x[:, 2] = torch.from_numpy(np.random.default_rng(2).normal(size=400)) * deviation + mean
    x[0, 2] += 1e-16 * mean  # a constant with a rounding error stays one
    np.savez(tmp_path / "d.npz", inputs=x.numpy(), targets=np.arange(400) % 3)
    assert datasets.load(tmp_path / "d.npz").test.inputs.isfinite().all()


# Commands.


@pytest.fixture(scope="module")
def weather(tmp_path_factory):
    """A folder with a table, and two networks: one that takes raw rows, one of an older release."""
    folder = tmp_path_factory.mktemp("weather")
    table(folder / "weather.csv")
    split = datasets.load(folder / "weather.csv")
    old = training.build("5-12-3:relu", seed=0)
    training.train(old, split.train, training.Recipe(epochs=60, lr=0.01))
    formats.save(old, folder / "old.safetensors")
    return folder


@pytest.fixture
def trained(weather, capsys, monkeypatch):
    monkeypatch.chdir(weather)
    if not (weather / "raw.safetensors").exists():
        code, _, err = run(
            *("train", "weather.csv", "--model", "5-12-3:relu", "--epochs", 60, "--lr", 0.01),
            *("--out", "raw.safetensors"),
            capsys=capsys,
        )
        assert code == 0, err
    return weather


def accuracy_of(folder, name, raw):
    """Accuracy of an emitted file on all rows, as they are in the table or standardised."""
    split = datasets.load(folder / "weather.csv", standardise=not raw)
    return Compiled(folder / f"{name}.c").accuracy(*split.test)


def accuracy_in_torch(network, samples):
    with torch.no_grad():
        return float((network(samples.inputs).argmax(1) == samples.targets).float().mean())


def said_accuracy(out):
    return float(re.findall(r"Accuracy of the emitted code: ([\d.]+)%", out)[0]) / 100


@needs_cc
@pytest.mark.parametrize("format", ["c", "c-int8", "c-int8-int8"])
def test_a_trained_network_is_exported_for_raw_rows(trained, format, capsys):
    network = formats.load("raw.safetensors")
    assert list(dict(network.named_children())) == ["standardise", "fc1", "act1", "fc2"]
    assert card_of(network).classes == ("cold", "damp", "hot")
    assert card_of(network).features == tuple(f"sensor {place}" for place in range(5))
    code, out, err = run(
        *("export", "raw.safetensors", "--data", "weather.csv", "--format", format),
        *("--out", "raw.c"),
        capsys=capsys,
    )
    assert code == 0, err
    assert "standardised" not in out
    assert accuracy_of(trained, "raw", raw=True) == pytest.approx(said_accuracy(out), abs=1e-4)
    assert said_accuracy(out) > 0.85
    header = (trained / "raw.h").read_text()
    assert "Outputs: cold, damp, hot." in header
    assert "They are sensor 0, sensor 1, " in header
    assert "the code standardises them" in header
    test = datasets.load("weather.csv", standardise=False).test
    with torch.no_grad():
        same = Compiled("raw.c")(test.inputs).argmax(1) == network(test.inputs).argmax(1)
    assert same.float().mean() >= (1 if format == "c" else 0.95)


@needs_cc
def test_a_network_of_an_older_release_still_gets_standardised_rows(trained, capsys):
    code, out, err = run(
        *("export", "old.safetensors", "--data", "weather.csv", "--out", "old.c"), capsys=capsys
    )
    assert code == 0, err
    assert "inputs must be standardised before a call" in out
    assert accuracy_of(trained, "old", raw=False) == pytest.approx(said_accuracy(out), abs=1e-4)
    assert said_accuracy(out) > 0.85
    header = (trained / "old.h").read_text()
    scaling = datasets.load("weather.csv").scaling
    assert scaling is not None
    mean, std = scaling.mean[1], scaling.std[1]
    assert f"x[1] = (value - {mean:.9g}) / {std:.9g}" in header
    code, out, _ = run(
        *("export", "old.safetensors", "--data", "weather.csv", "--out", "old.onnx"), capsys=capsys
    )
    assert (code, "inputs must be standardised before a call" in out) == (0, True)


@pytest.mark.parametrize("name", ["old", "raw"])
def test_every_command_gives_a_network_the_rows_that_it_takes(trained, name, capsys):
    """A network that got the wrong rows would be right about as often as a guess."""
    words = ["--data", "weather.csv", "--samples", 200]
    code, out, err = run(
        *("prune", f"{name}.safetensors", *words, "--units-at-most", 11, "--out", "p.safetensors"),
        capsys=capsys,
    )
    assert code == 0, err
    pruned = formats.load("p.safetensors")
    split = datasets.load("weather.csv", standardise=name == "old")
    assert standardises(pruned) == (name == "raw")
    assert accuracy_in_torch(pruned, split.test) > 0.8
    shown = re.findall(r"accuracy\D+([\d.]+) ?%?\D+([\d.]+)", out)
    assert float(shown[0][0]) > 80
    for command in ("rank", "tidy", "surface"):
        more = {"tidy": ["--out", "t.safetensors"], "surface": ["--out", "s", "--points", 5]}
        code, _, err = run(
            command, f"{name}.safetensors", *words, *more.get(command, []), capsys=capsys
        )
        assert code == 0, err
    assert accuracy_in_torch(formats.load("t.safetensors"), split.test) > 0.8


def test_inputs_are_removed_from_a_network_that_takes_raw_rows(trained, capsys):
    code, _, err = run(
        *("prune", "raw.safetensors", "--data", "weather.csv", "--inputs", "--samples", 200),
        *("--schedule", "one_shot", "--keep", 12, "--out", "few.c", "--format", "c-int8"),
        capsys=capsys,
    )
    assert code == 0, err
    assert Compiled("few.c").inputs == 5


@pytest.mark.parametrize("teacher", ["old", "raw"])
def test_a_teacher_gets_the_rows_that_it_takes(trained, teacher, capsys):
    code, _, err = run(
        *("train", "weather.csv", "--model", "5-6-3", "--teacher", f"{teacher}.safetensors"),
        *("--teacher-weight", 1.0, "--epochs", 60, "--lr", 0.02, "--out", "taught.safetensors"),
        capsys=capsys,
    )
    assert code == 0, err
    split = datasets.load("weather.csv", standardise=False)
    taught = formats.load("taught.safetensors")
    assert accuracy_in_torch(taught, split.test) > 0.8


def test_what_is_known_is_shown_and_stays(trained, capsys):
    code, out, _ = run("info", "raw.safetensors", capsys=capsys)
    assert code == 0
    assert re.search(r"classes +cold, damp, hot", out)
    assert re.search(r"features +sensor 0, sensor 1", out)
    network = formats.load("raw.safetensors")
    split = datasets.load("weather.csv", standardise=False)
    story = sentei.reporting.page.story.of_network(network, tuple(split.test))
    assert story.names.classes == ("cold", "damp", "hot")
    assert story.names.features[4] == "sensor 4"
    given = replace(split, classes=("a", "b", "c"))
    named = sentei.reporting.page.story.of_network(network, given).names
    assert (named.classes, named.std) == (("a", "b", "c"), ())


def test_a_journal_knows_names_too(trained):
    network = formats.load("raw.safetensors")
    split = datasets.load("weather.csv", standardise=False)
    groups = sentei.find_units(network, split.train.inputs[:8])
    propose = sentei.ranked("magnitude", sentei.one_shot(4))
    probe = sentei.Probe(network, split.train)
    list(sentei.prune(network, groups, probe, propose, journal=trained / "journal"))
    story = sentei.reporting.page.of_journal(trained / "journal")
    assert story.names.classes == ("cold", "damp", "hot")


def test_a_sample_takes_four_bytes_a_value_where_the_code_standardises():
    plain = board("arduino-uno").memory_budget("c-int8-int8", 100)
    raw = board("arduino-uno").memory_budget("c-int8-int8", 100, floats=True)
    assert (plain.ram, raw.ram) == (2048 - 512 - 100, 2048 - 512 - 400)
    with pytest.raises(sentei.UnreachableError, match="Use fewer inputs"):
        board("arduino-uno").memory_budget("c-int8-int8", 400, floats=True)


# Names in C, and no class where there is none.

ODD = (
    'say "hi"',
    "back\\slash",
    "*/ int x; /*",
    "??/",
    "ümlaut",
    "a\nb",
    "void evil_predict(",
    "%d",
)


@needs_cc
def test_odd_names_of_classes_stand_in_the_header(tmp_path):
    network = nn.Sequential(nn.Linear(3, len(ODD)))
    set_card_(network, Card(classes=ODD))
    x = torch.rand(4, 3)
    sentei.export(network, tmp_path / "net.c", x)
    assert Compiled(tmp_path / "net.c").outputs == len(ODD)
    main = (
        '#include <stdio.h>\n#define NET_NAMES\n#include "net.h"\n'
        "int main(void) { int k; for (k = 0; k < NET_OUTPUTS; k++) "
        'printf("%s%c", net_names[k], 0); return 0; }\n'
    )
    (tmp_path / "main.c").write_text(main)
    build = [compiler(), *STRICT, "main.c", "net.c", "-lm", "-o", "main"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=True)
    assert tuple(done.stdout.decode().split("\0")[:-1]) == ODD
    sentei.export(network, tmp_path / "own.c", x, classes=[f"c{k}" for k in range(len(ODD))])
    assert "Outputs: c0, c1," in (tmp_path / "own.h").read_text()
    set_card_(network, Card(classes=("only", "two")))  # of another network: they name nothing
    sentei.export(network, tmp_path / "two.c", x)
    assert "Outputs: 0, 1, 2," in (tmp_path / "two.h").read_text()
    assert "NAMES" not in (tmp_path / "two.h").read_text()


@needs_cc
@pytest.mark.parametrize("out", [1, 4])
def test_a_network_that_predicts_values_has_no_function_that_classifies(out, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, out))
    x = torch.randn(40, 3)
    sentei.export(network, tmp_path / "net.c", x)
    assert has_classify(tmp_path / "net.c") == (out > 1)
    set_card_(network, Card(predicts="values"))
    for format in ("c", "c-int8", "c-int8-int8"):
        sentei.export(network, tmp_path / "net.c", x, format=format)
        for text in ((tmp_path / name).read_text() for name in ("net.c", "net.h")):
            assert "classify" not in text
            assert "net_predict(x, y);" in text
        assert Compiled(tmp_path / "net.c")(x).shape == (40, out)
    from sentei.cli.deployment import ship

    classes = torch.zeros(40, dtype=torch.int64)
    shown = ship(network, tmp_path / "net.c", None, "c", x, (x, classes)).shown
    said = "\n".join(map(str, shown))
    assert "Accuracy" not in said
    off = float(re.findall(r"differ from the network's by ([\d.e+-]+) at most on 40", said)[0])
    assert off < 1e-6
