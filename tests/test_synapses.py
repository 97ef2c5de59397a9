"""Pruning single synapses through `prune`: levels, floors, undo, sweep, regrowth, bad input."""

import copy
import itertools

import pytest
import torch
from torch import nn

import hand
from sentei import (
    BudgetError,
    FineTune,
    GroupError,
    Mask,
    Probe,
    Progress,
    Recipe,
    ScheduleError,
    Synapses,
    Trajectory,
    accuracy_at_least,
    criteria,
    find_synapses,
    find_units,
    levels,
    linear,
    one_at_a_time,
    one_shot,
    only,
    prune,
    ranked,
    regrowing,
    shrink,
    synapses_at_most,
    train,
)
from sentei.network.layers import Select
from sentei.training.train import evaluate


def separable(rows=200):
    """Two classes that inputs 0 and 1 separate; inputs 2 and 3 are noise, input 4 is always 0."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 5, generator=generator)
    inputs[:, 4] = 0
    return inputs, (inputs[:, 0] + inputs[:, 1] > 0).long()


def trained(*widths):
    model = hand.mlp(*widths)
    trajectory = Trajectory(model)
    train(model, separable(), Recipe(30, lr=0.03, batch_size=50), after_update=[trajectory])
    return model, trajectory


def test_wsf_with_levels_a_floor_and_a_sweep_leaves_a_small_readable_network():
    model, trajectory = trained(5, 6, 2)
    data = separable()
    groups = [*find_synapses(model), *find_units(model, data[0], inputs=True)]
    probe = Probe(model, data, trajectory=trajectory)
    tune = FineTune(data, Recipe(2, lr=0.03, batch_size=50), after_update=[trajectory])
    seen = []

    def watched(progress):
        seen.append(progress.undone)
        return levels(25, 50, 70, then=one_at_a_time())(progress)

    propose = only("synapse", ranked("wsf", watched))
    floor = accuracy_at_least(0.95)
    steps = list(prune(model, groups, probe, propose, keeping=floor, retrain=tune))
    assert all((step.measured.accuracy or 0) >= 0.95 for step in steps)
    last = steps[-1]
    assert last.measured.synapses <= 12
    assert seen[-1] > 3  # every level was undone, then single synapses
    # An undo rewound the trajectory too: it counts the updates of the kept steps alone.
    assert trajectory.updates == 30 * 4 + (len(steps) - 1) * 2 * 4
    assert evaluate(model, data).accuracy == last.measured.accuracy

    small = shrink(model, last.mask, example=data[0])
    assert torch.allclose(small(data[0]), model(data[0]), atol=1e-5)
    assert isinstance(small[0], nn.Sequential)
    assert isinstance(small[0][0], Select)
    (inputs,) = [group for group in last.mask.groups if group.kind == "input"]
    kept = last.mask.alive(inputs).nonzero().flatten()
    assert small[0][0].index.tolist() == kept.tolist()
    assert set(kept.tolist()) >= {0, 1}
    assert 4 not in kept.tolist()
    shape = small[0][1].weight.shape
    assert shape[1] == len(kept)
    assert shape[0] < 6
    # Nothing that is left is unread or deaf.
    assert (small[0][1].weight != 0).any(1).all()
    assert (small[0][1].weight != 0).any(0).all()
    assert (small[2].weight != 0).any(0).all()


def test_a_deaf_unit_is_folded_into_the_biases():
    model, _ = trained(5, 3, 2)
    data = separable()
    groups = [*find_synapses(model), *find_units(model, data[0], inputs=True)]
    doomed = torch.tensor([5, 6, 7, 8, 9])  # everything unit 1 hears

    def once(probe, group):
        scores = torch.ones(group.size, dtype=torch.float64)
        if group.name == "0":
            scores[doomed] = 0
        return scores

    propose = only("synapse", ranked(once, one_shot(16)))
    *_, step = prune(model, groups, Probe(model, data), propose, until=synapses_at_most(16))
    hidden = next(group for group in step.mask.groups if group.kind == "neuron")
    assert step.mask.dead(hidden).tolist() == [1]
    masked = copy.deepcopy(model)
    small = shrink(model, step.mask, example=data[0])
    assert small[0].weight.shape == (2, 5)
    assert torch.allclose(small(data[0]), masked(data[0]), atol=1e-6)


def test_regrowing_exchanges_and_settles():
    model, trajectory = trained(5, 6, 2)
    groups, data = find_synapses(model), separable()
    probe = Probe(model, data, trajectory=trajectory)
    tune = FineTune(data, Recipe(1, lr=0.03), after_update=[trajectory])
    propose = regrowing("magnitude", one_shot(14), steps=6, share=0.5)
    steps = list(prune(model, groups, probe, propose, retrain=tune))
    assert len(steps) == 7
    counts = [sum(step.mask.count(group) for group in groups) for step in steps]
    assert counts == [42] + [14] * 6
    returned = [
        sum(int((b.mask.alive(g) & ~a.mask.alive(g)).sum()) for g in groups)
        for a, b in itertools.pairwise(steps)
    ]
    assert returned[0] == 0  # nothing was dead before the first step
    # cosine: 0.25 * (1 + cos(pi t / 6)) * 14 for t = 2 .. 6
    assert returned[1:] == [5, 4, 2, 0, 0]
    again = Probe(steps[-1].network(), data)
    assert again.accuracy() == steps[-1].measured.accuracy


def test_what_grows_back_is_where_the_gradient_is_largest():
    model, _ = trained(5, 6, 2)
    groups, data = find_synapses(model), separable()
    dead = {groups[0]: torch.arange(0, 30, 2)}
    mask = Mask.full(groups).without(dead)
    mask.apply_(model)
    probe = Probe(model, data)
    probe.update_(mask)
    propose = regrowing("magnitude", one_shot(27), steps=2, share=0.4)
    cut = propose(probe, groups, mask, Progress(1, None, 42, 27))
    assert cut is not None
    slopes = criteria.gradient(probe, groups[0])[dead[groups[0]]]
    best = dead[groups[0]][slopes.argsort(descending=True)[:5]].sort().values
    assert torch.equal(cut.regrown[groups[0]], best)
    assert sum(len(positions) for positions in cut.doomed.values()) == 5


def test_bad_input_is_refused_before_anything_changes():
    model, trajectory = trained(5, 6, 2)
    data, groups = separable(), find_synapses(model)
    before = copy.deepcopy(model.state_dict())
    probe = Probe(model, data, trajectory=trajectory)
    with pytest.raises(ScheduleError, match="cannot rise: keep 100 of 42"):
        list(prune(model, groups, probe, regrowing("wsf", linear(100, 3), 3)))
    with pytest.raises(ScheduleError, match="cannot rise: keep 100 of 42"):
        list(prune(model, groups, probe, ranked("wsf", one_shot(100))))
    with pytest.raises(ScheduleError, match="keeps at least one synapse"):
        regrowing("magnitude", one_shot(0), 3)(probe, groups, Mask.full(groups), progress())
    poor = Probe(hand.mlp(5, 6, 2), data)
    with pytest.raises(BudgetError, match="does not hold for the untouched"):
        prune(poor.model, groups, poor, ranked("wsf", one_shot(9)), keeping=accuracy_at_least(1))
    other = Probe(model, data, trajectory=Trajectory(hand.mlp(5, 6, 2)))
    with pytest.raises(GroupError, match="another network's"):
        list(prune(model, groups, other, ranked("wsf", one_at_a_time())))
    nowhere = Synapses("fc9", 12, "fc9.weight", (6, 2))
    with pytest.raises(GroupError, match=r"fc9.*not this model's"):
        prune(model, [nowhere], probe, ranked("wsf", one_at_a_time()))
    with pytest.raises(GroupError, match="units cannot be regrown"):
        regrowing("magnitude", one_shot(3), 3)(
            probe, hand.hidden(model), Mask.full(hand.hidden(model)), progress()
        )
    with pytest.raises(GroupError, match="no group of that kind"):
        list(prune(model, groups, probe, only("channel", ranked("wsf", one_at_a_time()))))
    with pytest.raises(ValueError, match="Did you mean 'synapse'"):
        only("synapses", ranked("wsf", one_at_a_time()))
    for settings in ({"share": 1.5}, {"steps": 0}):
        with pytest.raises(ScheduleError):
            regrowing("magnitude", one_shot(3), **{"steps": 3, **settings})
    with pytest.raises(ValueError, match="Did you mean 'magnitude'"):
        regrowing("magnitud", one_shot(3), 3)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def progress():
    return Progress(1, None, 42, 42)


def test_a_tied_weight_is_one_group_and_stays_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.up.weight = self.down.weight
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            return self.out(torch.tanh(self.up(torch.tanh(self.down(x)))))

    torch.manual_seed(0)
    model, data = Tied(), separable()
    trajectory = Trajectory(model)
    train(model, data, Recipe(3), after_update=[trajectory])
    groups = find_synapses(model)
    assert [group.name for group in groups] == ["down", "out"]
    probe = Probe(model, data, trajectory=trajectory)
    *_, step = prune(model, groups, probe, ranked("wsf", one_shot(20)), until=synapses_at_most(20))
    assert model.up.weight is model.down.weight
    assert int((model.down.weight != 0).sum() + (model.out.weight != 0).sum()) == 20
    small = shrink(model, step.mask, example=data[0])
    assert torch.allclose(small(data[0]), model(data[0]), atol=1e-6)
