"""Failures that other pruning code does not report, one test each."""

import copy

import pytest
import torch
from torch import nn

from hand import hidden, mlp
from sentei import GroupError, Mask, Probe, fixed, linear, one_shot, prune, ranked
from sentei.network.folding import sweep_
from sentei.network.surgery.surgery import shrink, shrink_
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Listener, Neurons, find_synapses

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
Y = (X[:, 0] > 0).long()


def test_the_output_is_never_offered_and_cannot_be_cut():
    model = mlp(4, 3, 2)
    assert [group.name for group in find_units(model, X)] == ["0"]
    index = torch.arange(2).reshape(2, 1)
    output = Neurons("2", "neuron", 2, (Listener("2", "2.weight", 0, index),))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Exception, match="group '2'"):  # somebody made the group by hand
        shrink_(model, Mask.full([output]).without({output: [0]}), example=X)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_equal_scores_remove_exactly_as_many_as_asked():
    model = mlp(4, 8, 2)
    (units,) = hidden(model)
    for keep in (7, 3, 1):
        steps = list(_pruned(units, keep))
        assert steps[-1].mask.count(units) == keep
        assert steps[-1].mask.dead(units).tolist() == list(range(8 - keep))


def _pruned(units, keep):
    model = mlp(4, 8, 2)
    return prune(
        model, [units], Probe(model, (X, Y)), ranked(fixed(torch.zeros(8)), one_shot(keep))
    )


def test_an_optimizer_that_has_seen_the_old_shapes_goes_on():
    model = mlp(4, 6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    (units,) = hidden(model)
    moments = optimizer.state[model[0].weight]["exp_avg"].clone()
    shrink_(model, Mask.full([units]).without({units: [1, 2]}), optimizer)
    state = optimizer.state[model[0].weight]["exp_avg"]
    assert torch.equal(state, moments[[0, 3, 4, 5]])
    before = model[0].weight.clone()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)  # the old parameters are not what is updated


def test_settings_do_not_leak_from_one_run_to_the_next():
    schedule = linear("50 %", steps=2)
    propose = ranked("magnitude", schedule)
    kept = []
    for _ in range(3):
        model = mlp(4, 8, 2)
        run = prune(model, hidden(model), Probe(model, (X, Y)), propose)
        kept.append([step.measured.units for step in run])
    assert kept == [[8, 6, 4]] * 3


def test_a_unit_that_says_a_constant_takes_it_to_the_bias():
    model = mlp(4, 3, 2).double()
    weights = find_synapses(model)[0]
    (units,) = hidden(model)
    mask = Mask.full([units, weights]).without({weights: [4, 5, 6, 7]})  # unit 1 hears nothing
    mask.apply_(model)
    before = model(X.double())
    swept = sweep_(model, mask, X.double())
    small = shrink(model, swept)
    assert swept.dead(units).tolist() == [1]
    assert torch.allclose(small(X.double()), before, atol=1e-12)


def test_a_layer_that_is_zero_but_alive_is_not_taken_for_dead():
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[2].weight[:, 0] = torch.tensor([1.0, -1.0])  # sums to zero, and matters
        model[0].weight[1] = 0  # zero now, and may learn
    (units,) = hidden(model)
    mask = Mask.full([units, *find_synapses(model)])
    assert sweep_(model, mask, X) == mask
    assert shrink(model, mask)[0].out_features == 3


def test_a_foreign_group_is_refused_by_name():
    model, other = mlp(4, 3, 2), mlp(4, 5, 2)
    with pytest.raises(GroupError, match="is not this model's"):
        Mask.full(hidden(other)).apply_(model)
