"""Networks in files: loading what was saved, refusing bad files, never losing an old file."""

import copy
import functools
import json
import resource
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from hand import hidden, inputs, mlp
from sentei.errors import FileError, GroupError
from sentei.formats import inspect, load, load_mask, save
from sentei.network.encoding.size import counts
from sentei.network.example import tensors
from sentei.network.layers import Select
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import find_synapses
from sentei.running import run

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))

# What describes itself; the others are classes of their own and are loaded `into` a new one.
BUILT_IN = [
    *("mlp", "mlp_norm", "lenet", "conv1d", "grouped", "group_norm", "transposed"),
    *("raw_rows", "raw_images"),
]
OWN = ["tied", "residual", "dense", "vit", "torch_attention", "torch_transformer", "recurrent"]


@functools.cache
def shrunk(name):
    """Shrink a network of the zoo; return it, its mask, an example and the planned sizes."""
    model, x = zoo.build(name)
    groups = [*find_units(model, x, inputs=x.is_floating_point()), *find_synapses(model)]
    doomed = {g: [0, 3] if g.kind == "synapse" else [1] for g in groups if g.size > 3}
    mask = Mask.full(groups).without(doomed)
    return shrink(model, mask, x), mask.shrunk(), x, counts(model, mask)


def outputs(model, x):
    with torch.no_grad():
        return tensors(run(copy.deepcopy(model).eval(), x))


def same(model, other):
    """Whether two networks hold the same tensors under the same names."""
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(t, theirs[k]) and t.dtype == theirs[k].dtype for k, t in mine.items()
    )


@pytest.mark.parametrize("name", BUILT_IN + OWN)
def test_networks_come_back(name, tmp_path):
    small, mask, x, planned = shrunk(name)
    path = tmp_path / "net.safetensors"
    save(small, path, mask)
    assert path.stat().st_size == planned.bytes
    into = zoo.build(name, seed=1)[0]
    parameters = {id(p) for p in into.parameters()}
    loaded = [load(path, into)]
    assert {id(p) for p in into.parameters()} == parameters
    if name in BUILT_IN:
        loaded.append(load(path))
        assert repr(loaded[1]) == repr(small)
    for network in loaded:
        assert same(small, network)
        assert not network.training
        assert all(map(torch.equal, outputs(small, x), outputs(network, x)))
        again = tmp_path / "again.safetensors"
        save(network, again, load_mask(path))
        assert again.read_bytes() == path.read_bytes()
    assert load_mask(path) == mask
    load_mask(path).check(loaded[0])


@pytest.mark.parametrize("name", OWN)
def test_a_class_of_ones_own_needs_into(name, tmp_path):
    path = tmp_path / "net.safetensors"
    save(shrunk(name)[0], path)
    with pytest.raises(FileError, match=r"load\(path, into=model\)"):
        load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types_come_back(dtype, tmp_path):
    model = mlp(4, 3, 2).to(dtype)
    save(model, tmp_path / "net.safetensors")
    assert same(model, load(tmp_path / "net.safetensors"))
    assert same(model, load(tmp_path / "net.safetensors", into=mlp(4, 3, 2, seed=1)))


def test_shared_weights_are_stored_once_and_shared_again(tmp_path):
    path = tmp_path / "net.safetensors"
    layer, act = nn.Linear(4, 4), nn.Tanh()
    model = nn.Sequential(layer, act, layer, act, nn.Linear(4, 2))
    save(model, path)
    assert sorted(load_file(path)) == ["0.bias", "0.weight", "4.bias", "4.weight"]
    loaded = load(path)
    assert loaded[2].weight is loaded[0].weight
    assert torch.equal(loaded(X), model(X))
    tied, _ = zoo.build("tied")
    save(tied, path)
    assert "out.weight" not in load_file(path)
    into, _ = zoo.build("tied", seed=1)
    assert load(path, into).out.weight is into.words.weight
    untied, _ = zoo.build("tied", seed=1)
    untied.out.weight = nn.Parameter(torch.zeros(9, 4))
    assert load(path, untied).out.weight is untied.words.weight
    save(zoo.build("tied")[0], path)
    own = load(path, zoo.build("tied", seed=2)[0])
    own.out.weight = nn.Parameter(own.out.weight.detach() + 1)
    save(own, path)
    with pytest.raises(FileError, match=r"uses one tensor as 'words.weight' and 'out.weight'"):
        load(path, tied)


def test_memory_of_every_kind_is_stored(tmp_path):
    path = tmp_path / "net.safetensors"
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].weight.data = torch.arange(9.0).reshape(3, 3).t()  # not contiguous
    model[0].bias.data = torch.arange(10.0)[2:5]  # a window into more
    model(torch.randn(5, 3))
    save(model, path)
    loaded = load(path)
    assert loaded[0].weight.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert same(model, loaded)
    assert loaded[1].num_batches_tracked.item() == 1


