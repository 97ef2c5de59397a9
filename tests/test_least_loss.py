"""The repair `least_loss`: never worse than least squares, and its reported loss is measured."""

import copy

import pytest
import torch
from torch import nn

import hand
import zoo
from sentei import CriterionError, GroupError, Mask, Probe, find_synapses, find_units
from sentei.criteria import Ablation, LeastLoss, least_squares, repair
from sentei.criteria.repairs.least_loss import _Fit
from sentei.criteria.repairs.table import least_loss
from sentei.losses import per_sample
from sentei.network.example import tensors
from sentei.network.folding import fold_


@torch.no_grad()
def lost(model, group, units, mix, x, y, loss):
    folded = copy.deepcopy(model)
    fold_(folded, group, units, mix)
    return per_sample(loss)(tensors(folded(x))[0], y).mean().item()


@pytest.mark.parametrize("widths", [(5, 12, 4), (5, 12, 7, 4)])
@pytest.mark.parametrize("gone", [[2], [0, 3, 7]])
def test_a_fit_loses_less_than_least_squares(widths, gone):
    model = hand.mlp(*widths, act=nn.Tanh, seed=2).double()
    x = torch.randn(300, 5).double()
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()
    probe, group = Probe(model, (x, y)), hand.hidden(model)[0]
    units, before = torch.tensor(gone), copy.deepcopy(model.state_dict())
    mask = Mask.full([group]).without({group: units})
    start = least_squares(probe, group, units, mask)
    few, many = (LeastLoss(n)(probe, group, units, mask) for n in (2, 20))
    losses = [lost(model, group, units, mix, x, y, "cross_entropy") for mix in (start, few, many)]
    assert losses[0] - 1e-4 > losses[1] > losses[2]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())
    (rows,) = few.values()
    assert rows[:, units].count_nonzero() == 0


def test_a_long_fit_ends_where_the_loss_is_flat():
    model = hand.mlp(5, 8, 3, act=nn.Tanh, seed=1).double()
    x, y = torch.randn(200, 5).double(), torch.randint(0, 3, (200,))
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    units = torch.tensor([4])
    mask = Mask.full([group]).without({group: units})
    (rows,) = LeastLoss(200)(probe, group, units, mask).values()
    free = torch.cat([rows[:, :4], rows[:, 5:]], 1)[0].requires_grad_()
    o = model[:2](x).detach()
    design = torch.cat([o[:, :4], o[:, 5:], torch.ones(200, 1).double()], 1)
    out = model[2](o).detach() - o[:, 4:5] * model[2].weight[:, 4].detach()
    out = out + (design @ free)[:, None] * model[2].weight[:, 4].detach()
    nn.functional.cross_entropy(out, y).backward()
    assert free.grad.abs().max() < 1e-6


NO_BIAS = {"residual", "residual_inplace", "tied"}  # no listener has a bias to hold a constant


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO)))
def test_on_networks_of_every_kind_what_is_fitted_is_what_is_folded(name, monkeypatch):
    model, x = zoo.build(name)
    model = model.double().eval()
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        out = tensors(model(x))[0]
    y, told = torch.rand_like(out), []
    real = _Fit._loss_and_gradient

    def noted(self, moved):
        value, steep = real(self, moved)
        told.append((value.item(), self._mix(moved)))
        return value, steep

    monkeypatch.setattr(_Fit, "_loss_and_gradient", noted)
    compared = 0
    for group in [g for g in find_units(model, x) if g.kind not in ("input", "stream")][:3]:
        layers = [model.get_submodule(part.layer) for part in group.listeners]
        if any(getattr(layer, "bias", None) is None for layer in layers) or any(
            isinstance(layer, nn.RNNBase)
            or (getattr(layer, "transposed", False) and layer.groups > 1)
            for layer in layers
        ):
            continue
        units = torch.tensor([1])
        mask = Mask.full([group]).without({group: units})
        told.clear()
        LeastLoss(2)(Probe(model, (x, y), squares), group, units, mask)
        for value, mix in (told[0], told[-1]):
            want = lost(model, group, units, mix, x, y, squares)
            assert value == pytest.approx(want, rel=1e-9)
        assert min(value for value, _ in told) <= told[0][0]
        compared += 1
    assert (compared > 0) == (name not in NO_BIAS)


def squares(outputs, targets):
    return (tensors(outputs)[0] - targets).square().flatten(1).mean(1)


def test_scores_are_those_of_least_squares():
    model = hand.mlp(5, 6, 4).double()
    x, y = torch.randn(90, 5).double(), torch.randint(0, 4, (90,))
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    told = Ablation("least_loss")(probe, group)
    assert torch.equal(told, Ablation("least_squares")(probe, group))
    assert repair("least-loss") is least_loss


def test_what_cannot_be_fitted_is_refused():
    model = hand.mlp(5, 6, 4).double()
    x, y = torch.randn(90, 5).double(), torch.randint(0, 4, (90,))
    (group,) = hand.hidden(model)
    units = torch.tensor([0])
    mask = Mask.full([group]).without({group: units})
    wrong = Probe(model, (x, y), lambda o, t: (o.argmax(1) != t).double())
    with pytest.raises(CriterionError, match="derivatives"):
        least_loss(wrong, group, units, mask)
    with pytest.raises(GroupError, match="group of synapses"):
        least_loss(Probe(model, (x, y)), find_synapses(model)[0], units, mask)
