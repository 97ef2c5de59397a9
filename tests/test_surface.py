"""Error surfaces against one pass for each point, and against known values at gains 0 and 1."""

import copy

import pytest
import torch
from torch import nn

import hand
import zoo
from sentei import CriterionError, GroupError, Probe, find_synapses, find_units, surface
from sentei.criteria import ablation, approximations, taylor1, taylor2
from sentei.losses import per_sample

GAINS = torch.tensor([0.0, 0.5, 1.0, 1.25, 3.0, 10.0, -2.0])


def naive(model, x, y, loss, group, unit, gains):
    """Compute each point by its definition: multiply the unit's columns and run the network."""
    found = []
    for gain in gains.flatten():
        louder = copy.deepcopy(model).eval()
        with torch.no_grad():
            for part in group.listeners:
                weight = louder.get_parameter(part.parameter)
                columns = weight.index_select(part.dim, part.index[unit])
                weight.index_copy_(part.dim, part.index[unit], columns * gain)
            found.append(per_sample(loss)(louder(x), y).mean())
    return torch.stack(found).view(gains.shape)


@pytest.mark.parametrize("loss", ["half_squared_error", "binary_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("widths", [(5, 6, 4), (5, 6, 7, 4)])
def test_one_pass_for_each_point_says_the_same(widths, loss):
    torch.manual_seed(0)
    model, x, y = hand.mlp(*widths).double(), torch.randn(30, 5).double(), torch.arange(30) % 4
    probe = Probe(model, (x, y), loss)
    for group in [hand.inputs(5, "0"), *hand.hidden(model)]:
        for unit in (0, 4):
            found = surface(probe, group, unit, GAINS)
            assert (found - naive(model, x, y, loss, group, unit, GAINS)).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["lenet", "residual", "residual_inplace", "vit"])
def test_networks_of_other_kinds(name):
    model, x = zoo.build(name)
    model, x = model.eval().double(), x.double()
    y = torch.zeros(len(x), dtype=torch.int64)
    probe = Probe(model, (x, y))
    for group in (g for g in find_units(model, x[:3]) if g.kind != "stream"):
        found = surface(probe, group, group.size - 1, GAINS)
        wanted = naive(model, x, y, "cross_entropy", group, group.size - 1, GAINS)
        assert (found - wanted).abs().max() < 1e-11


def test_many_units_and_shapes():
    model, x, y = hand.mlp(5, 6, 4), torch.randn(30, 5), torch.arange(30) % 4
    (group,), probe = hand.hidden(model), Probe(model, (x, y))
    grid = torch.linspace(0, 10, 101).view(1, 101)
    found = surface(probe, group, [4, 1], grid)
    assert found.shape == (2, 1, 101)
    assert found.dtype == torch.float64
    assert torch.equal(found[1], surface(probe, group, 1, grid))
    assert surface(probe, group, 1, [1.0]).tolist() == pytest.approx([probe.loss()])
    gone = surface(probe, group, range(6), [0.0])[:, 0]
    assert torch.allclose(gone, probe.loss() + ablation(probe, group), atol=1e-7)


def test_tangent_and_parabola_are_the_taylor_criteria():
    model, y = hand.mlp(5, 6, 7, 4, act=nn.Tanh).double(), torch.arange(30) % 4
    group, probe = hand.hidden(model)[0], Probe(model, (torch.randn(30, 5).double(), y))
    units = torch.arange(6)
    tangent, parabola = approximations(probe, group, units, [0.0, 1.0, 1.01])
    assert torch.allclose(tangent[:, 0] - probe.loss(), taylor1(probe, group), atol=1e-12)
    assert torch.allclose(parabola[:, 0] - probe.loss(), taylor2(probe, group), atol=1e-12)
    assert torch.allclose(parabola[:, 1], torch.tensor(probe.loss()).double())
    near = surface(probe, group, units, [0.0, 1.0, 1.01])[:, 2]
    assert (parabola[:, 2] - near).abs().max() < (tangent[:, 2] - near).abs().max() / 50
    _, flat = approximations(probe, group, 0, 0.0, curvature="diagonal")
    assert flat.item() == pytest.approx(
        probe.loss() + taylor2(probe, group, curvature="diagonal")[0].item()
    )


def test_bad_questions_are_refused_before_any_work(monkeypatch):
    model = hand.mlp(5, 6, 4)
    (group,), probe = hand.hidden(model), Probe(model, (torch.randn(9, 5), torch.arange(9) % 4))
    with pytest.raises(GroupError):
        surface(probe, group, 6, GAINS)
    monkeypatch.setattr(probe, "measuring", None)
    with pytest.raises(ValueError, match="position 2 is inf"):
        surface(probe, group, 0, [0.0, 1.0, torch.inf])
    with pytest.raises(ValueError, match="position 0 is nan"):
        approximations(probe, group, 0, torch.nan)
    with pytest.raises(CriterionError, match="group of synapses"):
        surface(probe, find_synapses(model)[0], 0, GAINS)