def test_loaded_networks_do_not_depend_on_the_file(tmp_path):
    path = tmp_path / "net.safetensors"
    model = mlp(4, 3, 2)
    save(model, path)
    loaded = load(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert same(model, loaded)


def test_the_same_network_gives_the_same_bytes(tmp_path):
    small, mask, _, _ = shrunk("lenet")
    save(small, tmp_path / "a", mask)
    save(copy.deepcopy(small), tmp_path / "b", mask)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_mask_in_which_all_are_alive_is_not_stored(tmp_path):
    model = mlp(4, 3, 2)
    save(model, tmp_path / "a")
    save(model, tmp_path / "b", Mask.full([*hidden(model), *find_synapses(model)]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_mask(tmp_path / "a") == Mask.full([])


def test_a_masked_network_that_is_not_shrunk_yet(tmp_path):
    model = mlp(4, 5, 2)
    units = hidden(model)[0]
    mask = Mask.full([units]).without({units: [1, 3]})
    mask.apply_(model)
    save(model, tmp_path / "net", mask)
    loaded, again = load(tmp_path / "net"), load_mask(tmp_path / "net")
    assert shrink(loaded, again)[0].weight.shape == (3, 4)
    assert torch.equal(shrink(loaded, again)(X), shrink(model, mask)(X))


def test_a_foreign_mask_is_refused_before_anything_is_written(tmp_path):
    units = hidden(mlp(4, 9, 2))[0]
    with pytest.raises(GroupError, match="not this model's"):
        save(mlp(4, 3, 2), tmp_path / "net", Mask.full([units]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01),
    ],
)
def test_training_goes_on_as_if_nothing_had_been_saved(make, tmp_path):
    model = mlp(4, 6, 5, 2, act=nn.Tanh)
    groups = [inputs(4, "0"), *hidden(model), *find_synapses(model)]
    doomed = {groups[0]: [2], groups[1]: [1, 4], groups[3]: [0, 9, 23], groups[4]: [3]}
    mask = Mask.full(groups).without(doomed)
    small, mask = shrink(model, mask).train(), mask.shrunk()
    y = torch.randn(30, 2)

    def updates(network, optimizer, held, count):
        for _ in range(count):
            optimizer.zero_grad()
            (network(X) - y).square().mean().backward()
            optimizer.step()
            held.hold_(network, optimizer)

    optimizer = make(small.parameters())
    updates(small, optimizer, mask, 5)
    path = tmp_path / "net.safetensors"
    save(small, path, mask)
    fresh = mlp(4, 6, 5, 2, act=nn.Tanh, seed=1)
    for loaded in (load(path), load(path, into=fresh)):
        network, own = copy.deepcopy(small), loaded.train()
        pair = [(network, mask), (own, load_mask(path))]
        for each, held in pair:
            again = make(each.parameters())
            again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            updates(each, again, held, 10)
        assert same(network, own)
        assert not same(network, small)
        dead = ~load_mask(path).living("0.1.weight", own[0][1].weight.shape)
        # From (unit, input) (0, 0), (2, 1) and (5, 3), without units 1 and 4 and input 2.
        assert dead.nonzero().tolist() == [[0, 0], [1, 1], [3, 2]]
        assert own[0][1].weight[dead].count_nonzero() == 0


def test_a_single_layer_with_removed_inputs(tmp_path):
    model = nn.Linear(4, 2)
    small = nn.Sequential(Select(torch.tensor([0, 2])), nn.Linear(2, 2))
    save(small, tmp_path / "net")
    loaded = load(tmp_path / "net", into=model)
    assert torch.equal(loaded(X), small(X))
    assert loaded[1] is model
    assert model.in_features == 2


class Heads(nn.Module):
    """Attention whose forward() reads integer attributes of the module."""

    def __init__(self):
        super().__init__()
        self.heads, self.inner = 3, 12
        self.q, self.k, self.v = (nn.Linear(6, 12) for _ in range(3))
        self.out = nn.Linear(12, 2)

    def forward(self, x):
        shape = (*x.shape[:2], self.heads, 4)
        q, k, v = (f(x).reshape(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], self.inner))


def test_integers_of_ones_own_class_come_back(tmp_path):
    model, x = nn.Sequential(nn.Linear(3, 6), Heads()), torch.randn(5, 4, 3)
    head = next(group for group in find_units(model, x) if group.kind == "head")
    small = shrink(model, Mask.full([head]).without({head: [1]}), x)
    save(small, tmp_path / "net")
    loaded = load(tmp_path / "net", into=nn.Sequential(nn.Linear(3, 6), Heads()))
    assert (loaded[1].heads, loaded[1].inner) == (2, 8)
    assert torch.equal(loaded(x), small(x))


def test_what_requires_no_gradient_stays_as_the_model_has_it(tmp_path):
    save(mlp(4, 2, 2), tmp_path / "net")
    into = mlp(4, 3, 2)
    into[0].weight.requires_grad_(False)
    loaded = load(tmp_path / "net", into)
    assert [p.requires_grad for p in loaded.parameters()] == [False, True, True, True]


# Files and models that do not go together.


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mlp(4, 2, 2), r"'0.weight' has shape \(3, 4\) in the file, \(2, 4\) in the model"),
        (lambda: mlp(4, 3), "the model lacks '2.bias', '2.weight'"),
        (lambda: mlp(4, 3, 2, 2), "the file lacks '4.weight', '4.bias'"),
        (lambda: nn.Sequential(nn.Conv1d(4, 3, 1), nn.Tanh(), nn.Linear(3, 2)), "made smaller"),
        (lambda: nn.MultiheadAttention(4, 2), "the file lacks"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_and_left_alone(make, says, tmp_path):
    save(mlp(4, 3, 2), tmp_path / "net")
    into = make()
    before, words = copy.deepcopy(into.state_dict()), repr(into)
    with pytest.raises(FileError, match=says):
        load(tmp_path / "net", into)
    assert repr(into) == words
    assert all(torch.equal(before[key], value) for key, value in into.state_dict().items())
    assert into.training


def test_a_refusal_after_the_model_would_have_been_wrapped_leaves_it_alone(tmp_path):
    save(nn.Sequential(nn.Sequential(Select(torch.arange(2)), nn.Linear(2, 9))), tmp_path / "net")
    into = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(FileError, match="made smaller"):
        load(tmp_path / "net", into)
    assert isinstance(into[0], nn.Linear)


def edited(path, change, **more):
    """Rewrite the file with `change` applied to its metadata, and with more tensors."""
    held = load_file(path)
    text = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    card = json.loads(text["__metadata__"]["sentei"])
    change(card)
    save_file({**held, **more}, path, {"sentei": json.dumps(card)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format=2), "has format 2, and this sentei reads formats up to 1"),
        (lambda c: c.update(format="1"), "its format is '1'"),
        (lambda c: c.update(format=0), "its format is 0"),
        (lambda c: c.pop("format"), "its format is None"),
        (lambda c: c.update(tied=[]), "'tied' in its metadata"),
        (lambda c: c.update(tied={"a": "b"}), "'tied' in its metadata"),
        (lambda c: c.update(tied={"0.bias": "0.weight"}), "twice"),
        (lambda c: c.update(attributes={"0": {"heads": "3"}}), "'attributes' in its metadata"),
        (lambda c: c.update(mask={"0": {}}), "'mask' in its metadata"),
        (lambda c: c.update(architecture="Linear"), "not described"),
        (lambda c: c["architecture"]["children"][0][1].update(out_features=2**30), "is damaged"),
        (lambda c: c["architecture"]["children"][0][1].update(type="Bilinear"), "unknown layer"),
        (lambda c: c["architecture"]["children"].pop(), "the model lacks '2.bias'"),
        (lambda c: c["architecture"].update(children=[]), "the model lacks"),
    ],
)
def test_a_card_that_cannot_be_is_refused(change, says, tmp_path):
    path = tmp_path / "net.safetensors"
    save(mlp(4, 3, 2), path)
    edited(path, change)
    with pytest.raises(FileError, match=says):
        load(path)


