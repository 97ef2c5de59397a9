"""Masks: immutable values, and their effect on weights and optimizers."""

import pytest
import torch
from torch import nn

from hand import group, hidden, inputs, mlp
from sentei.errors import GroupError
from sentei.network.mask import Mask
from sentei.network.units import Neurons, Synapses, find_synapses


def test_a_mask_is_a_value():
    one = group("0", 3, "2")
    full = Mask.full([one])
    cut = full.without({one: [1]})
    assert full.alive(one).tolist() == [True, True, True]
    assert cut.alive(one).tolist() == [True, False, True]
    assert (cut.count(one), cut.dead(one).tolist()) == (2, [1])
    assert cut.with_({one: torch.tensor([1])}) == full
    assert cut == full.without({group("0", 3, "2"): torch.tensor([1])})
    assert len({cut, full.without({one: [1]}), full}) == 2
    cut.alive(one).fill_(True)  # a copy: the mask does not change
    assert cut.count(one) == 2


def test_masks_are_equal_if_the_same_members_are_dead():
    one, two = group("0", 3, "2"), group("2", 4, "4")
    assert Mask.full([one]) == Mask.full([one, two]) == Mask.full([])
    assert Mask.full([one, two]).without({one: [0]}) == Mask.full([one]).without({one: [0]})
    assert Mask.full([one]).without({one: [0]}) != Mask.full([one])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([3], "run from 0 to 2; got \\[3\\]"),
        ([-1], "got \\[-1\\]"),
        (torch.tensor([True, False, True]), "nonzero"),
        (torch.tensor([0.5]), "integer positions"),
    ],
)
def test_positions_that_do_not_exist_are_refused(positions, message):
    one = group("0", 3, "2")
    with pytest.raises(GroupError, match=message):
        Mask.full([one]).without({one: positions})


def test_groups_the_mask_does_not_hold_are_refused():
    one = group("0", 3, "2")
    with pytest.raises(GroupError, match="does not hold neuron group '2' of size 4"):
        Mask.full([one]).without({group("2", 4, "4"): [0]})
    with pytest.raises(GroupError, match="pass each group once"):
        Mask.full([one, group("0", 3, "2")])


def test_applying_zeroes_what_listens_and_nothing_else():
    model = mlp(4, 3, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    one, synapses = hidden(model)[0], find_synapses(model)[0]
    Mask.full([one, synapses]).without({one: [1], synapses: [0, 5]}).apply_(model)
    want = before["2.weight"].clone()
    want[:, 1] = 0
    assert torch.equal(model[2].weight, want)
    want = before["0.weight"].clone()
    want[0, 0] = want[1, 1] = 0
    assert torch.equal(model[0].weight, want)
    assert torch.equal(model[0].bias, before["0.bias"])


def test_a_mask_of_another_model_changes_nothing():
    model, other = mlp(4, 3, 2), mlp(4, 5, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    mask = Mask.full(hidden(other)).without({hidden(other)[0]: [0]})
    with pytest.raises(GroupError, match="group '0' is not this model's"):
        mask.apply_(model)
    wrong = Synapses("0", 9, "0.weight", (3, 3))
    with pytest.raises(GroupError, match=r"shape \(3, 3\)"):
        Mask.full([wrong]).apply_(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_dead_unit_takes_its_synapses_along():
    model = mlp(4, 3, 2)
    one = hidden(model)[0]
    first, second = find_synapses(model)
    mask = Mask.full([one, first, second]).without({one: [1], second: [0]})
    assert mask.living("0.weight", (3, 4)).sum(1).tolist() == [4, 0, 4]
    assert mask.living("2.weight", (2, 3)).tolist() == [[False, False, True], [True, False, True]]
    assert mask.living_in_shrunk(second).tolist() == [[False, True], [True, True]]


def test_the_shrunk_networks_mask_keeps_dead_synapses_dead():
    model = mlp(4, 3, 2)
    units, first, second = hidden(model)[0], *find_synapses(model)
    read = inputs(4, "0")
    mask = Mask.full([read, units, first, second])
    mask = mask.without({read: [2], units: [1], first: [0, 5, 11], second: [0]})
    small = mask.shrunk()
    by_name = {(g.kind, g.name): g for g in small.groups}
    assert {key: g.size for key, g in by_name.items()} == {
        ("input", "input"): 3,
        ("neuron", "0.1"): 2,
        ("synapse", "0.1"): 6,
        ("synapse", "2"): 4,
    }
    # Of 0.weight's dead, (0, 0) and (2, 3) lie between alive units; (1, 1) went with unit 1.
    assert small.dead(by_name["synapse", "0.1"]).tolist() == [0, 5]
    assert small.dead(by_name["synapse", "2"]).tolist() == [0]
    shrunk_input = by_name["input", "input"]
    assert isinstance(shrunk_input, Neurons)
    assert [p.parameter for p in shrunk_input.followers] == ["0.0.index"]
    assert [p.parameter for p in shrunk_input.listeners] == ["0.1.weight"]


def test_emptied_groups_leave_the_shrunk_mask():
    one = group("0", 3, "2")
    assert Mask.full([one]).without({one: [0, 1, 2]}).shrunk().groups == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
        lambda p: torch.optim.Adadelta(p, lr=1.0),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_held_weights_and_their_state_stay_zero_for_a_hundred_updates(make):
    model = mlp(4, 3, 2, act=nn.Tanh)
    units, first = hidden(model)[0], find_synapses(model)[0]
    optimizer = make(model.parameters())
    x, y = torch.randn(32, 4), torch.randn(32, 2)

    def update() -> None:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()

    for _ in range(5):  # warm buffers: the silent failure is a dead weight that moves again
        update()
    mask = Mask.full([units, first]).without({units: [1], first: [0, 7]})
    mask.apply_(model)
    mask.hold_(model, optimizer)
    for _ in range(100):
        update()
        mask.hold_(model, optimizer)
    dead = [model[2].weight[:, 1], model[0].weight.flatten()[[0, 7]]]
    assert all(not values.count_nonzero() for values in dead)
    for value in optimizer.state[model[2].weight].values():
        if value.shape == model[2].weight.shape:
            assert not value[:, 1].count_nonzero()
            assert value[:, 0].count_nonzero()


def test_synapses_are_weights_of_layers_that_mix():
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.MultiheadAttention(6, 2)
    )
    found = find_synapses(model)
    assert [(g.name, g.parameter, g.size) for g in found] == [
        ("1", "1.weight", 72),
        ("3", "3.in_proj_weight", 108),
        ("3.out_proj", "3.out_proj.weight", 36),
    ]
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [g.name for g in find_synapses(tied)] == ["0"]
