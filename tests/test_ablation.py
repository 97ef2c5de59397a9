"""Exact ablation against its definition: zero the columns, run the model, subtract the losses."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import hand
import zoo
from sentei import CriterionError, Cut, GroupError, Probe, find_synapses, find_units
from sentei.criteria import ablation
from sentei.losses import per_sample
from sentei.network.example import tensors
from sentei.network.units import Neurons
from sentei.probe.engines.chain import Chain
from sentei.probe.engines.gates import Gates
from sentei.probe.engines.whole_passes import WholePasses

ACTIVATIONS = [
    *(nn.Sigmoid, nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Identity),
    *(nn.Softplus, nn.Hardtanh, nn.Mish),
]


def absolute(outputs, targets):
    return (outputs - F.one_hot(targets, outputs.shape[1])).abs().sum(1)


def naive(model, x, y, loss, group):
    """Exact ablation by its definition: one copy of the network with zeroed columns per unit.

    Without a unit of a stream its rows, and the scales and shifts of its norms, are zero too.
    """

    @torch.no_grad()
    def mean(network):
        return per_sample(loss)(tensors(network(x))[0], y).double().mean()

    model = copy.deepcopy(model).eval()
    rises = []
    for unit in range(group.size):
        without = copy.deepcopy(model)
        for part in silenced(group):
            weight = without.get_parameter(part.parameter)
            weight.data.index_fill_(part.dim, part.index[unit], 0)
        rises.append(mean(without) - mean(model))
    return torch.stack(rises)


def silenced(group):
    """Return the parts of a group that are zero where a unit is gone."""
    own = (*group.producers, *group.followers) if group.kind == "stream" else ()
    return (*own, *group.listeners)


def engine(probe, group):
    return type(probe._engines.chosen[group])


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error", absolute])
@pytest.mark.parametrize("widths", [(5, 6, 4), (5, 6, 7, 4), (5, 4, 3, 6, 4)])
def test_multilayer_perceptrons(widths, act, loss):
    model = hand.mlp(*widths, act=act)
    x, y = torch.randn(40, 5), torch.randint(0, 4, (40,))
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model, x = model.to(dtype), x.to(dtype)
        probe = Probe(model, (x, y), loss)
        for group in [hand.inputs(5, "0"), *hand.hidden(model)]:
            got = ablation(probe, group)
            assert (got - naive(model, x, y, loss, group)).abs().max() < bound
            assert engine(probe, group) is Chain


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_networks_of_every_kind(name):
    model, x = zoo.build(name)
    torch.manual_seed(5)
    x = torch.cat([zoo.ZOO[name][1]() for _ in range(4)])
    out = tensors(model.eval()(x))[0]
    if out.ndim == 2:
        y, loss = torch.randint(0, out.shape[1], (len(x),)), "cross_entropy"
    else:
        y, loss = torch.rand_like(out), "half_squared_error"
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    y = y.double() if y.is_floating_point() else y
    probe = Probe(model, (x, y), loss)
    groups = find_units(model, x[:3], inputs=x.is_floating_point())
    assert groups
    for group in groups:
        assert (ablation(probe, group) - naive(model, x, y, loss, group)).abs().max() < 1e-12


def test_the_fast_way_is_taken_only_where_it_is_right():
    fast, general = {}, {}
    for name in ("mlp", "raw_rows", "lenet", "mlp_norm", "residual", "grouped"):
        model, x = zoo.build(name)
        probe = Probe(model, (x, torch.zeros(len(x), dtype=torch.int64)))
        for group in find_units(model, x):
            ablation(probe, group)
            (fast if engine(probe, group) is Chain else general).setdefault(name, []).append(group)
    assert {name: len(groups) for name, groups in fast.items()} == {
        "mlp": 2, "raw_rows": 2, "lenet": 2, "mlp_norm": 1
    }  # fmt: skip
    assert general.keys() == {"lenet", "mlp_norm", "residual", "grouped"}


class InPlaceBranch(nn.Module):
    """A block with `x += branch(x)`: vmap fails if only the branch differs by candidate."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x += self.down(torch.relu(self.up(x)))
        return self.head(x)


def test_what_vmap_cannot_run_goes_one_at_a_time():
    torch.manual_seed(0)
    model = InPlaceBranch().double()
    x, y = torch.randn(30, 5).double(), torch.randint(0, 3, (30,))
    probe = Probe(model, (x, y))
    for group in find_units(model, x[:3]):
        got = ablation(probe, group)
        assert (got - naive(model, x, y, "cross_entropy", group)).abs().max() < 1e-12
    assert probe.one_at_a_time == 13


def test_a_weight_that_is_used_in_two_ways_is_measured():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x))) + torch.einsum(
                "oi,i->o", self.b.weight, self.a.bias
            )

    torch.manual_seed(0)
    model, x, y = Hidden(), torch.randn(9, 4), torch.randint(0, 3, (9,))
    probe, group = Probe(model, (x, y)), hand.group("a", 5, "b")
    want = naive(model, x, y, "cross_entropy", group)
    assert (ablation(probe, group) - want).abs().max() < 1e-6
    assert engine(probe, group) is WholePasses