def test_files_that_are_no_networks_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    for data in (b"", b"PK\x03\x04", b"\xff" * 64, b"\x02" + bytes(7) + b"{}x"):
        path.write_bytes(data)
        for read in (load, load_mask, inspect):
            with pytest.raises(FileError, match="cannot be read as a safetensors file"):
                read(path)
    with pytest.raises(FileError, match="No such file"):
        load(tmp_path / "none")
    with pytest.raises(FileError, match="cannot be read"):
        load(tmp_path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(FileError, match="sentei did not write it"):
        load(path)
    save_file({"w": torch.zeros(2)}, path, {"sentei": "[" * 100_000})
    with pytest.raises(FileError, match="is damaged"):
        load(path)


def test_a_header_that_asks_for_more_than_there_is_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    for shape in ([2**40, 2**40], [2**40], [-1], [2**70]):
        header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
        text = json.dumps({"__metadata__": {"sentei": '{"format":1}'}, **header}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
        with pytest.raises(FileError, match="cannot be read"):
            load(path)


def test_a_mask_that_asks_for_more_than_there_is_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save(mlp(4, 3, 2), path)
    entry = {"kind": "neuron", "name": "0", "size": 10**12, "alive": 10**12}
    edited(path, lambda card: card.update(mask=[entry]))
    with pytest.raises(FileError, match=r"net.safetensors.*members where"):
        load_mask(path)


@functools.cache
def sound():
    """Return the bytes of a valid file, and the shapes in it."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    links = find_synapses(model)
    return model, Mask.full(links).without({links[0]: [1, 5]})


def test_damaged_files_load_whole_or_not_at_all(tmp_path):
    model, mask = sound()
    path = tmp_path / "net.safetensors"
    save(model, path, mask)
    sound_content = path.read_bytes()
    shapes = [tuple(t.shape) for t in model.state_dict().values()]
    assert load_mask(path) == mask
    outcomes = Counter()

    def attempt(read):
        try:
            found = read()
        except (FileError, ValueError):
            outcomes["refused"] += 1
            return None
        outcomes["read"] += 1
        return found

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def damaged(data):
        content = bytearray(sound_content)
        if data.draw(st.booleans()):
            head = 8 + int.from_bytes(content[:8], "little")
            for _ in range(data.draw(st.integers(1, 3))):
                content[data.draw(st.integers(0, head - 1))] = data.draw(st.integers(0, 255))
        else:
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        path.write_bytes(content)
        for read in (lambda: load(path), lambda: load(path, into=copy.deepcopy(model))):
            loaded = attempt(read)
            if loaded is not None:
                assert [tuple(t.shape) for t in loaded.state_dict().values()] == shapes
        attempt(lambda: load_mask(path))
        attempt(lambda: inspect(path))

    damaged()
    assert outcomes["refused"] > 100, outcomes


# Writing.


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.safetensors"
    save(mlp(4, 3, 2), path)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))  # the disk is full after 2 KiB
    try:
        with pytest.raises(FileError, match="File too large"):
            save(mlp(4, 300, 2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_in_a_file(tmp_path):
    small, mask, _, planned = shrunk("lenet")
    save(small, tmp_path / "net", mask)
    found = inspect(tmp_path / "net")
    assert found.bytes == planned.bytes
    assert found.format == 1
    assert found.architecture == repr(small)
    assert found.tensors == {k: tuple(t.shape) for k, t in small.state_dict().items()}
    assert found.entries == sum(t.numel() for t in small.state_dict().values())
    assert found.mask == mask
    save(shrunk("vit")[0], tmp_path / "net")
    assert inspect(tmp_path / "net").architecture is None


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (nn.Conv1d(4, 3, 1), {"stride": {}}),
        (nn.Conv1d(4, 3, 1), {"stride": [1, 1]}),
        (nn.Conv1d(4, 3, 1), {"stride": 2**63}),
        (nn.Conv1d(4, 3, 1), {"padding": [0.5]}),
        (nn.Linear(4, 3), {"bias": "yes"}),
        (nn.ReLU(), {"inplace": [True]}),
        (nn.Softmax(-1), {"dim": "last"}),
        (nn.Dropout(0.1), {"inplace": "no"}),
        (nn.GELU(), {"approximate": 3}),
        (nn.LayerNorm(4), {"normalized_shape": ["4"]}),
        (nn.LayerNorm(4), {"eps": "small"}),
        (nn.Upsample(scale_factor=2), {"scale_factor": {"a": 1}}),
        (Select(torch.arange(2)), {"dim": None}),
    ],
)
def test_arguments_of_another_type_are_refused(layer, wrong, tmp_path):
    path = tmp_path / "net.safetensors"
    save(nn.Sequential(layer), path)
    assert load(path)
    edited(path, lambda card: card["architecture"]["children"][0][1].update(wrong))
    with pytest.raises(FileError, match=f"no {type(layer).__name__} has these arguments"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask[0].update(parameter="3.weight"),
        lambda mask: mask[0].update(shape=[4, 3]),
        lambda mask: mask[0].update(parameter="0.bias"),
    ],
)
def test_a_mask_of_other_sizes_is_refused(change, tmp_path):
    path, net = tmp_path / "net.safetensors", mlp(4, 3, 2)
    links = find_synapses(net)
    save(net, path, Mask.full(links).without({links[0]: [1]}))
    assert load_mask(path).dead(links[0]).tolist() == [1]
    edited(path, lambda card: change(card["mask"]))
    with pytest.raises(FileError, match=r"net\.safetensors is damaged"):
        load_mask(path)
