"""Repairs: a removed unit's work is taken over exactly where possible, else optimally."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hand
import zoo
from sentei import (
    Cut,
    GroupError,
    Mask,
    Probe,
    StructureError,
    find_synapses,
    find_units,
    one_at_a_time,
    prune,
    ranked,
    units_at_most,
)
from sentei.criteria import Ablation, affine, least_squares, mean, repair, scores, twin
from sentei.criteria.repairs.affine import SingleSurvivor
from sentei.criteria.repairs.table import REPAIRS
from sentei.losses import per_sample
from sentei.network.example import tensors
from sentei.network.folding import fold_
from sentei.probe.second_moments import InverseCovariance
from sentei.probe.summaries import inverse_covariances, second_moments
from sentei.pruning.loop import apply_cut_

NAMES = sorted(REPAIRS)


def removed(model, probe, group, units, how, mask=None):
    """Return a copy of the model without the units, with the repair folded into its weights."""
    mask = mask or Mask.full([group])
    units = torch.as_tensor(units)
    mix = repair(how)(probe, group, units, mask.without({group: units}))
    copied = copy.deepcopy(model)
    apply_cut_(copied, mask, Cut({group: units}, mix), probe.example)
    return copied


def one_hidden(act=nn.Sigmoid, size=8, outputs=4):
    model = hand.mlp(6, size, outputs, act=act, seed=3).double()
    x, y = torch.randn(200, 6).double(), torch.randint(0, outputs, (200,))
    return model, x, y


def copy_unit(model, of, to, scale=1.0):
    with torch.no_grad():
        model[0].weight[to] = scale * model[0].weight[of]
        model[0].bias[to] = scale * model[0].bias[of]


@pytest.mark.parametrize("act", [nn.Sigmoid, nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("how", ["affine", "twin"])
def test_duplicates_go_without_a_trace(act, how):
    model, x, y = one_hidden(act)
    copy_unit(model, 2, 5)
    after = removed(model, Probe(model, (x, y)), *hand.hidden(model), [5], how)
    assert (after(x) - model(x)).abs().max() < 1e-12
    assert after[2].weight[:, 5].count_nonzero() == 0


@pytest.mark.parametrize(("act", "scale"), [(nn.Sigmoid, -1), (nn.Tanh, -1), (nn.ReLU, 0.3)])
def test_complements_and_scaled_copies_go_by_affine_alone(act, scale):
    model, x, y = one_hidden(act)
    copy_unit(model, 2, 5, scale)
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    assert (removed(model, probe, group, [5], "affine")(x) - model(x)).abs().max() < 1e-12
    assert (removed(model, probe, group, [5], "twin")(x) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["affine", "least_squares", "mean"])
def test_constants_go_without_a_trace(how):
    model, x, y = one_hidden()
    with torch.no_grad():
        model[0].weight[4] = 0
    after = removed(model, Probe(model, (x, y)), *hand.hidden(model), [4], how)
    assert (after(x) - model(x)).abs().max() < 1e-12


def test_many_go_at_once_and_chains_end_at_survivors():
    model, x, y = one_hidden(size=10)
    for to in (3, 4, 5):
        copy_unit(model, 0, to, -1 if to == 4 else 1)
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    partners = [-1] * 10
    partners[3], partners[4], partners[5] = 0, 3, 4  # 5 leans on 4, that on 3, that on 0
    for how in ("affine", SingleSurvivor(affine=True, partners=tuple(partners))):
        assert (removed(model, probe, group, [3, 4, 5], how)(x) - model(x)).abs().max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), gone=st.integers(1, 6))
def test_least_squares_is_what_numpy_finds(seed, gone):
    torch.manual_seed(seed)
    model = hand.mlp(5, 8, 3, act=nn.Tanh, seed=seed).double()
    x = torch.randn(60, 5).double()
    probe, (group,) = Probe(model, (x, torch.zeros(60).long())), hand.hidden(model)
    units = torch.randperm(8)[:gone].sort().values
    mask = Mask.full([group]).without({group: units})
    (rows,) = least_squares(probe, group, units, mask).values()
    o = model[1](model[0](x)).detach()
    stay = mask.alive(group).nonzero().flatten()
    design = torch.cat([o[:, stay], torch.ones(60, 1).double()], 1)
    best = torch.linalg.lstsq(design, o[:, units]).solution
    told = torch.cat([rows[:, stay], rows[:, -1:]], 1).T
    assert rows[:, units].count_nonzero() == 0
    error = lambda mix: (design @ mix - o[:, units]).square().sum(0)  # noqa: E731
    assert torch.allclose(error(told), error(best), rtol=1e-5, atol=1e-10)


def without_output_bias(seed=3):
    model, x, y = one_hidden(size=8)
    model[2] = nn.Linear(8, 4, bias=False).double()
    return model, x, y


@pytest.mark.parametrize("gone", [[2], [1, 4, 6]])
def test_without_a_bias_the_fit_has_no_constant(gone):
    model, x, y = without_output_bias()
    (group,) = hand.hidden(model)
    (mix,) = least_squares(
        Probe(model, (x, y)), group, torch.tensor(gone), Mask.full([group]).without({group: gone})
    ).values()
    outputs = model[:2](x).detach().numpy()
    stay = [unit for unit in range(8) if unit not in gone]
    expected = np.linalg.lstsq(outputs[:, stay], outputs[:, gone], rcond=None)[0]
    assert np.abs(mix[:, stay].numpy() - expected.T).max() < 1e-6
    assert not mix[:, -1].any()
    small = removed(model, Probe(model, (x, y)), group, gone, "least_squares")
    lost = (small(x) - model(x)).detach()
    alone = removed(model, Probe(model, (x, y)), group, gone, "twin")
    assert lost.square().mean() < (alone(x) - model(x)).detach().square().mean()
    assert small[2].bias is None


@pytest.mark.parametrize("how", ["affine", "least_squares"])
def test_a_scaled_copy_goes_without_a_trace_or_a_bias(how):
    model, x, y = without_output_bias()
    with torch.no_grad():
        model[1] = nn.ReLU()
        model[0].weight[5], model[0].bias[5] = 2 * model[0].weight[1], 2 * model[0].bias[1]
    (group,) = hand.hidden(model)
    small = removed(model, Probe(model, (x, y)), group, [5], how)
    assert (small(x) - model(x)).abs().max() < 1e-6


@pytest.mark.parametrize("how", ["affine", "least_squares"])
def test_ablation_after_a_repair_without_a_bias(how):
    model, x, y = without_output_bias()
    (group,) = hand.hidden(model)
    probe = Probe(model, (x, y))
    found = Ablation(repair=repair(how))(probe, group)
    for unit in range(group.size):
        small = removed(model, Probe(model, (x, y)), group, [unit], how)
        rise = Probe(small, (x, y)).loss() - probe.loss()
        assert abs(float(found[unit]) - rise) < 1e-6


def test_least_loss_without_a_bias_loses_less_than_its_start():
    model, x, y = without_output_bias()
    (group,) = hand.hidden(model)
    after = {
        how: Probe(removed(model, Probe(model, (x, y)), group, [0, 3], how), (x, y)).loss()
        for how in ("least_squares", "least_loss")
    }
    assert after["least_loss"] < after["least_squares"] - 1e-6


def test_the_inverse_is_updated_to_what_it_would_be_computed_as():
    model, x, y = one_hidden(nn.Tanh, size=12)
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    (span,), alive = inverse_covariances(probe, group).values(), torch.ones(12, dtype=torch.bool)
    for units in ([3], [7, 1], [0], [11, 10, 9]):
        span = span.without(torch.tensor(units))
        alive[units] = False
        fresh = InverseCovariance.of(span.moments, alive, "fresh")
        assert torch.allclose(span.inverse, fresh.inverse, rtol=1e-7, atol=1e-9)
        assert torch.equal(span.alive, alive)


def test_moments_survive_cuts_of_their_own_group_only():
    model = hand.mlp(5, 7, 6, 3).double()
    x, y = torch.randn(50, 5).double(), torch.randint(0, 3, (50,))
    probe, (first, second) = Probe(model, (x, y)), hand.hidden(model)
    (a,), (b,) = second_moments(probe, first).values(), second_moments(probe, second).values()
    cut = Cut(
        {first: torch.tensor([2])},
        least_squares(probe, first, torch.tensor([2]), Mask.full([first]).without({first: [2]})),
    )
    probe.update_(apply_cut_(model, Mask.full([first]), cut, x))
    assert next(iter(second_moments(probe, first).values())) is a
    (again,) = second_moments(probe, second).values()
    assert again is not b
    o = model[:4](x).detach()
    assert torch.allclose(again.means, o.mean(0))
    assert torch.allclose(again.covariance, o.T.cov(correction=0))
    assert torch.allclose(again.high, o.amax(0))


def test_a_singular_gram_is_said(caplog):
    model, x, y = one_hidden()
    for to in (5, 6):
        copy_unit(model, 2, to)
    caplog.set_level("INFO", logger="sentei")
    after = removed(model, Probe(model, (x, y)), *hand.hidden(model), [5], "least_squares")
    assert (after(x) - model(x)).abs().max() < 1e-6
    assert "the Gram matrix is singular: 3 of 8 units" in caplog.text


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("widths", [(5, 6, 4), (5, 6, 7, 4)])
@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error"])
def test_ablation_after_a_repair_is_what_the_folded_network_loses(how, widths, loss):
    model = hand.mlp(*widths).double()
    x, y = torch.randn(90, 5).double(), torch.randint(0, 4, (90,))
    probe = Probe(model, (x, y), loss)
    for group in hand.hidden(model):
        assert_measured(model, probe, group, how, x, y, loss, 1e-12)


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO)))
def test_ablation_after_least_squares_on_networks_of_every_kind(name):
    model, x = zoo.build(name)
    model = model.double().eval()
    x = x.double() if x.is_floating_point() else x
    groups = [g for g in find_units(model, x) if g.kind not in ("input", "stream")][:2]
    with torch.no_grad():
        out = tensors(model(x))[0]
    y = torch.rand_like(out)
    probe = Probe(model, (x, y), squares)
    for group in groups:
        layer = model.get_submodule(group.listeners[0].layer)
        if getattr(layer, "transposed", False) and layer.groups > 1:
            with pytest.raises(StructureError, match="no unit can replace another"):
                Ablation("affine")(probe, group)
        elif any(isinstance(model.get_submodule(p.layer), nn.RNNBase) for p in group.listeners):
            with pytest.raises(StructureError, match="Measure without a repair"):
                Ablation("affine")(probe, group)
        else:
            assert_measured(model, probe, group, "affine", x, y, squares, 1e-9)


def squares(outputs, targets):
    return (tensors(outputs)[0] - targets).square().flatten(1).mean(1)


@torch.no_grad()
def assert_measured(model, probe, group, how, x, y, loss, bound):
    got = Ablation(how)(probe, group)
    mask, base = Mask.full([group]), per_sample(loss)(tensors(model(x))[0], y).mean()
    for unit in range(min(group.size, 5)):
        units = torch.tensor([unit])
        folded = copy.deepcopy(model)
        mix = repair(how)(probe, group, units, mask, alone=True)
        fold_(folded, group, units, mix)
        rise = per_sample(loss)(tensors(folded(x))[0], y).mean() - base
        assert abs(got[unit] - rise) < bound * max(1, abs(base))


def test_a_constant_behind_padding_is_said_and_measured(caplog):
    caplog.set_level("INFO", logger="sentei")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 3, 3, padding=1), nn.Flatten(),
        nn.Linear(3 * 16, 4),
    ).double()  # fmt: skip
    x, y = torch.randn(60, 1, 6, 6).double(), torch.randint(0, 4, (60,))
    group, _ = find_units(model, x)
    before = per_sample("cross_entropy")(model(x), y).mean().item()
    told = Ablation("mean")(Probe(model, (x, y)), group)
    steps = prune(model, [group], Probe(model, (x, y)),
                  ranked(Ablation("mean"), one_at_a_time(), repair="mean"),
                  until=units_at_most(4))  # fmt: skip
    *_, last = steps
    assert "'2' pads with zeros" in caplog.text
    rise = per_sample("cross_entropy")(model(x), y).mean().item() - before
    assert rise == pytest.approx(told.min().item(), abs=1e-10)
    assert last.measured.loss == pytest.approx(before + rise)


def test_repairs_lean_on_the_living_alone():
    model, x, y = one_hidden()
    copy_unit(model, 2, 5)
    copy_unit(model, 2, 6)
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    mask = Mask.full([group]).without({group: [6]})
    probe.update_(apply_cut_(model, Mask.full([group]), Cut({group: torch.tensor([6])}), x))
    for how in ("affine", "twin", "least_squares"):
        (rows,) = repair(how)(probe, group, torch.tensor([5]), mask.without({group: [5]})).values()
        assert rows[0, 6] == 0
    leaning = SingleSurvivor(affine=True, partners=(-1, -1, -1, -1, -1, 6, -1, -1))
    with pytest.raises(GroupError, match=r"replaced only by a unit that stays.*6 is dead"):
        leaning(probe, group, torch.tensor([5]), mask.without({group: [5]}))
    nobody = mask.without({group: range(8)})
    with pytest.raises(GroupError, match="the repair 'twin' needs at least one unit"):
        twin(probe, group, torch.arange(8), nobody)
    (rows,) = affine(probe, group, torch.arange(8), nobody).values()
    assert torch.allclose(rows[:, -1], model[:2](x).mean(0))
    with pytest.raises(GroupError, match="group of synapses"):
        mean(probe, find_synapses(model)[0], torch.tensor([0]), mask)


def test_a_repair_has_a_name_everywhere():
    assert repair("least-squares") is least_squares
    assert repair(least_squares) is least_squares
    for wrong in (
        lambda: ranked("obs", one_at_a_time(), repair="afine"),
        lambda: Ablation("afine"),
    ):
        with pytest.raises(ValueError, match="Did you mean 'affine'"):
            wrong()


def test_a_run_with_repair_loses_less():
    model, x, y = one_hidden(nn.Tanh, size=20)
    lost = {}
    for how in (None, "mean", "affine", "least_squares"):
        copied = copy.deepcopy(model)
        probe, groups = Probe(copied, (x, y)), hand.hidden(copied)
        propose = ranked(Ablation(how), one_at_a_time(), repair=how)
        *_, last = prune(copied, groups, probe, propose, until=units_at_most(8))
        lost[how] = (last.network()(x) - model(x)).square().mean()
    assert lost["least_squares"] < lost["affine"] < lost[None]


def test_least_squares_foretold_by_obs():
    model, x, y = one_hidden(nn.Tanh)
    probe, (group,) = Probe(model, (x, y)), hand.hidden(model)
    told = scores("obs", probe, group)
    for unit in range(group.size):
        after = removed(model, probe, group, [unit], "least_squares")
        change = (after(x) - model(x)).square().sum(1).mean() / 2
        assert change.item() == pytest.approx(told[unit].item(), rel=1e-4)
