"""The Probe: it changes nothing, detects changed weights, and gives the same bits on any path."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hand
import zoo
from sentei import (
    Cut,
    DataError,
    GroupError,
    LossError,
    Probe,
    StaleError,
    find_synapses,
    find_units,
)


def some(n=50, width=6, classes=3, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, width), torch.randint(0, classes, (n,))


def remove(model, probe, group, units):
    with torch.no_grad():
        for part in group.listeners:
            columns = part.index[torch.tensor(units)].flatten()
            model.get_parameter(part.parameter).index_fill_(part.dim, columns, 0)
    probe.cut_(Cut({group: torch.tensor(units)}))


def test_loss_and_accuracy_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.copy_(torch.eye(2))
    probe = Probe(model, (torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])))
    # log(e + 1) - 1 for the first sample, log(1 + e²) - 0 for the second
    assert probe.loss() == pytest.approx((0.313262 + 2.126928) / 2, abs=1e-6)
    assert probe.accuracy() == 0.5


def test_accuracy_is_none_without_classes():
    model = hand.mlp(6, 4, 2)
    assert Probe(model, (some()[0], torch.rand(50, 2)), "half_squared_error").accuracy() is None


@pytest.mark.parametrize("name", ["mlp_norm", "residual_inplace", "recurrent"])
def test_everything_is_left_as_found(name):
    model, x = zoo.build(name)
    model.train()
    next(model.children()).eval()
    torch.manual_seed(3)
    x = torch.randn(20, *x.shape[1:])
    y = torch.zeros(20, dtype=torch.int64)
    F.cross_entropy(model(x), y).backward()
    groups = find_units(model, x[:3])
    state = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    random, x_before = torch.get_rng_state(), x.clone()
    probe = Probe(model, DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True))
    probe.loss()
    for group in groups:
        probe.losses_without(group)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, x_before)
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_loader_dataset_and_tensors_are_the_same():
    x, y = some()
    model = hand.mlp(6, 5, 3)
    (group,) = hand.hidden(model)
    dataset = TensorDataset(x, y)
    answers = [
        Probe(model, data).losses_without(group)
        for data in ((x, y), [x, y], dataset, DataLoader(dataset, batch_size=8))
    ]
    assert all(torch.equal(answers[0], other) for other in answers[1:])


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(2, 5), nn.Linear(5, 3)

        def forward(self, x, z):
            return self.c(torch.tanh(self.a(x) + self.b(z)))

    torch.manual_seed(0)
    model, (x, y), z = Two(), some(), torch.randn(50, 2)
    loss = Probe(model, ((x, z), y)).loss()
    assert loss == pytest.approx(F.cross_entropy(model(x, z), y).item(), abs=1e-6)
    assert Probe(model, DataLoader(TensorDataset(x, z, y), batch_size=9)).loss() == loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "no rows"),
        (lambda x, y: (x, y[:-1]), r"\(50, 6\) and \(49,\)"),
        (lambda x, y: (x[:, :5], y), "does not|forward fails with: "),
        (
            lambda x, y: (x.index_fill(0, torch.tensor(7), torch.nan), y),
            "row 7, column 0",
        ),
        (lambda x, y: (x, y.index_fill(0, torch.tensor(4), 3)), "row 4 has 3"),
        (lambda x, y: (x, y.index_fill(0, torch.tensor(4), -1)), "row 4 has -1"),
        (lambda x, y: {"x": x, "y": y}, "not dict"),
    ],
)
def test_bad_data_is_named(change, message):
    with pytest.raises(DataError, match=message):
        Probe(hand.mlp(6, 5, 3), change(*some()))


def test_bad_losses_are_named():
    model = hand.mlp(6, 5, 3)
    with pytest.raises(LossError, match="one number per sample"):
        Probe(model, some(), F.cross_entropy).loss()
    x, y = some(5500)
    probe = Probe(model, (x, y), lambda o, t: o[:, 0] / (o.argmax(1) * 0 + (t != 9)) / (x_is(o, t)))
    with pytest.raises(LossError, match="samples 5000 to 5499"):
        probe.loss()
    with pytest.raises(ValueError, match="Did you mean 'cross_entropy'"):
        Probe(model, some(), "cross_entropi")


def x_is(outputs, targets):
    """Return loss 0 for blocks of 500 samples, 1 for other blocks."""
    return torch.full(targets.shape, float(len(targets) != 500)).to(outputs)


def test_foreign_groups_are_refused():
    model = hand.mlp(6, 5, 3)
    probe = Probe(model, some())
    with pytest.raises(GroupError, match="not this model's"):
        probe.losses_without(hand.group("0", 9, "2"))
    with pytest.raises(GroupError, match="synapses"):
        probe.losses_without(find_synapses(model)[0])


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_changed_weights_are_noticed(layer):
    model = hand.mlp(6, 5, 4, 3)
    group = hand.hidden(model)[0]
    probe = Probe(model, some())
    before = probe.losses_without(group)
    model[layer].weight.data.mul_(1.5)  # behind the back of every version counter
    for question in (probe.loss, probe.accuracy, lambda: probe.losses_without(group)):
        with pytest.raises(StaleError, match="forget_"):
            question()
    probe.forget_()
    assert not torch.equal(probe.losses_without(group), before)
    model[layer].weight.data.div_(1.5)
    probe.forget_()
    assert torch.allclose(probe.losses_without(group), before, atol=1e-6)


@pytest.mark.parametrize("widths", [(6, 9, 3), (6, 8, 7, 3)])
@pytest.mark.parametrize("act", [nn.Sigmoid, nn.ReLU])
def test_the_way_there_leaves_no_trace(widths, act):
    """After any cuts the record gives the bits of a new Probe: a resumed run is the same run."""
    torch.manual_seed(0)
    model, data = hand.mlp(*widths, act=act), some(5100, seed=1)
    groups = hand.hidden(model)
    probe = Probe(model, data)
    for step in range(6):
        group = groups[step % len(groups)]
        rises = probe.rises_without(group).masked_fill(~probe.alive(group), torch.inf)
        remove(model, probe, group, [int(rises.argmin())])
        fresh = Probe(model, data)
        fresh.update_(probe.mask)
        assert fresh.loss() == probe.loss()
        assert fresh.accuracy() == probe.accuracy()
        for each in groups:
            assert torch.equal(fresh.rises_without(each), probe.rises_without(each))


def test_little_memory_changes_nothing():
    model, data = hand.mlp(6, 8, 7, 3), some(11_000)
    groups = hand.hidden(model)
    rich = [Probe(model, data).losses_without(group) for group in groups]
    probe = Probe(model, data, memory=2 * 5000 * 160)  # half of it holds the first block
    poor = [probe.losses_without(group) for group in groups]
    assert all(torch.equal(a, b) for a, b in zip(rich, poor, strict=True))
    assert probe._engines is not None
    blocks = probe._engines.recording._passes.values()
    assert [bool(block.call_outputs) for block in blocks] == [True, False, False]


def test_mask_follows_cuts():
    model = hand.mlp(6, 8, 7, 3)
    first, second = hand.hidden(model)
    probe = Probe(model, some())
    assert probe.alive(first).all()
    remove(model, probe, first, [1, 3])
    remove(model, probe, second, [0])
    assert probe.mask.dead(first).tolist() == [1, 3]
    assert probe.mask.dead(second).tolist() == [0]
    assert probe.losses_without(first)[[1, 3]].tolist() == [probe.loss()] * 2
