"""Distinctiveness: which units are paired, and how cutting pairs changes the outputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hand
from sentei import Mask, Probe, Progress, find_units, prune, twins
from sentei.criteria import angles
from sentei.pruning.rules.twins import pairs


def at(*degrees):
    """Angles between vectors in a plane."""
    d = torch.tensor(degrees, dtype=torch.float64)
    apart = (d[:, None] - d).abs() % 360
    return torch.minimum(apart, 360 - apart)


def test_best_first_takes_the_nearest_pair_and_leaves_one_of_each():
    # 0 and 10 are alike, 4 is nearer to 0; 181 is opposite of all three
    found = pairs(at(0, 10, 4, 181), 15)
    assert found.alike == ((2, 0), (1, 0))
    assert found.opposite == ((3, 0),)
    assert found.gone == [1, 2, 3]
    assert found.partners(4) == (-1, 0, 0, 0)


def test_the_papers_order_goes_by_rows_and_may_remove_both():
    assert pairs(at(0, 180, 90), 15, "paper", both=True).gone == [0, 1]
    assert pairs(at(0, 180, 90), 15, "paper").gone == [1]
    # 0 meets 180 before it meets its twin 5, which then stays alone
    assert pairs(at(0, 180, 5), 15, "paper", both=True).gone == [0, 1]
    assert pairs(at(0, 180, 5), 15, "best_first", both=True).gone == [0, 1, 2]


def test_no_direction_no_pair():
    found = at(0, 0, 0)
    found[1], found[:, 1] = math.nan, math.nan
    assert pairs(found, 15).gone == [2]


@settings(max_examples=60, deadline=None)
@given(
    directions=st.lists(st.floats(0, 360), min_size=1, max_size=12),
    degrees=st.floats(0, 90),
    order=st.sampled_from(["best_first", "paper"]),
)
def test_no_pair_is_left_and_somebody_is(directions, degrees, order):
    found = at(*directions)
    gone = pairs(found, degrees, order).gone
    stay = [unit for unit in range(len(directions)) if unit not in gone]
    assert stay
    left = found[stay][:, stay]
    off = left[~torch.eye(len(stay), dtype=torch.bool)]
    assert not ((off < degrees) | (off > 180 - degrees)).any()


@pytest.mark.parametrize("wrong", [-1, 90.5, math.nan])
def test_thresholds_are_angles(wrong):
    with pytest.raises(ValueError, match="from 0 to 90 degrees"):
        twins(wrong)


def test_names_are_checked_at_once():
    with pytest.raises(ValueError, match="Did you mean 'paper'"):
        twins(order="papper")
    with pytest.raises(ValueError, match="Did you mean 'half'"):
        twins(centre="halv")
    with pytest.raises(ValueError, match="Did you mean 'twin'"):
        twins(repair="twins")


def said_the_same():
    """Sigmoid units: 1 and 4 repeat 0, 2 is the opposite of 3, 5 is constant, others are unique."""
    model = hand.mlp(6, 9, 3, seed=5).double()
    x = 3 * torch.randn(300, 6).double()
    with torch.no_grad():
        for unit, of, sign in ((1, 0, 1), (4, 0, 1), (3, 2, -1), (5, 5, 0)):
            model[0].weight[unit] = sign * model[0].weight[of]
            model[0].bias[unit] = (sign or 1) * model[0].bias[of]
    return model, x, torch.randint(0, 3, (300,))


@pytest.mark.parametrize("order", ["best_first", "paper"])
def test_units_that_say_the_same_go_without_a_trace(order, caplog):
    caplog.set_level("INFO", logger="sentei")
    model, x, y = said_the_same()
    before = model(x).detach()
    groups = hand.hidden(model)
    _, *steps = prune(model, groups, Probe(model, (x, y)), twins(2, order=order))
    assert [step.removed[groups[0]].tolist() for step in steps] == [[1, 3, 4, 5]]
    assert (model(x) - before).abs().max() < 1e-12
    assert "of 9 units 1 are constant, 2 alike and 1 opposite within 2 degrees" in caplog.text


def test_dead_relus_are_constant_not_twins(caplog):
    caplog.set_level("INFO", logger="sentei")
    model = hand.mlp(4, 6, 3, act=nn.ReLU).double()
    x, y = torch.randn(200, 4).double(), torch.randint(0, 3, (200,))
    with torch.no_grad():
        model[0].bias[[1, 2]] = -100
    groups = hand.hidden(model)
    *_, last = prune(model, groups, Probe(model, (x, y)), twins(0))
    assert last.removed[groups[0]].tolist() == [1, 2]
    assert "2 are constant, 0 alike" in caplog.text


def test_a_group_that_says_nothing_keeps_one(caplog):
    model = hand.mlp(4, 6, 3, act=nn.ReLU).double()
    x, y = torch.randn(50, 4).double(), torch.randint(0, 3, (50,))
    with torch.no_grad():
        model[0].bias -= 100
    probe, groups = Probe(model, (x, y)), hand.hidden(model)
    cut = twins()(probe, groups, Mask.full(groups), Progress(1, None, 6, 6))
    assert len(cut.doomed[groups[0]]) == 5
    assert "are constant; one unit stays" in caplog.text


def test_angles_are_those_of_the_vectors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))
    x = torch.rand(30, 1, 6, 6)
    nn.init.constant_(model[0].bias, 0.3)
    (group,) = find_units(model, x)
    probe = Probe(model, (x, torch.zeros(30).long()))
    with torch.no_grad():
        o = model[:2](x).double().movedim(1, 0).flatten(1)
    for centre, vectors in (
        ("half", o - 0.5),
        ("none", o),
        ("mean", o - o.mean(1, keepdim=True)),
        ("minmax", o - (o.amin(1) + o.amax(1))[:, None] / 2),
    ):
        cosines = torch.nn.functional.normalize(vectors, dim=1)
        want = (cosines @ cosines.T).clamp(-1, 1).acos().rad2deg().fill_diagonal_(0)
        found = angles(probe, group, centre, precise=True)
        assert torch.allclose(found, want, atol=1e-4, equal_nan=False)
