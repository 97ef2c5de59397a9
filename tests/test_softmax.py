"""The engine for linear classifiers: after repairs, for large logits, and in any order."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hand import hidden, mlp
from sentei import Cut, Mask, Probe
from sentei.pruning.loop import apply_cut_

X = torch.randn(70, 6, generator=torch.Generator().manual_seed(4))
Y = torch.randint(0, 3, (70,), generator=torch.Generator().manual_seed(5))


def naive(model, group, mask):
    """The loss without each unit, in float64: zero its column and run the network."""
    weight = model[-1].weight.detach().double()
    read = model[:-1](X).detach().double()
    losses = []
    for unit in range(group.size):
        masked = weight.clone()
        masked[:, [unit, *mask.dead(group).tolist()]] = 0
        losses.append(F.cross_entropy(read @ masked.T + model[-1].bias.double(), Y))
    return torch.stack(losses)


def told(probe, group):
    return probe.losses_without(group)


@pytest.mark.parametrize("repaired", [False, True])
def test_losses_follow_the_classifiers_weights_from_cut_to_cut(repaired):
    """A repair changes the classifier, but not what it reads: factors of old weights are wrong."""
    model = mlp(6, 9, 3)
    (group,) = hidden(model)
    probe, mask = Probe(model, (X, Y)), Mask.full([group])
    for step, unit in enumerate((4, 0, 8, 2, 5)):
        alive = mask.alive(group)
        assert torch.allclose(
            told(probe, group)[alive], naive(model, group, mask)[alive], atol=1e-6
        ), step
        mix = torch.zeros(1, 10)
        mix[0, 1], mix[0, -1] = 0.5 + step, 0.25
        given = {group.listeners[0]: mix} if repaired else {}
        mask = apply_cut_(model, mask, Cut({group: torch.tensor([unit])}, given), X)
        probe.update_(mask)
    alive = mask.alive(group)
    assert torch.allclose(told(probe, group)[alive], naive(model, group, mask)[alive], atol=1e-6)


@pytest.mark.parametrize("large", [20.0, 40.0, 101.0, 250.0])
@pytest.mark.parametrize("signs", [(1, -1, 0), (1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("cuts", [[], [3], [3, 1, 5]])
def test_a_unit_that_shifts_logits_far_is_as_exact_as_others(large, signs, cuts):
    """In float32 exp(101) is infinite and exp(-101) has one digit: logits are used for the unit."""
    model = mlp(6, 7, 3, act=nn.Sigmoid)
    with torch.no_grad():
        model[0].bias[0] = 9.0  # unit 0 is on for every sample
        model[0].bias[6], model[2].weight[0, 6] = -20.0, 900.0  # the largest weight, of no effect
        model[2].weight[:, 0] = large * torch.tensor(signs)
        model[2].bias.copy_(-large * torch.tensor(signs))
    (group,) = hidden(model)
    probe, mask = Probe(model, (X, Y)), Mask.full([group])
    for unit in cuts:
        told(probe, group)
        mask = apply_cut_(model, mask, Cut({group: torch.tensor([unit])}), X)
        probe.update_(mask)
    for _ in range(2):  # the second time from what was kept of the first
        found = told(probe, group)
        assert found.isfinite().all()
        alive = mask.alive(group)
        assert torch.allclose(found[alive], naive(model, group, mask)[alive], rtol=1e-5, atol=1e-5)


def test_units_with_equal_weights_are_not_taken_for_each_other():
    """Units 1 and 2 are read alike and compute different things; they are asked for by turns."""
    model = mlp(6, 7, 3)
    with torch.no_grad():
        model[2].weight[:, 2] = model[2].weight[:, 1]
    (group,) = hidden(model)
    mask = Mask.full([group]).without({group: [6]})
    mask.apply_(model)
    probe = Probe(model, (X, Y))
    probe.update_(mask)
    want = naive(model, group, mask)
    for dead in ([6, 1], [6, 2], [6, 1], [6]):
        probe.update_(Mask.full([group]).without({group: dead}))
        alive = [unit for unit in range(7) if unit not in (6, *dead)]
        assert torch.allclose(told(probe, group)[alive], want[alive], atol=1e-6)