def test_weights_computed_on_the_way_are_not_taken_for_the_models_own():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
    )  # fmt: skip
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    probe = Probe(model, (x, y))
    group = hand.group("0", 5, "2")
    want = naive(model, x, y, "cross_entropy", group)
    assert (ablation(probe, group) - want).abs().max() < 1e-6
    assert engine(probe, group) is Gates


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_large_activations_do_not_overflow(scale):
    torch.manual_seed(0)
    model = hand.mlp(5, 8, 4, act=nn.ReLU)
    model[2].weight.data.mul_(scale)
    x, y = torch.randn(60, 5) * 3, torch.randint(0, 4, (60,))
    (group,) = hand.hidden(model)
    got, want = ablation(Probe(model, (x, y)), group), naive(model, x, y, "cross_entropy", group)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-6 * scale)


def test_by_hand():
    """2-2-1 with identities: o = x, output 3 o_1 + 5 o_2, target 0, half squared error.

    Samples (1, 0) and (1, 1) put out 3 and 8: (9 + 64) / 2 / 2 = 18.25. Without the first unit
    0 and 5: 25 / 4 = 6.25; without the second 3 and 3: 18 / 4 = 4.5.
    """
    model = hand.mlp(2, 2, 1, act=nn.Identity)
    model[0].weight.data, model[0].bias.data = torch.eye(2), torch.zeros(2)
    model[2].weight.data, model[2].bias.data = torch.tensor([[3.0, 5.0]]), torch.zeros(1)
    data = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.zeros(2, 1)
    rises = ablation(Probe(model, data, "half_squared_error"), hand.hidden(model)[0])
    assert rises.tolist() == pytest.approx([6.25 - 18.25, 4.5 - 18.25])


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 3))
def test_permuting_units_permutes_scores(order, seed):
    torch.manual_seed(seed)
    model = hand.mlp(4, 6, 5, 3, seed=seed)
    data = torch.randn(30, 4), torch.randint(0, 3, (30,))
    first, second = hand.hidden(model)
    other = copy.deepcopy(model)
    other[0].weight.data, other[0].bias.data = (
        model[0].weight[list(order)],
        model[0].bias[list(order)],
    )
    other[2].weight.data = model[2].weight[:, list(order)]
    before, after = Probe(model, data), Probe(other, data)
    assert torch.allclose(ablation(after, first), ablation(before, first)[list(order)], atol=1e-6)
    assert torch.allclose(ablation(after, second), ablation(before, second), atol=1e-6)


def test_a_unit_nobody_hears_scores_zero_and_goes_first():
    model = hand.mlp(4, 6, 3)
    model[2].weight.data[:, 4] = 0
    (group,) = hand.hidden(model)
    x = torch.randn(30, 4)
    rises = ablation(Probe(model, (x, model(x).argmax(1))), group)
    assert rises[4] == 0
    assert (rises != 0).sum() == 5


@pytest.mark.parametrize("widths", [(4, 8, 3), (4, 6, 5, 3)])
def test_iterative_order_is_the_naive_order(widths):
    model = hand.mlp(*widths).double()
    torch.manual_seed(1)
    x, y = torch.randn(50, widths[0]).double(), torch.randint(0, 3, (50,))
    groups = hand.hidden(model)
    orders = []
    for scores in (ablation, lambda probe, group: naive(probe.model, x, y, "cross_entropy", group)):
        network = copy.deepcopy(model)
        probe, order = Probe(network, (x, y)), []
        for _ in range(sum(group.size for group in groups) - 1):
            found = [scores(probe, g).masked_fill(~probe.alive(g), torch.inf) for g in groups]
            at = int(torch.cat(found).argmin())
            which = 0 if at < groups[0].size else 1
            group, unit = groups[which], at - which * groups[0].size
            order.append((group.name, unit))
            for part in group.listeners:
                network.get_parameter(part.parameter).data.index_fill_(
                    part.dim, part.index[unit], 0
                )
            probe.cut_(Cut({group: torch.tensor([unit])}))
        orders.append(order)
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == len(orders[0])


def test_only_the_units_asked_for():
    model = hand.mlp(4, 6, 3)
    (group,) = hand.hidden(model)
    probe = Probe(model, (torch.randn(30, 4), torch.randint(0, 3, (30,))))
    every = probe.losses_without(group)
    assert torch.allclose(probe.losses_without(group, [4, 1]), every[[4, 1]], atol=1e-7)
    assert probe.losses_without(group, []).shape == (0,)
    with pytest.raises(GroupError, match="run from 0 to 5"):
        probe.losses_without(group, [6])
    with pytest.raises(GroupError, match="bool"):
        probe.losses_without(group, torch.ones(6, dtype=torch.bool))


def test_synapses_are_refused():
    model = hand.mlp(4, 6, 3)
    probe = Probe(model, (torch.randn(9, 4), torch.randint(0, 3, (9,))))
    with pytest.raises(CriterionError, match="magnitude"):
        ablation(probe, find_synapses(model)[0])


def test_units_that_own_several_columns():
    """A unit that the same weight reads twice: features concatenated with themselves."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(10, 3)

        def forward(self, x):
            x = torch.tanh(self.a(x))
            return self.b(torch.cat([x, x.square()], 1))

    torch.manual_seed(0)
    model = Twice().double()
    x, y = torch.randn(20, 4).double(), torch.randint(0, 3, (20,))
    (group,) = find_units(model, x[:3])
    assert isinstance(group, Neurons)
    assert group.listeners[0].index.shape == (5, 2)
    probe = Probe(model, (x, y))
    want = naive(model, x, y, "cross_entropy", group)
    assert (ablation(probe, group) - want).abs().max() < 1e-12
    assert engine(probe, group) is Chain
