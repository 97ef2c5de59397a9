"""`forward=`: a network is run in the way of the user wherever it is run, and no other one is."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei import DataError, JournalError, Mask, Probe, StructureError
from sentei.formats.c.compiled import Compiled
from sentei.reporting.page.story import of_journal

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 4


class Towers(nn.Module):
    """Two towers of which `forward` needs both; the user prunes one."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
        self.right = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x, y):
        return self.left(x) * self.right(y)


class Detector(nn.Module):
    """As many outputs as values above 0: another number for each input."""

    def __init__(self):
        super().__init__()
        self.body, self.score, self.box = nn.Linear(6, 9), nn.Linear(9, 5), nn.Linear(9, 5)

    def forward(self, x):
        x = F.relu(self.body(x))
        return self.box(x)[self.score(x) > 0]


class Decoder(nn.Module):
    """Keeps what it computed last unless told otherwise, and steps over a list."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.cache = None

    def forward(self, parts, use_cache=True):
        state = torch.zeros(1, self.cell.in_features) if self.cache is None else self.cache
        for part in parts:
            state = torch.tanh(self.embed(part) + self.cell(state))
        self.cache = state if use_cache else None
        return {"logits": self.out(state), "state": state}


class Graph(nn.Module):
    """Nodes and edges: inputs with different numbers of rows."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, nodes, edges):
        spread = torch.zeros(len(nodes), len(nodes)).index_put((edges[0], edges[1]), torch.ones(()))
        return self.last(spread @ F.relu(self.first(nodes)))


@dataclass
class Batch:
    nodes: torch.Tensor
    edges: torch.Tensor


EDGES = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 0, 2]])


def twice(model, x):
    return model.left(x[:, :6]) + model.left(x[:, :6].flip(1))


WAYS = {
    "a part": (Towers, X, lambda m, x: m.left(x), ["left.0"]),
    "several calls": (Towers, X, twice, ["left.0"]),
    "other arguments": (
        *(Towers, {"y": X[:, :5], "x": X}),
        lambda m, e: (m.left(e["x"]), m(**e)),
        ["left.0", "right.0"],
    ),
    "outputs of a fixed number": (
        *(Detector, X),
        lambda m, x: (m.score(F.relu(m.body(x))), m.box(F.relu(m.body(x)))),
        ["body"],
    ),
    "without a cache": (
        *(Decoder, [X[:3], X[3:6]]),
        lambda m, x: m(x, use_cache=False)["logits"],
        ["embed"],
    ),
    "different rows": (Graph, (X[:5], EDGES), lambda m, e: m(*e), ["first"]),
    "an object": (Graph, ([X[:5]], EDGES), lambda m, e: m(Batch(e[0][0], e[1]).nodes, e[1]), None),
}


def made(name):
    kind, example, forward, names = WAYS[name]
    torch.manual_seed(0)
    return kind(), example, forward, names or ["first"]


def leaves(value):
    return [t for t in sentei_tensors(value) if t.is_floating_point()]


def sentei_tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [t for part in parts for t in sentei_tensors(part)]


