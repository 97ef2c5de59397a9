"""Sizes against counts by hand, shrunk networks and written files."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as library
from torch import nn

import zoo
from hand import hidden, inputs, mlp
from sentei.errors import FileError, GroupError
from sentei.formats import save
from sentei.network.encoding import packing
from sentei.network.encoding.packing import contents, layout, pack, safetensors_bytes, unpack
from sentei.network.encoding.size import Counts, bytes_in, counts, latency, multiply_adds, skeleton
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.units import Synapses, find_synapses


def test_hand_counted_mlp():
    model = mlp(4, 3, 2)
    units, links = hidden(model)[0], find_synapses(model)
    full = Mask.full([inputs(4, "0"), units, *links])
    found = counts(model, full)
    assert (found.units, found.synapses, found.parameters) == (3, 4 * 3 + 3 * 2, 18 + 3 + 2)
    # One hidden unit gone: 4 weights, a bias and 2 weights with it.
    found = counts(model, full.without({units: [1]}))
    assert (found.units, found.synapses, found.parameters) == (2, 4 * 2 + 2 * 2, 12 + 2 + 2)
    # Dead synapses: two of the dead unit's, which are gone already, and one more, which stays as 0.
    found = counts(model, full.without({units: [1], links[0]: [4, 5, 0]}))
    assert (found.units, found.synapses, found.parameters) == (2, 11, 16)
    # An input gone: no unit, but its three synapses.
    found = counts(model, full.without({full.groups[0]: [2]}))
    assert (found.units, found.synapses, found.parameters) == (3, 3 * 3 + 6, 15 + 5)


def test_nothing_is_changed_and_no_memory_asked_for():
    model = mlp(4, 3, 2)
    units = hidden(model)[0]
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    counts(model, Mask.full([units]).without({units: [0]}))
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
    with torch.device("meta"):
        huge = nn.Sequential(nn.Linear(2**20, 2**20), nn.ReLU(), nn.Linear(2**20, 2**20))
    assert counts(huge, Mask.full([])).parameters == 2 * (2**40 + 2**20)


def test_a_skeleton_keeps_shapes_types_and_what_is_shared():
    model, _ = zoo.build("tied")
    model = model.double()
    model.hidden.bias.requires_grad_(False)
    bones = skeleton(model)
    assert all(p.is_meta and p.dtype == torch.float64 for p in bones.parameters())
    assert bones.out.weight is bones.words.weight
    assert not bones.hidden.bias.requires_grad


def test_a_shared_weight_counts_once():
    model, _ = zoo.build("tied")
    found = counts(model, Mask.full([]))
    assert found.parameters == 9 * 4 + 4 * 4 + 4
    tensors, about = contents(model)
    assert list(tensors) == ["words.weight", "hidden.weight", "hidden.bias"]
    assert json.loads(about)["tied"] == {"out.weight": "words.weight"}


def test_a_foreign_mask_is_refused():
    units = hidden(mlp(4, 9, 2))[0]
    with pytest.raises(GroupError, match="not this model's"):
        counts(mlp(4, 3, 2), Mask.full([units]))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_counts_are_those_of_the_shrunk_network_and_its_file(tmp_path_factory, data):
    widths = data.draw(st.lists(st.integers(1, 7), min_size=3, max_size=5))
    model = mlp(*widths)
    groups = [inputs(widths[0], "0"), *hidden(model), *find_synapses(model)]
    doomed = {
        group: data.draw(
            st.lists(st.integers(0, group.size - 1), max_size=group.size - group.least, unique=True)
            if not isinstance(group, Synapses)
            else st.lists(st.integers(0, group.size - 1), unique=True)
        )
        for group in groups
    }
    mask = Mask.full(groups).without(doomed)
    small = shrink(model, mask)
    path = tmp_path_factory.mktemp("plan") / "net.safetensors"
    save(small, path, mask.shrunk())
    left = mask.shrunk()
    assert counts(model, mask) == Counts(
        units=sum(mask.count(g) for g in groups[1 : len(widths) - 1]),
        synapses=sum(left.count(g) for g in left.groups if g.kind == "synapse"),
        parameters=sum(p.numel() for p in small.parameters()),
        bytes=path.stat().st_size,
    )


DTYPES = list(packing._CODES)


LAID_OUT = given(
    shapes=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    ),
    about=st.text(st.characters(codec="utf-8"), max_size=40),
)


def check_layout(shapes, about):
    tensors = {name: torch.zeros(shape).to(dtype) for name, (dtype, shape) in shapes.items()}
    tensors.pop("__metadata__", None)
    theirs = library(tensors, {"sentei": about})
    head, order = layout(tensors, about)
    assert theirs[: len(head)] == head
    assert sorted(order) == sorted(tensors)
    assert safetensors_bytes(tensors, about) == len(theirs)


@settings(max_examples=25, deadline=None)
@LAID_OUT
def test_files_are_laid_out_as_the_library_does(shapes, about):
    check_layout(shapes, about)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@LAID_OUT
def test_files_of_many_kinds_are_laid_out_as_the_library_does(shapes, about):
    check_layout(shapes, about)


def test_names_and_types_that_a_file_cannot_hold():
    model = nn.Linear(2, 2)
    model.register_buffer("wide", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(FileError, match=r"'wide' is torch.complex128"):
        contents(model)
    model = nn.Module()
    model.add_module("sentei", nn.ModuleDict({"mask/0": nn.Linear(1, 1)}))
    with pytest.raises(FileError, match="keeps for itself"):
        contents(model)


def test_formats_by_name():
    model = mlp(4, 3, 2)
    full = Mask.full([])
    assert bytes_in(model, full, "safetensors") == counts(model, full).bytes
    with pytest.raises(ValueError, match=r"Did you mean 'safetensors'\?"):
        bytes_in(model, full, "safetensor")


# Masks in a file.


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_masks_there_and_back(data):
    model = mlp(4, 9, 3, 2)
    groups = [inputs(4, "0"), *hidden(model), *find_synapses(model)]
    positions = {
        g: data.draw(st.lists(st.integers(0, g.size - 1), max_size=g.size, unique=True))
        for g in groups
    }
    mask = Mask.full(groups).without(positions)
    tensors, entries = pack(mask)
    again = unpack(tensors, json.loads(json.dumps(entries)))
    assert again == mask
    assert again.groups == mask.groups
    for group, other in zip(mask.groups, again.groups, strict=True):
        dead = len(positions[group])
        assert mask.count(group) == group.size - dead
        if dead and group.kind != "synapse":
            assert other.listeners == group.listeners
            assert other.producers == group.producers
        if group.kind == "synapse":
            assert (other.parameter, other.shape) == (group.parameter, group.shape)
    masked, other = copy.deepcopy(model), copy.deepcopy(model)
    mask.apply_(masked)
    again.apply_(other)
    assert all(map(torch.equal, masked.parameters(), other.parameters()))


def test_packed_masks_take_a_bit_each():
    model = mlp(4, 9, 2)
    units, links = hidden(model)[0], find_synapses(model)
    mask = Mask.full([units, *links]).without({units: [0], links[1]: [17]})
    bare, entries = pack(mask, places=False)
    assert {name: t.tolist() for name, t in bare.items()} == {
        "0/alive": [0b01111111, 0b10000000],
        "2/alive": [255, 255, 0b10000000],
    }
    assert [entry["alive"] for entry in entries] == [8, 36, 17]
    assert unpack(bare, entries) == mask
    assert len(pack(mask)[0]) == 2 + 3  # the places of weight, bias and listener
    assert pack(Mask.full([units, *links]))[0] == {}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t, e: t.pop("0/alive"), "dead members of neuron group '0' are missing"),
        (lambda t, e: t.update({"0/alive": t["0/alive"][:1]}), "as many bits"),
        (lambda t, e: t.update({"0/alive": t["0/alive"] * 0}), "should be alive; 0 are"),
        (lambda t, e: e[1].update(size=10**15, shape=[10**15]), "members where"),
        (lambda t, e: e[0].update(size=-1), "no count"),
        (lambda t, e: e[0].update(kind="nerve"), "no kind of group"),
        (lambda t, e: e[0].update(name=3), "no name"),
        (lambda t, e: e[0].pop("size"), "size"),
        (lambda t, e: t.pop("0/listeners/0"), "0/listeners/0"),
        (lambda t, e: t["0/listeners/0"].sub_(5), "counted from 0"),
        (lambda t, e: e[1].update(shape=[7, 4]), "do not fill"),
        (lambda t, e: e.append(e[1]), "must differ in name"),
    ],
)
def test_damaged_masks_are_refused(spoil, says):
    model = mlp(4, 9, 2)
    units, links = hidden(model)[0], find_synapses(model)
    tensors, entries = pack(Mask.full([units, *links]).without({units: [0]}))
    spoil(tensors, entries)
    with pytest.raises(FileError, match=says):
        unpack(tensors, entries, most=1000)


# What it costs to run.


class Attends(nn.Module):
    def __init__(self, cross: bool):
        super().__init__()
        self.attention, self.cross = nn.MultiheadAttention(8, 2, batch_first=True), cross

    def forward(self, x, y):
        return self.attention(x, y, y)[0] if self.cross else self.attention(x, x, x)[0]


def image(*shape):
    return torch.zeros(2, *shape)


@pytest.mark.parametrize(
    ("model", "example", "expected"),
    [
        (mlp(4, 3, 2), image(4), 4 * 3 + 3 * 2),
        (nn.Linear(4, 3), image(5, 4), 5 * 4 * 3),
        (nn.Conv2d(3, 8, 3, padding=1), image(3, 6, 6), 8 * 36 * 3 * 9),
        (nn.Conv2d(4, 6, 3, groups=2), image(4, 5, 5), 6 * 9 * 2 * 9),
        (nn.Conv1d(4, 8, 3, groups=4), image(4, 5), 8 * 3 * 3),
        (nn.ConvTranspose2d(4, 6, 2, 2), image(4, 3, 3), 4 * 9 * 6 * 4),
        (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), image(4, 3, 3), 4 * 9 * 3 * 4),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), image(4), 0),
        (nn.Embedding(5, 3), torch.zeros(2, 4, dtype=torch.int64), 0),
        (Attends(False), (image(4, 8), image(4, 8)), 4 * 8 * 24 + 4 * 64),
        (Attends(True), (image(3, 8), image(5, 8)), (3 + 5 + 5) * 64 + 3 * 64),
    ],
    ids=[
        *("mlp", "tokens", "conv", "grouped", "depthwise", "transposed", "transposed_grouped"),
        *("nothing", "embedding", "attention", "cross_attention"),
    ],
)
def test_multiply_adds_by_hand(model, example, expected):
    state = copy.deepcopy(model.state_dict())
    assert multiply_adds(model, example) == expected
    assert model.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_multiply_adds_of_a_weight_used_three_times():
    layer = nn.Linear(4, 4)
    assert multiply_adds(nn.Sequential(layer, layer, layer), image(4)) == 3 * 16


def test_latency_is_a_time_and_leaves_the_network_alone():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    state = copy.deepcopy(model.state_dict())
    passes = []
    model.register_forward_hook(lambda module, *_: passes.append(module.training))
    assert 0 < latency(model, torch.randn(8, 4), repeats=5) < 60
    assert passes == [False] * 8
    assert model.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="at least one pass"):
        latency(model, torch.randn(8, 4), repeats=0)
