"""What becomes of a network after pruning: ONNX of any network, exports, quantisation, and back."""

import dataclasses
import importlib
import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sentei
import zoo
from sentei.card import Card
from sentei.errors import CertificateError, DataError, FileError, StructureError
from sentei.formats import onnx_by_torch

GUIDE = Path(__file__).parents[1] / "docs/guides/after-pruning.md"
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


quiet = pytest.mark.filterwarnings("ignore")


def onnx(path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'sentei[onnx]'")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def names(session):
    return [each.name for each in session.get_inputs()], [e.name for e in session.get_outputs()]


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


# Every network of the zoo, a third of its units cut.

QUICK = ["mlp", "tied", "swiglu", "two_outputs", "beside"]


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else slow(n) for n in zoo.ZOO],
)
def test_a_cut_network_leaves_as_the_uncut_one_would(name, tmp_path):
    net, x = zoo.build(name)
    net.eval()
    groups = sentei.find_units(net, x)
    mask = sentei.Mask.full(groups).without({g: range(0, g.size - 1, 3) for g in groups})
    small = sentei.shrink(net, mask, example=x)
    sentei.export(small, tmp_path / "net.onnx", x)
    session = onnx(tmp_path / "net.onnx")
    with torch.no_grad():
        for given in (x, torch.cat([x, x.flip(0)])[:5], x[:1]):
            want = leaves(small(given))
            found = session.run(None, {session.get_inputs()[0].name: given.numpy()})
            for a, b in zip(want, found, strict=True):
                assert torch.allclose(a, torch.as_tensor(b), atol=1e-4)
        program = exported(small, x)
        for a, b in zip(leaves(small(x)), leaves(program(x)), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def exported(net, x):
    # torch says of its recurrent layers that their flat weights are set anew.
    with pytest.warns() if any(isinstance(m, nn.RNNBase) for m in net.modules()) else nothing():
        return torch.export.export(net, (x,)).module()


class nothing:  # noqa: N801 - a context manager
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


# Inputs, outputs and what decides.


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def body(self, x):
        return self.b(self.a(x).relu())


class Two(Layers):
    def forward(self, left, right, scale=1.0):
        return self.body(left) - self.body(right) * scale, self.a(left)


class Named(Layers):
    def forward(self, x, mask=None):
        return {"x": self.body(x), "wide": [self.a(x)]}


@dataclasses.dataclass
class Found:
    y: Tensor
    count: int
    more: list


class Record(Layers):
    def forward(self, x):
        return Found(self.body(x), 3, [self.a(x), {"k": x + 1}])


class Steps(Layers):
    """Runs with any number of samples; an exporter freezes the loop."""

    def forward(self, x):
        return torch.stack([self.body(row) * (n + 1) for n, row in enumerate(x)])


class Branch(Layers):
    def forward(self, x):
        return self.body(x) if x.sum() > 0 else self.body(-x)


class Three(Layers):
    def forward(self, x):
        return self.body(x).reshape(3, 3)


class Differences(Layers):
    """What the older exporter has no rule for."""

    def forward(self, x):
        return torch.diff(self.body(x))


class Silent(Layers):
    def forward(self, x):
        return None


CALLS = {
    "a tuple": (Two, (X, X + 1), ["left", "right"], ["output_0", "output_1"]),
    "a number": (Two, (X, X + 1, 2.0), ["left", "right"], ["output_0", "output_1"]),
    "keywords": (Two, {"right": X, "left": X + 1}, ["right", "left"], ["output_0", "output_1"]),
    "a dict": (Named, X, ["input"], ["x", "wide_0"]),
    "a shared name": (Named, (X,), ["x"], ["x_out", "wide_0"]),
    "a record": (Record, X, ["input"], ["y", "more_0", "more_1_k"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_and_outputs_keep_their_names(name, tmp_path):
    make, example, inputs, outputs = CALLS[name]
    net = make().eval()
    sentei.export(net, tmp_path / "net.onnx", example)
    session = onnx(tmp_path / "net.onnx")
    assert names(session) == (inputs, outputs)
    assert {each.shape[0] for each in session.get_inputs()} == {"batch"}
    doubled = sentei.nests.resized(example, lambda t: torch.cat([t, 2 * t]))
    want = sentei.nests.tensors(sentei.running.run(net, doubled))
    given = dict(zip(inputs, [t.numpy() for t in sentei.nests.tensors(doubled)]))
    for a, b in zip(want, session.run(None, given), strict=True):
        assert torch.allclose(a, torch.as_tensor(b), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "rows", "said"),
    [
        slow(Steps, 3, "shapes only"),
        (Three, 3, "shapes only"),
        slow(Branch, "batch", "Sizes or values"),
    ],
)
def test_what_a_file_fixes_is_logged(make, rows, said, tmp_path, caplog, capfd):
    with caplog.at_level(logging.WARNING, logger="sentei"):
        sentei.export(make().eval(), tmp_path / "net.onnx", X)
    records = [record for record in caplog.records if record.name == "sentei"]
    assert [said in record.message for record in records] == [True]
    session = onnx(tmp_path / "net.onnx")
    assert session.get_inputs()[0].shape == [rows, 4]
    (found,) = session.run(None, {"input": X.numpy()})
    assert torch.allclose(torch.as_tensor(found), make()(X), atol=1e-5)
    assert capfd.readouterr().out == ""


def test_what_one_exporter_cannot_write_the_other_does(tmp_path, capfd, caplog):
    sentei.export(Differences().eval(), tmp_path / "net.onnx", X)
    session = onnx(tmp_path / "net.onnx")
    (found,) = session.run(None, {"input": X[:2].numpy()})
    assert torch.allclose(torch.as_tensor(found), Differences()(X[:2]), atol=1e-5)
    assert capfd.readouterr().out == ""
    assert not [record for record in caplog.records if record.name == "sentei"]


def test_forward_says_what_the_file_computes(tmp_path):
    sentei.export(Two(), tmp_path / "net.onnx", X, forward=lambda model, x: model.body(x) + 1)
    (found,) = onnx(tmp_path / "net.onnx").run(None, {"input": X.numpy()})
    assert torch.allclose(torch.as_tensor(found), Two().body(X) + 1, atol=1e-5)


def test_dead_members_and_names_of_classes_are_in_the_file(tmp_path):
    net = Two()
    net.sentei_card = Card(classes=("a", "b", "c"))
    dead = sentei.Mask.full(sentei.find_synapses(net)).without({sentei.find_synapses(net)[0]: [0]})
    sentei.export(net, tmp_path / "net.onnx", (X, X), mask=dead)
    session = onnx(tmp_path / "net.onnx")
    feed = {"left": X.numpy(), "right": X.numpy()}
    masked = Two()
    dead.apply_(masked)
    for a, b in zip(masked(X, X), session.run(None, feed), strict=True):
        assert torch.allclose(a, torch.as_tensor(b), atol=1e-5)
    assert not torch.equal(net.a.weight, masked.a.weight)  # the network itself is not masked
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["a", "b", "c"]'


def test_what_cannot_be_written_right_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    not_finite = Two()
    not_finite.a.weight.data[0, 0] = torch.nan
    for error, words, net, example in [
        (StructureError, "no tensor", Silent(), X),
        (StructureError, "layer 'a' has one that is not", not_finite, (X, X)),
        (DataError, "example=", Two(), None),
        (DataError, "must run", Two(), (X, X[:, :2])),
    ]:
        with pytest.raises(error, match=words):
            sentei.export(net, path, example)
    monkeypatch.setattr(onnx_by_torch, "find_spec", lambda name: None)
    with pytest.raises(FileError, match=r"pip install 'sentei\[onnx\]'"):
        sentei.export(Two(), path, (X, X))
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    right = onnx_by_torch._EXPORTERS["by recording a pass"]

    def wrong(job):
        job.network.model.b.weight.data[0, 0] += 0.01
        return right(job)

    monkeypatch.setattr(onnx_by_torch, "_EXPORTERS", {"by mistake": wrong})
    with pytest.raises(CertificateError, match="by mistake: onnxruntime gives 'output_0'"):
        sentei.export(Two(), tmp_path / "net.onnx", (X, X + 1))
    assert not [*tmp_path.iterdir()]


# The guide.

BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@quiet
def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    ran = []
    for block in BLOCKS:
        packages = re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)
        if all(map(importlib.util.find_spec, packages)):
            names.pop("quantised", None)
            exec(block, names)
            ran.append(block)
            small, x = names["small"], names["x"]
            want = small(x)
            if "quantised" in names and "optimizer" not in block:
                assert 0 < float((names["quantised"](x) - want).abs().max()) < 0.1
            if "again" in names:
                assert torch.allclose(names.pop("again").eval()(x), want, atol=1e-6)
            if "compiled" in names:
                found = torch.as_tensor(names.pop("compiled")(x.numpy())[0])
                assert torch.allclose(found, want, atol=1e-4)
    assert len(ran) >= 7
    x, want = names["x"], names["small"](names["x"])
    assert torch.allclose(torch.jit.load("small.torchscript")(x), want, atol=1e-6)
    assert torch.allclose(names["program"].module()(x), want, atol=1e-6)


# And back: what was quantised, exported or scripted cannot be cut.


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def stubbed(prepare, qconfig):
    ao = torch.ao.quantization
    net = nn.Sequential(ao.QuantStub(), *mlp(), ao.DeQuantStub())
    net.train(prepare is ao.prepare_qat)
    net.qconfig = qconfig("x86")
    made = prepare(net)
    made(X)
    return made


def torchao_weights():
    torchao = pytest.importorskip("torchao.quantization", reason="pip install torchao")
    net = mlp()
    torchao.quantize_(net, torchao.Int8WeightOnlyConfig())
    return net


def whole_numbers():
    net = mlp()
    weight = net[0].weight.detach()
    net[0].weight = nn.Parameter((weight * 127).to(torch.int8), requires_grad=False)
    return net


def operators():
    """A graph of operators, as quantisers of exported programs return."""
    program = torch.export.export(mlp(), (X,)).module()
    return torch.fx.GraphModule(program, program.graph)


ao = torch.ao.quantization
FINISHED = {
    "dynamic": (lambda: ao.quantize_dynamic(mlp(), {nn.Linear}), "quantised: a torch.ao"),
    "observed": (lambda: stubbed(ao.prepare, ao.get_default_qconfig), "quantised: a torch.ao"),
    "static": (
        lambda: ao.convert(stubbed(ao.prepare, ao.get_default_qconfig)),
        "quantised: a torch.ao",
    ),
    "while training": (
        lambda: stubbed(ao.prepare_qat, ao.get_default_qat_qconfig),
        "quantised: a torch.ao",
    ),
    "torchao": (torchao_weights, "quantised: its 'weight'"),
    "whole numbers": (whole_numbers, "quantised: its 'weight' holds whole numbers"),
    "exported": (lambda: torch.export.export(mlp(), (X,)).module(), "exported: a torch.export"),
    "unflattened": (
        lambda: torch.export.unflatten(torch.export.export(mlp(), (X,))),
        "exported: a torch.export",
    ),
    "operators": (operators, "exported: a GraphModule"),
    "scripted": (lambda: torch.jit.script(mlp()), "scripted or traced: a torch.jit"),
    "traced": (lambda: torch.jit.trace(mlp(), X), "scripted or traced: a torch.jit"),
    "frozen": (
        lambda: torch.jit.freeze(torch.jit.script(mlp().eval())),
        "scripted or traced: a torch.jit",
    ),
}


@pytest.fixture(scope="module")
def plain():
    net = mlp()
    groups = sentei.find_units(net, X)
    return groups, sentei.Mask.full(groups).without({g: [0] for g in groups}), sentei.Probe(
        net, (X, torch.tensor([0, 1, 2]))
    )  # fmt: skip


def users(plain):
    groups, mask, probe = plain
    way = sentei.ranked("magnitude", sentei.one_shot("50 %"))
    data = (X, torch.tensor([0, 1, 2]))
    return {
        "find_units": lambda net: sentei.find_units(net, X),
        "not_offered": lambda net: sentei.not_offered(net, X),
        "Probe": lambda net: sentei.Probe(net, data),
        "shrink": lambda net: sentei.shrink(net, mask, X),
        "shrink_": lambda net: sentei.shrink_(net, mask, example=X),
        "prune": lambda net: next(sentei.prune(net, groups, probe, way)),
        "PruneWhileTraining": lambda net: sentei.PruneWhileTraining(net, groups, way),
    }


@quiet
@pytest.mark.parametrize("kind", FINISHED)
def test_what_is_finished_is_refused_with_the_order(kind, plain, tmp_path):
    make, what = FINISHED[kind]
    net = make()
    for name, use in users(plain).items():
        with pytest.raises(StructureError, match="prune before you quantise") as error:
            use(net)
        assert what in str(error.value), name
    for write in (sentei.save, lambda n, path: sentei.export(n, f"{path}.onnx", X)):
        if kind != "whole numbers":  # tensors of whole numbers are as good as others in a file
            with pytest.raises(FileError, match=r"prune before you|scripted or traced"):
                write(net, tmp_path / "net")
    assert not [*tmp_path.iterdir()]


@quiet
def test_what_is_in_shards_is_refused_at_every_door(plain, tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    groups, mask, _ = plain
    data, room = (X, torch.tensor([0, 1, 2])), sentei.MemoryBudget("safetensors", "1 KiB")
    doors = {
        **users(plain),
        "find_synapses": sentei.find_synapses,
        "inventory": lambda net: sentei.inventory(net, X),
        "certify": lambda net: sentei.certify(net, mlp(), X),
        "certify, the smaller": lambda net: sentei.certify(mlp(), net, X),
        "tidy": lambda net: sentei.tidy(net, data),
        "search": lambda net: sentei.search(net, data, room, paths=["units"]),
        "Trajectory": sentei.Trajectory,
        "apply_": mask.apply_,
        "hold_": mask.hold_,
        "group_lasso": lambda net: sentei.group_lasso(groups, net),
    }
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        sharded = fully_shard(mlp(), mesh=init_device_mesh("cpu", (1,)))
        for use in doors.values():
            with pytest.raises(StructureError, match="in shards"):
                use(sharded)
    finally:
        torch.distributed.destroy_process_group()


def test_an_exported_program_is_no_network(plain, tmp_path):
    program = torch.export.export(mlp(), (X,))
    for use in users(plain).values():
        with pytest.raises(TypeError, match="prune before you quantise or export"):
            use(program)
    with pytest.raises(TypeError, match="prune before you quantise or export"):
        sentei.save(program, tmp_path / "net")


@quiet
def test_networks_that_may_be_quantised_later_are_cut():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.a, self.b = ao.QuantStub(), nn.Linear(4, 6), nn.Linear(6, 3)
            self.add, self.out = torch.ao.nn.quantized.FloatFunctional(), ao.DeQuantStub()

        def forward(self, x):
            x = self.a(self.into(x)).relu()
            return self.out(self.b(self.add.add(x, x)))

    net = Sum().eval()
    (group,) = sentei.find_units(net, X)
    small = sentei.shrink(net, sentei.Mask.full([group]).without({group: [1, 4]}), X)
    assert small.a.out_features == small.a.weight.shape[0] == 4
