"""What can be removed from a network is counted to the last parameter, and listed with the rest."""

import json
from itertools import chain

import pytest
import torch
from rich.console import Console
from torch import nn

import hand
import sentei
import zoo
from commands import run
from place_networks import PLACES
from sentei.network.copying import copied
from sentei.network.parameters import removed_parameters, smallest
from sentei.network.surgery.cutting import remove_dead_
from sentei.reporting import tables


def entries(model):
    return sum(parameter.numel() for parameter in model.parameters())


def left_after(model, groups):
    """Really cut a copy down to the least, and count."""
    return entries(remove_dead_(copied(model), smallest(groups)))


PLACED = ("WeightNormRows", "LSTM", "GRUPacked", "TimesWeight")
SHORT = ("lenet", "residual", "dense", "swiglu", "vit", "tied", "recurrent", "TimesWeight")


def build(name):
    return zoo.build(name) if name in zoo.ZOO else PLACES[name][0]()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SHORT else pytest.mark.slow)
        for name in (*zoo.ZOO, *PLACED)
    ],
)
def test_the_parameters_that_can_go_are_those_that_a_cut_removes(name):
    model, x = build(name)
    found = sentei.inventory(model, x, inputs=True)
    assert found.groups == sentei.find_units(model, x, inputs=True)
    assert found.parameters == entries(model)
    assert found.removable == entries(model) - left_after(model, found.groups)
    for each in found.offered:
        assert each.parameters == entries(model) - left_after(model, [each.group])
    assert [each.reason for each in chain(*found.reasons.values())] == [
        each.reason for why in found.reasons for each in found.not_offered if each.reason == why
    ]


def test_an_entry_counts_once_by_hand():
    # 2-3-4-2: a row of the second layer is an entry of both hidden groups.
    model = hand.mlp(2, 3, 4, 2)
    found = sentei.inventory(model, torch.rand(5, 2))
    assert found.parameters == (2 * 3 + 3) + (3 * 4 + 4) + (4 * 2 + 2)
    assert [each.parameters for each in found.offered] == [9 + 12, 16 + 8]
    assert found.removable == 9 + 16 + 8
    assert found.share(found.removable) == 33 / 35
    (last,) = found.not_offered
    assert (last.parameter, last.reason) == (
        "4.weight",
        "they are part of an output of the network",
    )


def test_a_part_that_forward_runs():
    model = hand.mlp(2, 3, 4, 2)
    found = sentei.inventory(model, torch.rand(5, 2), forward=lambda net, x: net[:3](x))
    assert [(each.group.size, each.parameters) for each in found.offered] == [(3, 9 + 12)]
    assert [each.parameter for each in found.not_offered] == ["2.weight"]


def test_a_mask_of_any_units_is_counted():
    model = hand.mlp(3, 5, 4, 2)
    groups = hand.hidden(model)
    mask = sentei.Mask.full(groups).without({groups[0]: [0, 3], groups[1]: [1]})
    small = sentei.shrink(model, mask, torch.rand(4, 3))
    assert removed_parameters(model, mask) == entries(model) - entries(small)
    with pytest.raises(sentei.GroupError, match="not this model's"):
        removed_parameters(hand.mlp(3, 2, 2), mask)


def test_what_torch_cannot_cut_to_nothing_keeps_a_unit():
    normed = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
    )
    kept = smallest(sentei.find_units(normed, torch.randn(2, 4)))
    assert [kept.count(group) for group in kept.groups] == [1]
    assert sentei.shrink(normed, kept, torch.randn(2, 4))[2].in_features == 1
    model, x = PLACES["LSTMPacked"][0]()
    kept = smallest(sentei.find_units(model, x))
    assert [kept.count(group) for group in kept.groups] == [1, 1]
    assert entries(sentei.shrink(model, kept, x)) == entries(model) - removed_parameters(
        model, kept
    )
    (plain,) = sentei.find_units(hand.mlp(3, 5, 2), torch.rand(2, 3))
    assert plain.least == 0


def deep(blocks=20):
    """Blocks whose outputs a softmax ties: all but the last are left out for one reason."""
    parts = [nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)) for _ in range(blocks)]
    return nn.Sequential(*parts, nn.Linear(4, 2))


def shown(part, width):
    console = Console(width=width, color_system=None)
    with console.capture() as said:
        console.print(part)
    return said.get()


def test_layers_with_one_reason_are_one_row():
    found = sentei.inventory(deep(), torch.randn(3, 4))
    assert len(found.not_offered) > 20
    text = shown(tables.left_out(found), 100)
    assert "*.* (20)" in text or "*.0 (20)" in text
    assert text.count("ties them together") == 1
    assert len(text.splitlines()) < 8


