"""N:M patterns of synapses: what stays, what is refused, in `prune` and while training."""

import itertools

import pytest
import torch
from torch import nn

import hand
from sentei import (
    GroupError,
    Mask,
    Probe,
    Progress,
    PruneWhileTraining,
    ScheduleError,
    Synapses,
    find_synapses,
    find_units,
    only,
    pattern,
    pick,
    prune,
    save,
    shrink,
)
from sentei.network.layout import Layout
from sentei.probe.input_moments import layouts_of

NOW = Progress(1, None, 1, 1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ConvTranspose2d(8, 4, 2, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 3),
    )


def data(model):
    x = torch.randn(20, 4, 6, 6)
    return model, (x, torch.arange(20) % 3)


def sets_of(group, weight, groups, m):
    """The sets of m consecutive inputs, by loops over the weight's entries: their positions."""
    places = torch.arange(group.size).view(group.shape)
    columns = group.columns or 0
    inputs = places.movedim(columns, -1)
    width = inputs.shape[-1] // (groups if columns == 0 else 1)
    rows = inputs.reshape(-1, inputs.shape[-1] // width, width).flatten(0, 1)
    return [row[i : i + m].tolist() for row in rows for i in range(0, width, m)]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2)])
@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
def test_the_highest_n_of_every_m_stay(n, m, criterion):
    model, samples = data(network())
    probe, groups = Probe(model, samples), find_synapses(model)
    cut = pattern(n, m, criterion)(probe, groups, Mask.full(groups), NOW)
    assert cut is not None
    for group, layer in zip(groups, (model[0], model[2], model[3], model[5]), strict=True):
        goes = torch.zeros(group.size).bool().index_fill(0, cut.doomed[group], True)
        for places in sets_of(group, layer.weight, getattr(layer, "groups", 1), m):
            score = cut.scores[group][places]
            stays = ~goes[places]
            assert stays.sum() == n
            assert score[stays].min() >= score[~stays].max()


def test_dead_synapses_count_among_those_that_go():
    model = hand.mlp(8, 4, 3)
    groups = find_synapses(model)[:1]
    probe = Probe(model, (torch.randn(9, 8), torch.arange(9) % 3))
    mask = Mask.full(groups).without({groups[0]: [0, 1, 2]})
    cut = pattern(2, 4)(probe, groups, mask, NOW)
    assert cut is not None
    after = mask.without(cut.doomed).alive(groups[0]).view(-1, 4).sum(1)
    assert after.tolist() == [1, *[2] * 7]
    assert not set(cut.doomed[groups[0]].tolist()) & {0, 1, 2}
    assert pattern(2, 4)(probe, groups, mask.without(cut.doomed), NOW) is None


def test_a_run_ends_with_the_pattern_and_resumes(tmp_path):
    model, samples = data(network())
    probe, groups = Probe(model, samples), find_synapses(model)
    steps = list(prune(model, groups, probe, pattern(2, 4, "wanda"), journal=tmp_path / "run"))
    assert [step.number for step in steps] == [0, 1]
    assert steps[-1].measured.synapses == sum(group.size for group in groups) // 2
    for group in groups:
        weight = model.get_parameter(group.parameter)
        assert not weight.flatten()[~steps[-1].mask.alive(group)].any()
    small = shrink(model, steps[-1].mask, example=samples[0])
    assert torch.allclose(small(samples[0]), model(samples[0]), atol=1e-6)
    save(small, tmp_path / "small.safetensors")

    other, _ = data(network())
    again = prune(
        other, find_synapses(other), Probe(other, samples), pattern(2, 4, "wanda"),
        journal=tmp_path / "run", resume=True,
    )  # fmt: skip
    assert [step.mask for step in again] == [step.mask for step in steps]
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters()))


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
def test_the_pattern_holds_while_training(criterion):
    model, (x, y) = data(network())
    groups = find_synapses(model)
    pruner = PruneWhileTraining(model, groups, pattern(2, 4, criterion), every=3, total=9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner.attach(optimizer)
    for _ in range(9):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        pruner.observe(x, y)
        optimizer.step()
    pruner.detach()
    assert pruner.events == 1
    for group, layer in zip(groups, (model[0], model[2], model[3], model[5]), strict=True):
        alive = pruner.mask.alive(group)
        assert not layer.weight.flatten()[~alive].any()
        for places in sets_of(group, layer.weight, getattr(layer, "groups", 1), 4):
            assert alive[places].sum() == 2


class Product(nn.Module):
    """x @ weight: its inputs lie along dimension 0, which only a run shows."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


def test_inputs_are_found_where_no_type_of_layer_tells():
    torch.manual_seed(0)
    model = nn.Sequential(Product(8, 8), nn.Tanh(), Product(8, 3))
    (first, last), x = find_synapses(model), torch.randn(9, 8)
    probe = Probe(model, (x, torch.arange(9) % 3))
    cut = pattern(2, 4)(probe, [first, last], Mask.full([first, last]), NOW)
    assert cut is not None
    for group in (first, last):
        alive = Mask.full([group]).without({group: cut.doomed[group]}).alive(group)
        assert (alive.view(2, 4, -1).sum(1) == 2).all()


def test_what_cannot_have_the_pattern_is_refused_before_any_work():
    model = hand.mlp(6, 8, 3)
    groups, x = find_synapses(model), torch.randn(9, 6)
    probe = Probe(model, (x, torch.arange(9) % 3))
    before = [p.clone() for p in model.parameters()]
    refused = r"multiple of 4; each output of '0' reads 6\. Leave the layer out.*without=\['0'\]"
    with pytest.raises(GroupError, match=refused):
        prune(model, groups, probe, pattern(2, 4))
    with pytest.raises(GroupError, match=refused):
        PruneWhileTraining(model, groups, pattern(2, 4))
    units = find_units(model, x)
    for propose in (pattern(2, 4), only("neuron", pattern(2, 4))):
        with pytest.raises(GroupError, match="removes single synapses; '0' is a group of neurons"):
            prune(model, [*units, *groups], probe, propose)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    dead = Mask.full(units).without({units[0]: [1]})
    with pytest.raises(GroupError, match=r"1 inputs of '2' are dead.*Call shrink first"):
        list(prune(model, pick(groups, without=["0"]), probe, pattern(2, 4), mask=dead))
    for n, m in itertools.product((0, 4, 5), (4,)):
        with pytest.raises(ScheduleError, match="0 < n < m"):
            pattern(n, m)


def test_a_layout_is_the_same_from_the_type_of_a_layer_and_from_its_calls():
    model, samples = data(network())
    with Probe(model, samples).measuring() as recording:
        found = layouts_of(recording)
    for group in find_synapses(model):
        layer = model.get_submodule(group.name)
        assert isinstance(group, Synapses)
        assert group.columns is not None
        assert found[group.parameter] == Layout(
            group.shape, group.columns, getattr(layer, "groups", 1)
        )