@pytest.mark.parametrize("name", WAYS)
def test_a_network_run_in_any_way_is_cut_and_computes_the_same(name):
    model, example, forward, names = made(name)
    groups = sentei.find_units(model, example, forward=forward)
    assert [group.name for group in groups] == names
    mask = Mask.full(groups).without({g: [1, 4] for g in groups})
    small = sentei.shrink(model, mask, example, forward=forward)
    masked = copy.deepcopy(model)
    mask.apply_(masked)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    for a, b in zip(leaves(forward(masked, example)), leaves(forward(small, example)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    proof = sentei.certify(masked, small, example, mask=mask, forward=forward)
    assert proof.moved > 0


@pytest.mark.parametrize("name", WAYS)
def test_in_place_the_same_cut_is_made(name):
    model, example, forward, _ = made(name)
    groups = sentei.find_units(model, example, forward=forward)
    mask = Mask.full(groups).without({g: [0] for g in groups})
    small = sentei.shrink(model, mask, example, forward=forward)
    left = sentei.shrink_(model, mask, example=example, forward=forward)
    assert [group.size for group in left.groups] == [group.size - 1 for group in groups]
    for a, b in zip(model.parameters(), small.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_what_the_function_returns_counts_as_an_output():
    model = Decoder()
    whole = sentei.not_offered(model, [X[:2], X[2:4]], forward=lambda m, x: m(x, use_cache=False))
    assert {entry.parameter for entry in whole} >= {"embed.weight", "cell.weight"}
    part = sentei.not_offered(
        model, [X[:2], X[2:4]], forward=lambda m, x: m(x, use_cache=False)["logits"]
    )
    assert {entry.parameter for entry in part} == {"out.weight", "out.bias"} - {"out.bias"}


def test_inputs_are_found_and_removed():
    model, forward = Towers(), lambda m, x: m.left(x)
    found = sentei.find_units(model, X, inputs=True, forward=forward)
    (features,) = [group for group in found if group.kind == "input"]
    assert (features.name, features.size) == ("inputs", 6)
    mask = Mask.full([features]).without({features: [2, 3]})
    small = sentei.shrink(model, mask, X, forward=forward)
    mask.apply_(model)
    assert torch.allclose(model.left(X), small.left(X), atol=1e-6)


def test_a_probe_measures_what_the_function_returns():
    model = Towers()
    probe = Probe(model, (X, Y), forward=lambda m, x: m.left(x) + 1)
    assert probe.loss() == pytest.approx(F.cross_entropy(model.left(X) + 1, Y).item(), rel=1e-5)
    (group,) = sentei.find_units(model, probe.example)
    without = []
    for unit in range(group.size):
        trial = copy.deepcopy(model)
        Mask.full([group]).without({group: [unit]}).apply_(trial)
        without.append(F.cross_entropy(trial.left(X) + 1, Y).item())
    assert torch.allclose(
        probe.losses_without(group), torch.tensor(without, dtype=torch.float64), atol=1e-6
    )
    with torch.no_grad():
        model.left[0].weight += 1
    assert probe.on((X[:5], Y[:5])).loss() == pytest.approx(
        F.cross_entropy(model.left(X[:5]) + 1, Y[:5]).item(), rel=1e-5
    )


@pytest.mark.parametrize("curvature", ["taylor1", "taylor2", "ablation", "obd"])
def test_criteria_are_those_of_the_part_by_itself(curvature):
    model = Towers()
    data = X, Y
    whole = Probe(model, data, forward=lambda m, x: m.left(x))
    part = Probe(model.left, data)
    (group,), (alone,) = sentei.find_units(model, whole.example), sentei.find_units(model.left, X)
    score = sentei.criteria.CRITERIA[curvature]
    assert torch.allclose(score(whole, group), score(part, alone), atol=1e-7)
    (synapses, *_) = sentei.find_synapses(model)
    own = sentei.find_synapses(model.left)[0]
    if curvature == "taylor1":
        assert torch.allclose(score(whole, synapses), score(part, own), atol=1e-7)


def pruned(model, journal=None, *, resume=False, forward=None, keep=4):
    probe = Probe(model, (X, Y), forward=forward or (lambda m, x: m.left(x)))
    groups = sentei.find_units(model, probe.example)
    propose = sentei.ranked("ablation", sentei.one_at_a_time())
    until = sentei.units_at_most(keep)
    return [
        *sentei.prune(model, groups, probe, propose, until=until, journal=journal, resume=resume)
    ]


def test_a_run_prunes_stores_resumes_and_is_no_run_of_another_function(tmp_path):
    torch.manual_seed(0)
    model = Towers()
    start = copy.deepcopy(model)
    steps = pruned(model, tmp_path / "run", keep=6)
    again = pruned(copy.deepcopy(start), tmp_path / "run", resume=True)
    assert [step.number for step in again] == [*range(6)]
    assert torch.equal(
        again[3].mask.dead(again[3].mask.groups[0]), steps[3].mask.dead(steps[3].mask.groups[0])
    )
    with pytest.raises(JournalError, match="forward differ"):
        pruned(copy.deepcopy(start), tmp_path / "run", resume=True, forward=twice)


def test_a_page_measures_nothing_of_a_run_whose_function_it_does_not_have(tmp_path):
    model = Towers()
    pruned(model, tmp_path / "run", keep=7)
    story = of_journal(tmp_path / "run", Towers(), (X, Y))
    assert story.samples is None
    assert any("forward=" in sentence for sentence in story.missing)


def test_pruning_while_training_deletes():
    torch.manual_seed(0)
    model, forward = Towers(), lambda m, x: m.left(x)
    groups = sentei.find_units(model, X, forward=forward)
    propose = sentei.ranked("ablation", sentei.linear("50 %", steps=3))
    pruner = sentei.PruneWhileTraining(
        *(model, groups, propose, 2, 6), delete=True, example=X, forward=forward
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(forward(model, X), Y).backward()
        pruner.observe(X, Y)
        optimizer.step()
    pruner.detach()
    assert model.left[0].out_features == 5
    assert model.right[0].out_features == 8
    assert forward(model, X).shape == (40, 4)


def test_tidy_removes_what_the_part_does_not_need():
    model = Towers()
    with torch.no_grad():
        model.left[2].weight[:, :3] = 0
    forward = lambda m, x: m.left(x)  # noqa: E731
    small = sentei.tidy(model, (X, Y), forward=forward)
    assert small.left[0].out_features == 6
    assert torch.allclose(forward(small, X), forward(model, X), atol=1e-6)


def flat(model, x):
    return model.last(model.flatten(model.act(model.first(x))))


class Chain(nn.Module):
    """Layers that its own `forward` does not run one after another."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.flatten = nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Flatten()
        self.last, self.other = nn.Linear(15, 4), nn.Linear(6, 4)

    def forward(self, x):
        return flat(self, x) + self.other(x[:, 0])


def test_c_and_onnx_hold_the_layers_that_are_run(tmp_path):
    model, x = Chain(), X[:, None]
    (group,) = sentei.find_units(model, x, forward=flat)
    mask = Mask.full([group]).without({group: [1]})
    small = sentei.shrink(model, mask, x, forward=flat)
    want = flat(small, x)
    sentei.export(small, tmp_path / "part.onnx", x, forward=flat)
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'sentei[onnx]'")
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx")
    (got,) = session.run(None, {"input": x.numpy()})
    assert torch.allclose(torch.from_numpy(got), want, atol=1e-5)
    sentei.export(small, tmp_path / "part.c", x, forward=flat)
    assert torch.allclose(Compiled(tmp_path / "part.c")(x), want, atol=1e-5)


@pytest.mark.parametrize(
    ("forward", "what"),
    [
        (lambda m, x: flat(m, 2 * x), "'mul'|'__rmul__'"),
        (lambda m, x: m.last(F.relu(m.first(x)).flatten(1).cumsum(1)), "'cumsum'"),
        (lambda m, x: flat(m, x) + 1, "'add'|'__add__'"),
    ],
)
def test_what_no_layer_computes_is_not_left_out_of_a_file(tmp_path, forward, what):
    with pytest.raises(StructureError, match=f"the network calls ({what}) on what layers"):
        sentei.export(Chain(), tmp_path / "x.c", X[:, None], forward=forward)
    assert not [*tmp_path.iterdir()]
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'sentei[onnx]'")
    model, x = Chain(), X[:, None]
    sentei.export(model, tmp_path / "x.onnx", x, forward=forward)
    (got,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"input": x.numpy()})
    assert torch.allclose(torch.from_numpy(got), forward(model, x), atol=1e-5)


@pytest.mark.parametrize("partly", [False, True])
def test_a_function_that_runs_another_network_is_refused_everywhere(tmp_path, partly):
    model = Towers()
    other = lambda m, x: (m.left[2] if partly else model.left[2])(model.left[0](x))  # noqa: E731
    group = sentei.find_units(model, X, forward=lambda m, x: m.left(x))[0]
    mask = Mask.full([group]).without({group: [0]})
    before = copy.deepcopy(model.state_dict())
    calls = [
        lambda: sentei.find_units(model, X, forward=other),
        lambda: sentei.not_offered(model, X, forward=other),
        lambda: sentei.shrink(model, mask, X, forward=other),
        lambda: sentei.shrink_(model, mask, example=X, forward=other),
        lambda: sentei.certify(model, model, X, mask=mask, forward=other),
        lambda: sentei.tidy(model, (X, Y), forward=other),
        lambda: sentei.export(model, tmp_path / "x.onnx", X, forward=other),
        lambda: Probe(model, (X, Y), forward=other),
        lambda: sentei.PruneWhileTraining(
            model,
            [group],
            sentei.ranked("magnitude", sentei.one_at_a_time()),
            1,
            5,
            delete=True,
            example=X,
            forward=other,
        ),
    ]
    for call in calls:
        with pytest.raises(StructureError, match="must run the network that it is given"):
            call()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_function_that_fails_is_quoted():
    with pytest.raises(DataError, match="has no attribute 'middle'"):
        sentei.find_units(Towers(), X, forward=lambda m, x: m.middle(x))


def test_a_function_that_changes_its_example_changes_a_copy():
    model, kept = Towers(), X.clone()
    sentei.find_units(model, X, forward=lambda m, x: m.left(x.mul_(2)))
    assert torch.equal(X, kept)
