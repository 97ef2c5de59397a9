"""The weight-change criteria against values computed by hand."""

import math

import pytest
import torch

from hand import hidden, mlp
from sentei.criteria.change import WeightChange, weight_change
from sentei.criteria.trajectory import Trajectory
from sentei.errors import CriterionError
from sentei.network.units import find_synapses
from sentei.probe.probe import Probe

X, Y = torch.randn(8, 2), torch.arange(8) % 2


@pytest.fixture
def moved():
    """Two units of two weights and a bias: one moves by (+3, -1, +1), one turns by 90 degrees."""
    model = mlp(2, 2, 2).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 0.0]))
    trajectory = Trajectory(model)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, 1.0], [0.0, 2.0]]))
        model[0].bias.copy_(torch.tensor([1.0, 0.0]))
    trajectory()
    return model, Probe(model, (X.double(), Y), trajectory=trajectory), trajectory


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mean_signed", [3 / 3, 1 / 3]),
        ("mean_abs", [5 / 3, 3 / 3]),
        ("l2", [11**0.5, 5**0.5]),
        ("angle", [math.degrees(math.acos(6 / (5 * 18) ** 0.5)), 90.0]),
    ],
)
def test_each_kind_by_hand(moved, kind, expected):
    model, probe, _ = moved
    (units,) = hidden(model)
    assert WeightChange(kind)(probe, units).tolist() == pytest.approx(expected, abs=1e-12)


def test_it_counts_from_the_last_check_the_last_update_or_the_start(moved):
    model, probe, trajectory = moved
    (units,) = hidden(model)
    trajectory.check_()
    assert weight_change(probe, units).tolist() == [0.0, 0.0]
    with torch.no_grad():
        model[0].bias += 3.0
    trajectory()
    for since, expected in (("check", [1.0, 1.0]), ("update", [1.0, 1.0]), ("start", [2.0, 4 / 3])):
        scores = WeightChange(since=since)(probe, units)
        assert scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_single_synapses_score_their_own_change(moved):
    model, probe, _ = moved
    first, _ = find_synapses(model)
    assert weight_change(probe, first).tolist() == [3.0, 1.0, 1.0, 2.0]


def test_without_a_trajectory_it_says_how_to_record_one(moved):
    model, _, _ = moved
    (units,) = hidden(model)
    with pytest.raises(CriterionError, match="Trajectory"):
        weight_change(Probe(model, (X.double(), Y)), units)
    with pytest.raises(ValueError, match="unknown kind 'mean'"):
        WeightChange("mean")
