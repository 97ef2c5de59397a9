"""The papers' tools with a user's own network, loss and data: several inputs, loaders, dicts."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from sentei import (
    FineTune,
    Probe,
    PruneWhileTraining,
    Recipe,
    find_synapses,
    find_units,
    linear,
    prune,
    ranked,
    regrowing,
    tidy,
    train,
    twins,
    when_stalled,
)
from sentei.training import Distillation, evaluate

_random = torch.Generator().manual_seed(3)
A, B = torch.randn(40, 5, generator=_random), torch.randn(40, 3, generator=_random)
Y = torch.stack([A[:, 0] * B[:, 0], A[:, 1] - B[:, 2]], 1)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(5, 12), nn.Linear(3, 12)
        self.mid, self.out = nn.Linear(12, 10), nn.Linear(10, 2)

    def forward(self, a, b):
        return self.out(self.mid((self.a(a) + self.b(b)).tanh()).relu())


def huber(outputs, targets):
    return nn.functional.huber_loss(outputs, targets, reduction="none").mean(1)


class Rows(Dataset):
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return self.form(A[i], B[i], Y[i])


def pair(a, b, y):
    return (a, b), y


def named(a, b, y):
    return {"a": a, "b": b, "labels": y}


DATA = {
    "tensors": pair(A, B, Y),
    "loader": DataLoader(Rows(pair), batch_size=16),
    "loader of dicts": DataLoader(Rows(named), batch_size=16),
    "list of batches": [pair(A[i : i + 16], B[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)],
}


@pytest.fixture(scope="module", params=DATA.values(), ids=DATA.keys())
def data(request):
    return request.param


def update(model, optimizer):
    optimizer.zero_grad()
    huber(model(A, B), Y).mean().backward()
    optimizer.step()


def example(data):
    is_named = isinstance(getattr(data, "dataset", None), Rows) and data.dataset.form is named
    return {"a": A, "b": B} if is_named else (A, B)


def left(mask):
    return {group.name: mask.alive(group).tolist() for group in mask.groups}


def both(data, run):
    """Return what a tool leaves with the data, and with all of it as tensors."""
    return run(data), run(DATA["tensors"])


def test_regrowth(data):
    def run(data):
        model = TwoInputs()
        propose = regrowing("magnitude", linear("50 %", 2), 2)
        steps = list(prune(model, find_synapses(model), Probe(model, data, huber), propose))
        return [left(step.mask) for step in steps]

    found, expected = both(data, run)
    assert found == expected
    assert len(found) == 3


def test_twins(data):
    def run(data):
        model = TwoInputs()
        units = find_units(model, example(data))
        steps = list(prune(model, units, Probe(model, data, huber), twins(degrees=75)))
        return left(steps[-1].mask), sum(steps[-1].mask.count(g) for g in units)

    found, expected = both(data, run)
    assert found == expected
    assert 2 <= found[1] < 22


def test_a_proposal_that_waits(data):
    def run(data):
        model = TwoInputs()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        probe = Probe(model, data, huber)
        propose = when_stalled(ranked("ablation", linear(by=1)), 0.2)
        units = find_units(model, example(data))
        pruner = PruneWhileTraining(model, units, propose, every=2, probe=probe).attach(optimizer)
        for _ in range(10):
            update(model, optimizer)
        pruner.detach()
        return left(pruner.mask), pruner.events

    found, expected = both(data, run)
    assert found == expected
    assert found[1] == 2


def test_tidying(data):
    def run(data):
        model = TwoInputs()
        with torch.no_grad():
            model.mid.weight[4], model.mid.bias[4] = model.mid.weight[1], model.mid.bias[1]
            model.out.weight[:, 7] = 0
        small = tidy(model, data)
        assert torch.allclose(small(A, B), model(A, B), atol=1e-5)
        return small.mid.out_features

    assert both(data, run) == (8, 8)


def test_retraining(data):
    def run(data):
        model = TwoInputs()
        units = find_units(model, example(data))
        recipe = Recipe(2, "sgd", lr=0.05, batch_size=40, loss=huber)
        propose = ranked("magnitude", linear("40 %", 2))
        probe = Probe(model, data, huber)
        *_, last = prune(model, units, probe, propose, retrain=FineTune(data, recipe))
        assert all(not model.out.weight[:, dead].any() for dead in [last.mask.dead(units[1])])
        return left(last.mask), last.measured.loss

    found, expected = both(data, run)
    assert found[0].keys() == expected[0].keys()
    assert found[1] < Probe(TwoInputs(), data, huber).loss()


def test_distillation(data):
    def run(data):
        model, teacher = TwoInputs(), TwoInputs()
        with torch.no_grad():
            teacher.out.weight.mul_(-1)
        learn = Distillation(teacher, weight=1.0, loss=huber)
        train(model, data, Recipe(60, "adam", lr=0.02, loss=huber, distillation=learn))
        return huber(model(A, B), teacher(A, B)).mean().item()

    assert max(both(data, run)) < 0.02 < huber(-TwoInputs()(A, B), TwoInputs()(A, B)).mean()


def test_evaluation(data):
    found, expected = both(data, lambda data: evaluate(TwoInputs(), data, loss=huber))
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)
    assert found.accuracy is None


def test_rewinding_by_a_plain_function(data):
    model = TwoInputs()
    first = copy.deepcopy(model.state_dict())
    seen = []

    def rewind(model, mask):
        model.load_state_dict(first)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        mask.hold_(model, optimizer)
        seen.append(model.mid.weight.detach().clone())
        for _ in range(5):
            update(model, optimizer)
            mask.hold_(model, optimizer)

    (links,) = [g for g in find_synapses(model) if g.name == "mid"]
    propose = ranked("magnitude", linear("40 %", 2))
    steps = list(prune(model, [links], Probe(model, data, huber), propose, retrain=rewind))
    assert [step.mask.count(links) for step in steps] == [120, 84, 48]
    for step, weight in zip(steps[1:], seen, strict=True):
        alive = step.mask.alive(links).view(10, 12)
        assert torch.equal(weight, first["mid.weight"] * alive)  # a winning ticket's own start
    assert not model.mid.weight.flatten()[steps[-1].mask.dead(links)].any()
    assert (model.mid.weight != first["mid.weight"]).any()
