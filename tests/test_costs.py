"""Budgets in multiply-adds and in measured latency: of the network as it would be shrunk."""

import logging

import pytest
import torch
from torch import nn

import sentei
from hand import hidden, mlp
from runs import X, Y
from sentei import (
    BudgetError,
    Mask,
    Probe,
    PruneWhileTraining,
    UnreachableError,
    any_of,
    find_synapses,
    find_units,
    latency_at_most,
    linear,
    multiply_adds_at_most,
    one_at_a_time,
    prune,
    ranked,
    units_at_most,
)
from sentei.network.encoding.size import latencies, multiply_adds
from sentei.pruning import measuring
from sentei.pruning.measuring import Outline

PROPOSE = ranked("magnitude", one_at_a_time())


class Attending(nn.Module):
    """Heads and a residual stream, with positions that cost by their number."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.down(self.up(x).relu())


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


NETWORKS = {
    "mlp": (lambda: mlp(4, 6, 5, 2), (3, 4)),
    "convolutions": (convolutional, (2, 3, 5, 5)),
    "attention": (Attending, (2, 7, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_those_of_the_network_that_shrink_returns(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(shape)
    groups = find_units(model, x, inputs=name == "mlp")
    outline = Outline(model, x)
    mask = Mask.full(groups)
    counted = {outline.cost.after(outline.network, mask)}
    assert counted == {multiply_adds(model, x)}
    for part in (4, 2):
        mask = mask.without({g: range(g.size // part) for g in groups})
        found = outline.cost.after(outline.network, mask)
        assert found == multiply_adds(sentei.shrink(model, mask, x), x)
        assert 0 < found < min(counted)
        counted.add(found)


def test_a_budget_in_multiply_adds_ends_the_run_where_it_is_met():
    model = mlp(4, 10, 2)  # 10 * (4 + 2) = 60
    probe = Probe(model, (X, Y))
    steps = list(prune(model, hidden(model), probe, PROPOSE, until=multiply_adds_at_most("50 %")))
    assert [step.measured.multiply_adds for step in steps] == [60, 54, 48, 42, 36, 30]
    *_, last = prune(model, hidden(model), probe, PROPOSE, until=multiply_adds_at_most(13))
    assert last.measured.multiply_adds == 12


def test_dead_synapses_are_multiplied():
    model = mlp(4, 10, 2)
    propose = ranked("magnitude", linear("50 %", steps=1))
    *_, last = prune(model, find_synapses(model), Probe(model, (X, Y)), propose)
    assert (last.measured.synapses, last.measured.multiply_adds) == (30, 60)


def test_budgets_that_no_network_meets_say_what_the_smallest_one_needs():
    model = mlp(4, 10, 2)
    fixed = nn.Sequential(model, nn.Linear(2, 2))
    probe, groups = Probe(fixed, (X, Y)), find_units(fixed, X)[:1]
    with pytest.raises(UnreachableError, match=r"still has .*; 4 multiply-adds\."):
        prune(fixed, groups, probe, PROPOSE, until=multiply_adds_at_most(3))
    with pytest.raises(BudgetError, match="more than the network has: 64 multiply-adds"):
        prune(fixed, groups, probe, PROPOSE, until=multiply_adds_at_most(65))


@pytest.fixture
def clock(monkeypatch):
    """Passes that take a microsecond for each parameter, and how they were timed."""
    timed = []

    def by_size(models, example):
        assert example.shape == (1, 4)
        assert not any(model.training for model in models)
        timed.append(torch.get_num_threads())
        return [1e-6 * sum(p.numel() for p in model.parameters()) for model in models]

    monkeypatch.setattr(measuring, "latencies", by_size)
    return timed


@pytest.mark.parametrize(
    ("longest", "units"), [("58 us", 8), (57e-6, 7), ("75 %", 7), ("0.0511 ms", 7)]
)
def test_latency_is_that_of_the_shrunk_network(clock, longest, units, caplog):
    model = mlp(4, 10, 2)  # 10 * (4 + 1 + 2) + 2 = 72 parameters
    with caplog.at_level(logging.INFO, "sentei"):
        *_, last = prune(model, hidden(model), Probe(model, (X, Y)), PROPOSE,
                         until=latency_at_most(longest, threads=2))  # fmt: skip
    assert last.measured.units == units
    assert set(clock) == {2}
    assert torch.get_num_threads() == 1
    assert len(clock) == 2 + 10 - units  # the smallest network, and once each step
    small = f"{1e-3 * (7 * units + 2):.4g}"
    assert (
        f"takes {small} ms when shrunk; at full size, in the same moment, 0.072 ms" in caplog.text
    )


def test_a_latency_below_that_of_the_smallest_network_is_refused(clock):
    model = mlp(4, 10, 2)
    message = r"latency_at_most\('8 us', threads=1\) .* 0\.009 ms for one sample \(0\.072 ms"
    with pytest.raises(UnreachableError, match=message):
        prune(model, hidden(model), Probe(model, (X, Y)), PROPOSE, until=latency_at_most("8 us"))
    assert clock == [1]


def test_passes_of_several_networks_take_turns():
    order = []

    class Noting(nn.Linear):
        def forward(self, input):
            assert not self.training
            order.append(self.out_features)
            return super().forward(input)

    models = [Noting(2, 1).train(), Noting(2, 3).train()]
    found = latencies(models, torch.rand(1, 2), repeats=2)
    assert order == [1, 3] * 5
    assert all(model.training for model in models)
    assert len(found) == 2
    assert min(found) > 0


def test_a_network_that_has_become_smaller_is_not_taken_for_the_one_before():
    model = mlp(4, 6, 2)
    (group,) = hidden(model)
    before = measuring.measure(model, Mask.full([group]), Probe(model, (X, Y)))
    assert before.units == 6
    sentei.shrink_(model, Mask.full([group]).without({group: [0]}), example=X)
    for measured in (lambda: before.multiply_adds, before.latency):
        with pytest.raises(ValueError, match="has become smaller since this was measured"):
            measured()


def test_budgets_in_multiply_adds_work_inside_a_training_loop_that_deletes():
    model = mlp(4, 10, 2)
    until = any_of(units_at_most(1), multiply_adds_at_most("50 %"))
    pruner = PruneWhileTraining(model, hidden(model), PROPOSE, every=1, until=until, delete=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for _ in range(7):
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert pruner.reached
    assert multiply_adds(model, X) == 30
