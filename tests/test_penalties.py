"""Penalties of whole units in the training loss: values and gradients by hand, and what they do."""

import math

import pytest
import torch
from torch import nn

import hand
from sentei import GroupError, Neurons, find_synapses, find_units, group_lasso, slimming
from sentei.criteria import magnitude
from sentei.probe.probe import Probe


def small():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    model[0].weight.data = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]])
    model[0].bias.data = torch.tensor([7.0, 7.0, 7.0])
    return model


def test_group_lasso_by_hand():
    model = small()
    units = find_units(model, torch.randn(5, 2))
    found = group_lasso(units, model)
    assert found.item() == pytest.approx(math.sqrt(2) * (5 + 0 + 13))
    found.backward()
    expected = torch.tensor([[3 / 5, 4 / 5], [0, 0], [-5 / 13, 12 / 13]]) * math.sqrt(2)
    assert torch.allclose(model[0].weight.grad, expected)
    assert model[0].bias.grad is None
    assert model[2].weight.grad is None


def test_inputs_and_synapses():
    model = small()
    inputs = [g for g in find_units(model, torch.randn(5, 2), inputs=True) if g.kind == "input"]
    norms = [math.hypot(3, 0, -5), math.hypot(4, 0, 12)]
    assert group_lasso(inputs, model).item() == pytest.approx(math.sqrt(3) * sum(norms))
    synapses = find_synapses(model)[:1]
    assert group_lasso(synapses, model).item() == 3 + 4 + 5 + 12
    both = group_lasso([*inputs, *synapses], model).item()
    assert both == pytest.approx(24 + math.sqrt(3) * sum(norms))


def test_the_norms_are_the_scores_of_magnitude():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(5, 2, 6, 6)
    groups = find_units(model, x)
    scores = magnitude(Probe(model, (x, torch.arange(5) % 3)), groups[0])
    expected = scores.sum().item() * math.sqrt(2 * 3 * 3)
    assert group_lasso(groups, model).item() == pytest.approx(expected, rel=1e-6)


def test_slimming_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
    )
    model[1].weight.data = torch.tensor([1.5, -2.0, 0.0])
    groups = find_units(model, torch.randn(4, 1, 6, 6))
    found = slimming(groups, model)
    assert found.item() == 3.5
    found.backward()
    assert model[1].weight.grad.tolist() == [1, -1, 0]
    assert all(p.grad is None for n, p in model.named_parameters() if n != "1.weight")


def vanished(strength):
    """How many of 16 hidden units training leaves without incoming weights."""
    model = hand.mlp(6, 16, 2, act=nn.ReLU)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()
    units = find_units(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) + strength * group_lasso(units, model)
        loss.backward()
        optimizer.step()
    norms = model[0].weight.detach().norm(dim=1)
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    return int((norms < 0.05 * norms.max()).sum())


def test_training_with_group_lasso_makes_units_vanish():
    assert vanished(0.0) == 0
    assert vanished(0.01) >= 8


def test_what_has_no_penalty_is_refused():
    model = small()
    units = find_units(model, torch.randn(5, 2))
    for penalty in (group_lasso, slimming):
        with pytest.raises(GroupError, match="groups= is empty"):
            penalty([], model)
        with pytest.raises(GroupError, match="not this model's"):
            penalty(hand.hidden(hand.mlp(5, 6, 7)), model)
    with pytest.raises(GroupError, match=r"of '0' there is none\. Use group_lasso"):
        slimming(units, model)
    assert isinstance(units[0], Neurons)
