"""What a file cannot carry is refused by name, and what it can carry is not."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import zoo
from sentei.errors import FileError
from sentei.formats import export, load, save
from sentei.network.encoding.carrying import carried
from sentei.network.encoding.size import counts
from sentei.network.mask import Mask

X = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 5), nn.ReLU()), nn.Linear(5, 3)
    )


def times_three(module, inputs, output):
    return output * 3


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class OwnState(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}seen"] = torch.tensor(3)


class Listed(nn.Linear):
    """A layer that is no part of the network, because it stands in a plain list."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.more = [{"layer": nn.Linear(sizes[1], sizes[1])}]

    def forward(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.more[0]["layer"](super().forward(x))


class Loose(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scales = (nn.Parameter(torch.ones(1)),)


class Free(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = torch.ones(1, requires_grad=True)


class Wrapped(torch.Tensor):
    """A tensor whose numbers mean something else."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs)


def other(kind):
    def put(layer):
        made = kind(layer.in_features, layer.out_features)
        made.load_state_dict(layer.state_dict(), strict=False)
        return made

    return put


def changed(change):
    def put(layer):
        change(layer)
        return layer

    return put


def set_weight(make):
    return changed(lambda layer: layer._parameters.update(weight=make(layer.weight)))


def quantised(layer):
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0]


def packed(layer):
    wrong = torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8)
    layer.register_buffer("table", wrong)
    return layer


def exported(layer):
    return torch.export.export(layer, (torch.rand(2, layer.in_features),)).module()


# What is done to a layer, and what the message says of it and of the remedy.
BURDENS = {
    "forward hook": (
        changed(lambda m: m.register_forward_hook(times_three)),
        "times_three",
        "hand",
    ),
    "forward pre-hook": (
        changed(lambda m: m.register_forward_pre_hook(lambda module, inputs: inputs)),
        "forward hook: .*lambda",
        "Remove it",
    ),
    "state hook": (
        changed(lambda m: m.register_state_dict_post_hook(lambda *_: None)),
        "changes its state",
        "Remove it",
    ),
    "state pre-hook": (
        changed(lambda m: m.register_state_dict_pre_hook(lambda *_: None)),
        "changes its state",
        "Remove it",
    ),
    "own forward": (
        changed(lambda m: setattr(m, "forward", torch.sin)),
        "'forward' of its own",
        r"del model.*\.forward",
    ),
    "own method": (
        changed(lambda m: setattr(m, "extra_repr", lambda: "")),
        "'extra_repr' of its own",
        "del model",
    ),
    "extra state": (other(Extra), r"extra state \(get_extra_state\)", "as buffers"),
    "own state": (other(OwnState), r"extra state \(_save_to_state_dict\)", "as buffers"),
    "listed": (other(Listed), "keeps weights or layers in 'more'", "nn.ModuleList"),
    "loose": (other(Loose), "keeps weights or layers in 'scales'", "nn.ParameterList"),
    "free": (other(Free), "keeps weights or layers in 'scale'", "register_buffer"),
    "a tensor on torch's own layer": (
        changed(lambda m: setattr(m, "scale", torch.ones(1))),
        "keeps weights or layers in 'scale'",
        "register_buffer",
    ),
    "parametrization": (
        parametrizations.orthogonal,
        "computes 'weight' by a parametrization",
        r"remove_parametrizations\(model.*, 'weight'\)",
    ),
    "new weight norm": (
        parametrizations.weight_norm,
        "computes 'weight' by a parametrization",
        r"remove_parametrizations\(model.*, 'weight'\)",
    ),
    "old weight norm": (
        nn.utils.weight_norm,
        "computes 'weight' by an old weight norm",
        r"torch.nn.utils.remove_weight_norm\(model.*, 'weight'\)",
    ),
    "old spectral norm": (
        nn.utils.spectral_norm,
        "computes 'weight' by an old spectral norm",
        r"torch.nn.utils.remove_spectral_norm\(model.*, 'weight'\)",
    ),
    "prune": (
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        "computes 'weight' from a mask of torch.nn.utils.prune",
        r"torch.nn.utils.prune.remove\(model.*, 'weight'\)",
    ),
    "quantised": (quantised, r"quantised: a torch\.ao\.nn\.quantized", "floating point"),
    "quantised buffer": (packed, "'table' packed, sparse or quantised", "dequantize"),
    "sparse": (
        set_weight(lambda w: nn.Parameter(w.detach().to_sparse())),
        "'weight' packed, sparse or quantised",
        "to_dense",
    ),
    "tensor subclass": (
        set_weight(lambda w: nn.Parameter(w.detach().as_subclass(Wrapped))),
        "'weight' packed, sparse or quantised",
        "plain tensor",
    ),
    "scripted": (torch.jit.script, r"is a torch\.jit", "that was scripted or traced"),
    "traced": (
        lambda m: torch.jit.trace(m, torch.rand(2, m.in_features)),
        r"is a torch\.jit",
        "that was scripted or traced",
    ),
    "exported": (exported, r"is a torch\.export", "that was exported"),
    "lazy": (
        lambda m: nn.LazyLinear(m.out_features),
        "has no tensor 'weight' yet",
        "Run the network once",
    ),
}
PLACES = ("root", "layer", "nested")


def burdened(what, place):
    """Return a network with the burden, and the name of the module that has it."""
    net, put = network(), BURDENS[what][0]
    if place == "root":
        return put(net[0]), "the network itself"
    if place == "layer":
        net[0] = put(net[0])
        return net, "module '0'"
    net[2][0] = put(net[2][0])
    return net, r"module '2\.0'"


def writers(tmp_path):
    return {
        "save": lambda net: save(net, tmp_path / "net.safetensors"),
        "export safetensors": lambda net: export(net, tmp_path / "net.safetensors"),
        "export c": lambda net: export(net, tmp_path / "net.c", X),
        "export c-int8": lambda net: export(net, tmp_path / "net.c", X, format="c-int8"),
        "export onnx": lambda net: export(net, tmp_path / "net.onnx", X),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", BURDENS)
def test_a_burden_is_refused_by_name_by_everything_that_writes_or_fills(what, place, tmp_path):
    _, thing, remedy = BURDENS[what]
    net, where = burdened(what, place)
    rule = f"(?s)carries parameters and buffers.*{where}.*{thing}.*{remedy}"
    for write in writers(tmp_path).values():
        with pytest.raises(FileError, match=rule):
            write(net)
    assert not list(tmp_path.iterdir())
    save(network() if place != "root" else network()[0], tmp_path / "plain.safetensors")
    with pytest.raises(FileError, match=rule):
        load(tmp_path / "plain.safetensors", into=net)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        ("prune", lambda m: prune.remove(m, "weight")),
        ("old weight norm", lambda m: nn.utils.remove_weight_norm(m, "weight")),
        ("old spectral norm", lambda m: nn.utils.remove_spectral_norm(m, "weight")),
        ("parametrization", lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight")),
    ],
)
def test_the_call_that_a_message_names_helps(what, remedy, tmp_path):
    net, _ = burdened(what, "nested")
    net.eval()
    with torch.no_grad():
        expected = net(X)
    remedy(net.get_submodule("2.0"))
    save(net, tmp_path / "net")
    assert torch.allclose(load(tmp_path / "net")(X), expected, atol=1e-6)


def test_what_has_no_numbers_is_not_written_and_can_be_filled(tmp_path):
    with torch.device("meta"):
        empty = network()
    for write in writers(tmp_path).values():
        with pytest.raises(FileError, match=r"module '0'.*'weight' on the meta device"):
            write(empty)
    assert not list(tmp_path.iterdir())
    full = network()
    save(full, tmp_path / "net")
    assert torch.equal(load(tmp_path / "net", into=empty)(X), full.eval()(X))


# Wrappers.


def compiled(net):
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize(
    "wrap", [compiled, nn.DataParallel, lambda m: compiled(nn.DataParallel(m))]
)
def test_wrappers_around_a_network_are_opened(wrap, tmp_path):
    net = network()
    save(net, tmp_path / "plain")
    save(wrap(net), tmp_path / "wrapped")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "wrapped").read_bytes()
    for name in ("net.c", "net.onnx"):
        export(net, tmp_path / name, X)
        written = (tmp_path / name).read_bytes()
        export(wrap(net), tmp_path / name, X)
        assert (tmp_path / name).read_bytes() == written
    into = network()
    nn.init.zeros_(into[0].weight)
    outside = wrap(into)
    assert load(tmp_path / "plain", into=outside) is outside
    assert torch.equal(into[0].weight, net[0].weight)


@pytest.mark.parametrize(
    ("wrap", "remedy"), [(compiled, r"get_submodule\('2'\)._orig_mod"), (nn.DataParallel, "module")]
)
def test_wrappers_within_a_network_are_refused_by_name(wrap, remedy, tmp_path):
    net = network()
    net[2] = wrap(net[2])
    with pytest.raises(FileError, match=rf"module '2'.*is wrapped: a torch\..*{remedy}"):
        save(net, tmp_path / "net")


def test_a_hook_on_a_wrapper_is_found(tmp_path):
    outside = nn.DataParallel(network())
    outside.register_forward_hook(times_three)
    with pytest.raises(FileError, match="the network itself has a forward hook: times_three"):
        save(outside, tmp_path / "net")
    outside = nn.DataParallel(burdened("forward hook", "layer")[0])
    with pytest.raises(FileError, match=r"module '0'.*times_three"):
        save(outside, tmp_path / "net")


@pytest.fixture
def alone(tmp_path):
    """A process group of one process."""
    from torch import distributed

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")
def test_what_is_distributed(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = network()
    outside = nn.parallel.DistributedDataParallel(net)
    save(net, tmp_path / "plain")
    save(outside, tmp_path / "wrapped")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "wrapped").read_bytes()
    with pytest.raises(FileError, match=r"DistributedDataParallel.*model\.module"):
        load(tmp_path / "plain", into=outside)
    sharded = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
    for write in writers(tmp_path / "none").values():
        with pytest.raises(FileError, match=r"in shards on several devices.*full_state_dict"):
            write(sharded)
    with pytest.raises(FileError, match="in shards on several devices"):
        load(tmp_path / "plain", into=sharded)


# What is no burden.


class Kept(nn.Module):
    """Common habits of modules that need nothing but their class."""

    activation = torch.relu

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.layers = [self.first, self.second]
        self.named = {"first": self.first, "weight": self.first.weight}
        self.table = torch.arange(3.0)
        self.activation = torch.tanh
        self.first.parent = [self]
        self.first._register_load_state_dict_pre_hook(lambda *_: None)
        self.register_buffer("mask", torch.ones(3), persistent=False)

    def forward(self, x):
        self.kept = self.activation(self.first(x))
        return self.second(self.kept) * self.mask + self.table


def test_habits_of_modules_are_no_burdens(tmp_path):
    torch.manual_seed(0)
    net = Kept()
    net(X).sum().backward()
    net.register_full_backward_hook(lambda *_: None)
    net.first.weight.register_post_accumulate_grad_hook(lambda _: None)
    save(net, tmp_path / "net")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "net", into=Kept())(X), net(X))


def test_compilation_in_place_is_no_burden(tmp_path):
    net = network()
    net.compile(backend="eager")
    save(net, tmp_path / "net")
    assert torch.equal(load(tmp_path / "net")(X), network()(X))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_networks_of_the_zoo_are_carried(name, tmp_path):
    model, _ = zoo.build(name)
    assert carried(model) is model
    assert carried(model, reading=True) is model
    save(model, tmp_path / "net")
    assert (tmp_path / "net").stat().st_size == counts(model, Mask.full([])).bytes


def test_a_pruner_that_is_attached_is_no_burden(tmp_path):
    import sentei

    net = network()
    groups = sentei.find_units(net, X)
    pruner = sentei.PruneWhileTraining(
        net, groups, sentei.ranked("magnitude", sentei.linear("50 %")), every=1, total=4, example=X
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        net(X).square().sum().backward()
        optimizer.step()
        save(net, tmp_path / "net")
    assert torch.equal(load(tmp_path / "net")(X), net.eval()(X))


def test_only_modules_are_networks(tmp_path):
    with pytest.raises(TypeError, match=r"nn.Module; got .*OrderedDict"):
        save(network().state_dict(), tmp_path / "net")
