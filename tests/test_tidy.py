"""Removal of units without any change of the outputs, and the reasons for it."""

import copy

import pytest
import torch
from torch import nn

import hand
import zoo
from sentei import DataError, GroupError, Mask, find_synapses, find_units, tidy
from sentei.network.example import tensors
from sentei.network.surgery.norms import fold_norms_
from sentei.pruning.tidying import examined


def untidy(act=nn.ReLU):
    """Ten units: 1 unread, 2 constant, 3 equals 0, 4 dead on data, 5 twice 6, 7 mixes 8 and 9."""
    model = hand.mlp(6, 10, 4, act=act, seed=4).double()
    x = torch.randn(300, 6).double()
    w, b, out = model[0].weight.data, model[0].bias.data, model[2].weight.data
    out[:, 1] = 0
    w[2], b[2] = 0, 0.7
    w[3], b[3] = w[0], b[0]
    b[4] = -50
    w[5], b[5] = 2 * w[6], 2 * b[6]
    b[8:] += 20  # linear on the data
    w[7], b[7] = w[8] + 0.5 * w[9], b[8] + 0.5 * b[9]
    return model, x, torch.zeros(300).long()


def test_each_for_its_reason():
    model, x, y = untidy()
    before, state = model(x), copy.deepcopy(model.state_dict())
    done = examined(model, (x, y))
    found = {(find.why, find.proven): find.units for find in done.finds}
    assert found["unread", True] == (1,)
    assert found["constant", True] == (2,)
    assert found["repeated", True] == (3,)
    assert found["constant", False] == (4,)
    rest = {unit for find in done.finds if not find.proven for unit in find.units} - {4}
    assert len(rest) == 2
    assert rest & {5, 6}
    assert rest & {7, 8, 9}
    assert (done.network(x) - before).abs().max() < 1e-9
    assert done.difference < 1e-9
    assert done.network[0].out_features == 4
    assert (done.count(proven=True), done.count(proven=False)) == (3, 3)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_what_is_proven_holds_for_every_input():
    model, x, y = untidy()
    small = tidy(model, (x, y), proven=True)
    anywhere = 100 * torch.randn(500, 6).double()
    assert small[0].out_features == 7
    assert (small(anywhere) - model(anywhere)).abs().max() < 1e-9
    everything = tidy(model, (x, y))
    assert (everything(anywhere) - model(anywhere)).abs().max() > 1


def test_a_tidy_network_stays():
    model = hand.mlp(5, 6, 3).double()
    x = 3 * torch.randn(100, 5).double()
    small = tidy(model, (x, torch.zeros(100).long()))
    assert small[0].out_features == 6
    assert torch.equal(small(x), model(x))


def test_a_layer_is_never_emptied():
    model = hand.mlp(4, 3, 2, act=nn.ReLU).double()
    model[2].weight.data.zero_()
    x = torch.rand(20, 4).double()
    assert tidy(model, (x, torch.zeros(20).long()))[0].out_features == 1


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_networks_of_every_kind_stay_the_same(name):
    model, x = zoo.build(name)
    model = model.double().eval()
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        want = tensors(model(x))[0]
        small = tidy(model, (x, torch.zeros(len(want)).long()), proven=True)
        assert torch.allclose(tensors(small(x))[0], want, rtol=1e-8, atol=1e-8)


def normed():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3, affine=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * 16, 5), nn.BatchNorm1d(5),
    ).double()  # fmt: skip
    x = torch.randn(40, 2, 6, 6).double()
    model(x)  # running statistics move away from 0 and 1
    return model.eval(), x


def test_norms_become_part_of_the_layer_before():
    model, x = normed()
    before = model(x)
    folded = copy.deepcopy(model)
    assert fold_norms_(folded, x) == ("1", "4", "8")
    assert (folded(x) - before).abs().max() < 1e-12
    assert not [m for m in folded.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]


