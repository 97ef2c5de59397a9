"""What engines measure of each sample, against one run for each unit and finite differences."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import hand
import zoo
from sentei import Probe, find_units
from sentei.losses import LOSSES, per_sample
from sentei.nests import tensors
from sentei.probe.engines.gates import Gates

ACTIVATIONS = [nn.Sigmoid, nn.ReLU]


def absolute(outputs, targets):
    return (outputs - F.one_hot(targets, outputs.shape[1])).abs().sum(1)


@torch.no_grad()
def losses_at(model, x, y, loss, group, gain):
    """Return the losses of the samples with each unit's gate at a gain, (units, samples).

    At 0, the rows of a unit of a stream, and the scales and shifts of its norms, are zero too.
    """
    own = (*group.producers, *group.followers) if group.kind == "stream" and gain == 0 else ()
    found = []
    for unit in range(group.size):
        weights = {}
        for part in (*own, *group.listeners):
            weight = weights.get(part.parameter, model.get_parameter(part.parameter))
            scaled = weight.index_select(part.dim, part.index[unit]) * gain
            weights[part.parameter] = weight.index_copy(part.dim, part.index[unit], scaled)
        found.append(per_sample(loss)(tensors(functional_call(model, weights, (x,)))[0], y))
    return torch.stack(found)


def measured(probe, group, how):
    """Return what the engine of a group measures of each sample, (units, samples)."""
    units = torch.arange(group.size)
    with probe._measuring() as engines:
        engine = engines.engine_for(group, units)[1]
        blocks = engines.recording.passes(engine.need)
        return engine, torch.cat([getattr(engine, how)(block, units) for _, block in blocks], 1)


def check(model, x, y, loss, group):
    """Compare what is measured of each sample with its definition; return the engine."""
    probe, step = Probe(model, (x, y), loss), 1e-5
    at = {gain: losses_at(model, x, y, loss, group, gain) for gain in (0, 1 - step, 1, 1 + step)}
    engine, rises = measured(probe, group, "rises_by_sample")
    assert (rises - (at[0] - at[1])).abs().max() < 1e-10
    slopes = (at[1 + step] - at[1 - step]) / (2 * step)
    assert (measured(probe, group, "slopes_by_sample")[1] - slopes).abs().max() < 1e-7
    return engine


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("loss", [*LOSSES, absolute])
def test_multilayer_perceptrons(act, loss):
    model = hand.mlp(5, 6, 7, 4, act=act).double()
    x, y = torch.randn(40, 5).double(), torch.randint(0, 4, (40,))
    for group in [hand.inputs(5, "0"), *hand.hidden(model)]:
        check(model, x, y, loss, group)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_networks_of_every_kind(name):
    model, x = zoo.build(name)
    out = tensors(model.eval()(x))[0]
    if out.ndim == 2:
        y, loss = torch.randint(0, out.shape[1], (len(x),)), "cross_entropy"
    else:
        torch.manual_seed(0)
        y, loss = torch.rand_like(out), "half_squared_error"
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    y = y.double() if y.is_floating_point() else y
    for group in find_units(model, x[:3], inputs=x.is_floating_point()):
        engine = check(model, x, y, loss, group)
        # An embedding that is tied to the output reads no input that could be a leaf.
        assert not isinstance(engine, Gates) or engine.sample_slopes.known == [name != "tied"]


class TimeFirst(nn.Module):
    """Samples are in the second dimension, and then merged with the steps, steps first."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.down(torch.relu(self.up(x.movedim(1, 0)))))
        return self.head(x.flatten(0, 1)).view(*x.shape[:2], 3).mean(0)


def test_samples_that_do_not_come_first():
    torch.manual_seed(0)
    model, x = TimeFirst().double(), torch.randn(8, 2, 4).double()
    ups, downs = find_units(model, x[:3])
    y = torch.randint(0, 3, (8,))
    assert check(model, x, y, "cross_entropy", ups).sample_slopes._dims == [1]
    assert check(model, x, y, "cross_entropy", downs).sample_slopes.known == [False]


class InPlaceBranch(nn.Module):
    """A block with `x += branch(x)`, which vmap cannot run."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        x += self.down(torch.relu(self.up(x)))
        return self.head(x)


def test_what_vmap_cannot_run():
    torch.manual_seed(0)
    model = InPlaceBranch().double()
    x, y = torch.randn(30, 5).double(), torch.randint(0, 3, (30,))
    engines = [check(model, x, y, "cross_entropy", group) for group in find_units(model, x[:3])]
    assert not all(engine.batched for engine in engines)
