"""Least squares on streams: layers that read them are fitted one after the other."""

import pytest
import torch

import sentei
from sentei import Cut, Probe
from sentei.criteria.repairs.compensation import DAMPING
from sentei.errors import GroupError
from sentei.network.copying import copied
from sentei.network.mask import Mask
from sentei.pruning.loop import mask_cut_
from sentei.pruning.rules.proposals import repaired
from stream_networks import HAND, Tied, apart, cut, made, masked_by, streams


def samples(name, count=40):
    """A network, inputs of as many samples, and targets."""
    model, x = made(name)
    torch.manual_seed(1)
    shape = (count, *x.shape[1:])
    inputs = torch.randn(shape).double() if x.is_floating_point() else torch.randint(0, 9, shape)
    return model, inputs, torch.arange(count) % 4


def fixed_by(model, data, mask, how="least_squares"):
    """A masked copy, repaired."""
    trial = copied(model)
    full = Mask.full(mask.groups)
    doomed = {group: mask.dead(group) for group in mask.groups}
    mask_cut_(trial, full, repaired(Cut(doomed), how, "magnitude", Probe(trial, data), full))
    return trial


def read_by(model, layer, x):
    """What a linear layer reads, (n, inputs)."""
    read = []
    hook = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, args: read.append(args[0])
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return torch.cat([each.flatten(0, -2) for each in read])


def naive(model, x, group, mask, layers):
    """Fit linear layers in order, each by equations of its own, with one for each weight."""
    trial = masked_by(model, mask)
    alive = mask.alive(group)
    for layer in layers:
        own, other = model.get_submodule(layer), trial.get_submodule(layer)
        before, after = read_by(model, layer, x), read_by(trial, layer, x)
        square, after = after.square().mean(), after[:, alive]
        wanted = before @ own.weight.T
        mean, wanted_mean = after.mean(0), wanted.mean(0)
        spread = after - mean
        root = (DAMPING * square * len(after)).sqrt()
        rows = torch.cat([spread, root * torch.eye(int(alive.sum())).double()])
        goal = torch.cat([wanted - wanted_mean, root * own.weight.T[alive]])
        found = torch.linalg.lstsq(rows, goal).solution
        with torch.no_grad():
            other.weight.zero_()[:, alive] = found.T
            other.bias.copy_(own.bias + wanted_mean - mean @ found)
    return trial


@pytest.mark.parametrize("name", ["before", "behind", "rms", "root by hand", "length"])
def test_layers_get_the_weights_of_their_own_systems_of_equations(name):
    model, x, y = samples(name)
    (group,) = streams(model, x[:2])
    mask = cut([group])
    want = naive(model, x, group, mask, ["up.0", "up.1", "head"])
    got = fixed_by(model, (x, y), mask)
    for (key, one), other in zip(want.named_parameters(), got.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-10), key
    with torch.no_grad():
        assert apart(want(x), got(x)) < 1e-9
        assert apart(got(x), masked_by(model, mask)(x)) > 1e-3


@pytest.mark.parametrize("name", HAND)
def test_outputs_are_nearer_to_those_before_and_the_cut_is_proven(name):
    model, x, y = samples(name)
    (group,) = streams(model, x[:2])
    mask = cut([group])
    fixed = fixed_by(model, (x, y), mask)
    with torch.no_grad():
        plain, whole = masked_by(model, mask)(x), model(x)
        assert (fixed(x) - whole).square().mean() < 0.9 * (plain - whole).square().mean()
        small = sentei.shrink(fixed, mask, x[:2])
        assert apart(fixed(x), small(x)) < 1e-10


def test_a_tied_weight_keeps_its_values():
    torch.manual_seed(0)
    model, x = Tied().double().eval(), torch.randint(0, 9, (30, 5))
    (group,) = streams(model, x[:2])
    mask = cut([group])
    fixed = fixed_by(model, (x, torch.arange(30) % 9), mask)
    stays = mask.alive(group)
    assert torch.equal(fixed.words.weight[:, stays], model.words.weight[:, stays])
    assert not torch.equal(fixed.up.weight[:, stays], model.up.weight[:, stays])
    assert fixed.up.weight[:, ~stays].count_nonzero() == 0


def test_all_blocks_of_samples_count_alike(monkeypatch):
    model, x, y = samples("before")
    (group,) = streams(model, x[:2])
    want = fixed_by(model, (x, y), cut([group]))
    monkeypatch.setattr("sentei.probe.recording.recording._BLOCK_ROWS", 7)
    got = fixed_by(model, (x, y), cut([group]))
    for one, other in zip(want.parameters(), got.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_other_groups_are_repaired_in_the_same_cut():
    model, x, y = samples("rms")
    groups = [g for g in sentei.find_units(model, x[:2]) if g.kind in ("stream", "neuron")]
    mask = cut(groups)
    whole = model(x)
    errors = {}
    for how in (None, "least_squares"):
        small = sentei.shrink(fixed_by(model, (x, y), mask, how), mask, x[:2])
        errors[how] = (small(x) - whole).square().mean()
    assert errors["least_squares"] < 0.6 * errors[None]


def test_a_run_repairs_at_every_step(tmp_path):
    model, x, y = samples("before")
    groups = [g for g in sentei.find_units(model, x[:2]) if g.kind == "stream"]
    propose = sentei.ranked("contribution", sentei.linear("50 %", 2), repair="least_squares")
    plain = sentei.ranked("contribution", sentei.linear("50 %", 2))
    ends = {}
    for name, way in (("repaired", propose), ("plain", plain)):
        worker = copied(model)
        run = sentei.prune(worker, groups, Probe(worker, (x, y)), way, journal=tmp_path / name)
        *_, last = run
        ends[name] = (worker(x) - model(x)).square().mean()
        assert torch.equal(last.network()(x), worker(x))
    assert ends["repaired"] < 0.6 * ends["plain"]


@pytest.mark.parametrize("how", ["mean", "twin", "affine", "least_loss", "least_squares_by_column"])
def test_other_repairs_are_refused(how):
    model, x, y = samples("before")
    groups = [g for g in sentei.find_units(model, x[:2]) if g.kind == "stream"]
    before = model.state_dict()
    with pytest.raises(GroupError, match="least_squares"):
        next(
            step
            for step in sentei.prune(
                model,
                groups,
                Probe(model, (x, y)),
                sentei.ranked("magnitude", sentei.linear("50 %", 1), repair=how),
            )
            if step.number
        )
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