def test_norms_that_share_what_they_hear_stay():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + x

    x = torch.randn(4, 1, 5, 5)
    model = Skips()
    model(x)
    want = model.eval()(x)
    assert fold_norms_(model, x) == ()
    assert torch.equal(model(x), want)


def test_no_samples_are_refused():
    with pytest.raises(DataError):
        tidy(hand.mlp(3, 4, 2), (torch.zeros(0, 3), torch.zeros(0).long()))


def half_dead(model):
    """Zero the smaller half of each layer's weights, and return the mask in which they are dead."""
    links = find_synapses(model)
    smaller = {
        group: model.get_parameter(group.parameter).abs().flatten().argsort()[: group.size // 2]
        for group in links
    }
    mask = Mask.full(links).without(smaller)
    mask.apply_(model)
    return mask


def alive_and_zero(model, mask):
    """Count the synapses that are alive and zero, and those that are dead and not zero."""
    weights = {g: model.get_parameter(g.parameter).detach().flatten() for g in mask.groups}
    idle = sum(int((mask.alive(g) & (w == 0)).sum()) for g, w in weights.items())
    return idle, sum(int((~mask.alive(g) & (w != 0)).sum()) for g, w in weights.items())


@pytest.mark.parametrize("norms", [True, False])
def test_dead_synapses_stay_dead_and_are_counted(norms):
    model, x, y = untidy()
    model = nn.Sequential(*model, nn.BatchNorm1d(4)).double().eval()
    mask = half_dead(model)
    before = model(x)
    done = examined(model, (x, y), norms=norms, mask=mask)
    assert done.finds
    assert done.norms == (("3",) if norms else ())
    assert (done.network(x) - before).abs().max() < 1e-9
    assert alive_and_zero(done.network, done.mask) == (0, 0)
    alive = sum(done.mask.count(group) for group in done.mask.groups)
    layers = [done.network[0].weight, done.network[2].weight]
    assert 0 < alive == sum(int(weight.count_nonzero()) for weight in layers)
    done.mask.check(done.network)


def test_a_unit_that_only_a_dead_synapse_could_replace_stays():
    """Unit 1 repeats unit 0, whose synapse to the output is dead: it cannot take unit 1's part."""
    model = hand.mlp(3, 2, 1, act=nn.ReLU).double()
    model[0].weight.data[1], model[0].bias.data[1] = model[0].weight[0], model[0].bias[0]
    mask = Mask.full(find_synapses(model)).without({find_synapses(model)[1]: [0]})
    mask.apply_(model)
    x = torch.rand(50, 3).double() + 1
    model[0].weight.data.abs_()
    data = x, torch.zeros(50).long()
    assert tidy(copy.deepcopy(model), data)[0].out_features == 1  # without a mask: unit 1 moves
    small = tidy(model, data, mask=mask)
    assert (small(x) - model(x)).abs().max() < 1e-9
    done = examined(model, data, mask=mask)
    assert [find.units for find in done.finds] == [(0,)]
    assert done.mask.count(find_synapses(done.network)[1]) == 1


def test_dead_units_of_the_mask_go():
    model, x, y = untidy()
    (group,) = find_units(model, x)
    mask = Mask.full([group]).without({group: [0, 9]})
    kept = copy.deepcopy(model)
    mask.apply_(kept)
    done = examined(model, (x, y), mask=mask)
    assert not {0, 9} & {unit for find in done.finds for unit in find.units}
    assert (done.network(x) - kept(x)).abs().max() < 1e-9
    assert done.network[0].out_features == 10 - 2 - sum(len(find.units) for find in done.finds)
    assert not done.mask.groups


def test_a_mask_of_another_network_is_refused():
    other = hand.mlp(8, 9, 4)
    mask = Mask.full(find_synapses(other)).without({find_synapses(other)[0]: [0]})
    model, x, y = untidy()
    with pytest.raises(GroupError, match="is not this model's"):
        tidy(model, (x, y), mask=mask)