def test_names_that_differ_in_numbers_are_joined():
    names = ["stem", "blocks.0.fc1", "blocks.0.fc2", "blocks.10.fc1", "head.7"]
    assert tables.patterns(names) == ["stem", "blocks.*.fc* (3)", "head.7"]
    assert tables.patterns([]) == []


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_a_table_of_groups_fits_the_terminal_and_loses_no_number(width):
    model, x = zoo.build("vit")
    found = sentei.inventory(model, x)
    text = shown(tables.offered(found), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for each in found.offered:
        assert f"{found.share(each.parameters):.1%}" in text
        assert (f"{each.parameters:,}" in text) == (width >= 50)
    assert ("computed" in text) == (width >= 80)
    assert f"{found.share(found.removable):.1%}" in text.splitlines()[-1]


# Nothing to prune.

GOES = sentei.ranked("magnitude", sentei.one_at_a_time())


def no_units():
    """A network that offers no units, and data for it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 3))
    return model, (torch.randn(12, 4), torch.arange(12) % 3)


MAKING = {
    "prune": lambda model, probe: sentei.prune(model, [], probe, GOES),
    "while training": lambda model, _: sentei.PruneWhileTraining(model, [], GOES),
    "while training, with a probe": lambda model, probe: sentei.PruneWhileTraining(
        model, [], GOES, probe=probe
    ),
}


@pytest.mark.parametrize("way", MAKING)
def test_no_groups_are_refused_with_the_first_reasons(way):
    model, data = no_units()
    probe = sentei.Probe(model, data)
    with pytest.raises(sentei.GroupError) as caught:
        MAKING[way](model, probe)
    said = str(caught.value)
    assert "`groups` has to hold at least one group" in said
    assert "0.weight: an operation over all of them" in said
    assert "2.weight: they are part of an output" in said
    assert "`sentei.not_offered(model, example)`, or `sentei units`" in said


def test_no_groups_are_refused_with_those_that_there_are():
    model = hand.mlp(4, 6, 5, 3)
    probe = sentei.Probe(model, (torch.rand(6, 4), torch.arange(6) % 3))
    with pytest.raises(sentei.GroupError, match=r"finds 2 groups of units in this network"):
        sentei.prune(model, [], probe, GOES)


def test_no_groups_are_refused_where_nothing_is_known():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3))
    with pytest.raises(sentei.GroupError, match=r"empty\. `sentei\.not_offered"):
        sentei.PruneWhileTraining(model, [], GOES)
    probe = sentei.Probe(Switch(), (torch.rand(6, 3), torch.arange(6) % 2))
    with pytest.raises(sentei.GroupError, match=r"Units: .* `sentei\.not_offered"):
        sentei.prune(probe.model, [], probe, GOES)


class Switch(nn.Module):
    """A network without weights that tracing sees."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x[:, :2] * self.scale


def test_an_empty_mask_is_no_error():
    assert sentei.Mask.full([]).groups == ()
    model = hand.mlp(4, 6, 3)
    small = sentei.shrink(model, sentei.Mask.full([]), torch.rand(2, 4))
    assert small[0].out_features == 6


@pytest.mark.parametrize(
    "words", [["rank"], ["surface"], ["compare"], ["prune", "--units-at-most", "1"]]
)
def test_commands_say_that_nothing_is_offered(words, tmp_path, capsys):
    model, (x, y) = no_units()
    sentei.save(model, tmp_path / "net.safetensors")
    rows = "".join(
        f"{','.join(map(str, row.tolist()))},{'uvw'[c]}\n" for row, c in zip(x, y, strict=True)
    )
    (tmp_path / "data.csv").write_text("a,b,c,d,y\n" + rows * 4)
    data = ["--data", tmp_path / "data.csv"]
    outs = {"prune": tmp_path / "out.safetensors", "surface": tmp_path / "out"}
    out = ["--out", outs[words[0]]] if words[0] in outs else []
    code, said, err = run(
        words[0], tmp_path / "net.safetensors", *words[1:], *data, *out, capsys=capsys
    )
    assert (code, said) == (2, "")
    assert "sentei units" in err
    assert "0.weight: an operation over all of them" in err
    assert not list(tmp_path.glob("out*"))


# The command.


def test_units_of_widths_and_of_a_file(tmp_path, capsys):
    code, said, err = run("units", "4-6-3", capsys=capsys)
    assert (code, err) == (0, "")
    assert "48 of 51 parameters (94.1%) can go" in said
    assert "fc2" in said
    assert "they are part of an output of the network" in said
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    sentei.save(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 2)), path)
    code, said, err = run("units", path, "--shape", 3, 5, 5, "--json", capsys=capsys)
    assert (code, err) == (0, "")
    found = json.loads(said)
    keys = ["parameters", "removable", "share", "groups", "not_offered", "estimates"]
    assert list(found) == keys
    assert [each["work"] for each in found["estimates"]][-1] == "ablation"
    (group,) = found["groups"]
    assert group == {
        "name": "0",
        "kind": "channel",
        "units": 5,
        "least": 1,
        "producers": [{"parameter": "0.weight", "dim": 0}, {"parameter": "0.bias", "dim": 0}],
        "followers": [],
        "listeners": [{"parameter": "3.weight", "dim": 1}],
        "parameters": 4 * (28 + 18),
        "share": 184 / 232,
    }
    assert found["removable"] == 184
    assert found["not_offered"][0]["parameter"] == "3.weight"


def test_units_of_images_need_their_shape(tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    sentei.save(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 2)), path)
    code, said, err = run("units", path, capsys=capsys)
    assert (code, said) == (2, "")
    assert "--shape" in err
    code, said, err = run("units", "cnn-distinctiveness", capsys=capsys)
    assert (code, err) == (0, "")
    assert "conv2" in said


def test_inputs_are_listed_where_asked(capsys):
    for asked in (False, True):
        words = ["--inputs"] if asked else []
        _, said, _ = run("units", "4-6-3", "--json", *words, capsys=capsys)
        kinds = [group["kind"] for group in json.loads(said)["groups"]]
        assert kinds == ["input"] * asked + ["neuron"]


def test_nothing_offered_is_said_and_no_error(capsys):
    code, said, err = run("units", "4-3", capsys=capsys)
    assert (code, err) == (0, "")
    assert "Nothing is offered: none of 15 parameters can go" in said
    assert "part of an output" in said
    code, said, _ = run("units", "4-3", "--json", capsys=capsys)
    assert code == 0
    assert json.loads(said)["groups"] == []
    assert json.loads(said)["removable"] == 0
