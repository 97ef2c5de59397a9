"""Racing against exact ablation of every unit: what goes, its scores, what it costs, refusals."""

from math import sqrt

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import hand
from sentei import (
    CriterionError,
    DataError,
    GroupError,
    LossError,
    Mask,
    Probe,
    ScheduleError,
    find_synapses,
    find_units,
    linear,
    one_at_a_time,
    one_shot,
    prune,
    ranked,
)
from sentei.criteria import Ablation, ablation
from sentei.pruning.rules.proposals import lowest
from sentei.pruning.rules.racing import Entrants, race
from sentei.pruning.rules.schedules import Progress


def problem(seed=0, widths=(8, 40, 20, 4), samples=3000, act=nn.ReLU):
    """Return a network, its groups and a Probe, with labels that another network gives."""
    teacher, model = (hand.mlp(*widths, act=act, seed=at).double() for at in (seed, seed + 1))
    torch.manual_seed(seed)
    x = torch.randn(samples, widths[0]).double()
    with torch.no_grad():
        y = (5 * teacher(x)).argmax(1)
    return model, hand.hidden(model), Probe(model, (x, y))


def proposed(probe, groups, schedule, **settings):
    mask = Mask.full(groups)
    size = sum(group.size for group in groups)
    rule = ranked("ablation", schedule, **settings)
    return rule(probe, groups, mask, Progress(1, None, size, size))


def entrants(count, sizes=(3,), floors=(0,), first=None):
    groups = [hand.inputs(size, f"{at}") for at, size in enumerate(sizes)]
    scores = torch.zeros(sum(sizes)).double() if first is None else torch.tensor(first).double()
    estimates = dict(zip(groups, scores.split(sizes), strict=True))
    return Entrants.of(groups, count, dict(zip(groups, floors, strict=True)), estimates)


def test_bounds_by_hand():
    field = entrants(1, first=[1.0, 1.3, 9.0])
    assert field.left.all()
    # 100 residuals of 200 samples: half +1, half -1, so that mean and variance are 0 and 100/99.
    field.learn_(torch.tensor([[0, 0, 100, 100]] * 3).double(), 100, 200)
    apart = 4 * sqrt(100 / 99 / 100 / 2)
    assert field._lower.tolist() == pytest.approx([1 - apart, 1.3 - apart, 9 - apart])
    assert field._upper.tolist() == pytest.approx([1 + apart, 1.3 + apart, 9 + apart])
    assert field.left.tolist() == [True, True, False]
    field._sums[:2, 0] = torch.tensor([30.0, 50.0])
    field.finish_(torch.tensor([10.0, 10.0]).double(), 200)
    assert field.scores.tolist() == pytest.approx([0.2, 0.3, 9])


def test_a_unit_that_did_little_so_far_stays_in():
    field = entrants(1)
    sums = torch.tensor([[0, -900, 8100, 100], [0, 0, 0, 29], [0, 900, 8100, 100]]).double()
    field.learn_(sums, 100, 200)
    assert field.left.tolist() == [True, True, False]


def test_units_that_have_to_stay_take_no_place():
    sums = torch.tensor([[0, mean, 50, 100] for mean in (-500, -400, 300, 310, 500)]).double()
    for floors, left in (
        ((0, 0), [True, False, False, False, False]),
        ((1, 0), [True, False, False, False, False]),
        ((2, 1), [False, False, True, False, False]),
        ((2, 3), [False] * 5),
    ):
        field = entrants(1, (2, 3), floors)
        field.learn_(sums[field.left], 100, 200)
        assert field.left.tolist() == left


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    first=st.integers(2, 50),
    second=st.integers(2, 30),
    share=st.integers(2, 60),
    within=st.sampled_from(["network", "group"]),
    act=st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Tanh]),
)
def test_what_goes_is_what_exact_ablation_removes(seed, first, second, share, within, act):
    _, groups, probe = problem(seed, (8, first, second, 4), act=act)
    schedule = one_shot(f"{100 - share} %")
    exact = proposed(probe, groups, schedule, within=within)
    raced = proposed(probe, groups, schedule, within=within, racing=True)
    assume(exact is not None)  # the share of so few units is none
    assert raced.doomed.keys() == exact.doomed.keys()
    for group, units in exact.doomed.items():
        # Equal scores, of units that are always 0, differ by rounding.
        wanted, found = exact.scores[group][units], exact.scores[group][raced.doomed[group]]
        assert len(wanted) == len(found)
        assert (wanted.sort().values - found.sort().values).abs().max() < 1e-12
        scores = raced.scores[group][raced.doomed[group]]
        assert (scores - found).abs().max() < 1e-12


def test_floors_hold():
    _, groups, probe = problem()
    options = {"at_least": 15, "keep": {"0": "80 %"}}
    exact = proposed(probe, groups, one_shot("50 %"), **options)
    raced = proposed(probe, groups, one_shot("50 %"), racing=True, **options)
    assert exact == raced
    assert {group.name: len(units) for group, units in raced.doomed.items()} == {"0": 8, "2": 5}


def test_a_race_takes_fewer_evaluations():
    _, groups, probe = problem(widths=(8, 200, 100, 4), samples=8000)
    found = race(probe, [(groups, 30)], Mask.full(groups), dict.fromkeys(groups, 1), 0)
    assert found.evaluations < 300 * 8000 / 3


def test_the_same_seed_gives_the_same_scores_whatever_the_random_state():
    _, groups, probe = problem()
    floors = {group: group.least for group in groups}

    def scores(seed):
        return torch.cat(
            [*race(probe, [(groups, 6)], Mask.full(groups), floors, seed).scores.values()]
        )

    torch.manual_seed(0)
    one = scores(3)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(one, scores(3))
    assert not torch.equal(one, scores(4))  # estimates on other samples
    torch.manual_seed(0)
    scores(5)
    assert torch.equal(state, torch.get_rng_state())


def test_dead_units_score_zero_and_few_samples_are_measured_whole():
    model, groups, _ = problem()
    mask = Mask.full(groups).without({groups[0]: torch.tensor([1, 5])})
    mask.apply_(model)
    x = torch.randn(100, 8).double()
    probe = Probe(model, (x, torch.randint(0, 4, (100,))))
    probe.update_(mask)
    found = race(probe, [(groups, 6)], mask, dict.fromkeys(groups, 0), 0).scores
    for group in groups:
        assert (found[group] - ablation(probe, group)).abs().max() < 1e-12
    assert (found[groups[0]][[1, 5]] == 0).all()


def test_a_general_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)),
    )
    x = torch.randn(1500, 1, 10, 10)
    with torch.no_grad():
        probe = Probe(model, (x, model.eval()(x + torch.randn_like(x)).argmax(1)))
    groups, mask = find_units(model, x[:2]), None
    mask = Mask.full(groups)
    floors = {group: group.least for group in groups}
    exact = {group: ablation(probe, group) for group in groups}
    found = race(probe, [(groups, 3)], mask, floors, 0).scores
    wanted = lowest(exact, mask, groups, 3, floors)
    assert all(map(torch.equal, lowest(found, mask, groups, 3, floors).values(), wanted.values()))


def test_a_resumed_run_is_the_same(tmp_path):
    def steps(folder, resume):
        model, groups, probe = problem(samples=600)
        rule = ranked("ablation", linear(by=6), racing=True)
        return prune(model, groups, probe, rule, journal=tmp_path / folder, resume=resume)

    whole = [step.mask for step, _ in zip(steps("whole", False), range(5), strict=False)]
    first = steps("stopped", False)
    for _ in range(3):
        next(first)
    first.close()
    again = [step.mask for step, _ in zip(steps("stopped", True), range(5), strict=False)]
    assert all(
        torch.equal(a.alive(g), b.alive(h))
        for a, b in zip(whole, again, strict=True)
        for g, h in zip(a.groups, b.groups, strict=True)
    )
    stored = {path.name: path.read_bytes() for path in (tmp_path / "whole/steps").iterdir()}
    assert stored == {
        path.name: path.read_bytes() for path in (tmp_path / "stopped/steps").iterdir()
    }


@pytest.mark.parametrize(
    "criterion", ["taylor1", "magnitude", "ablation-affine", Ablation("mean"), lambda probe, g: g]
)
def test_other_criteria_are_refused(criterion):
    with pytest.raises(CriterionError, match=r"racing= .* Use \"ablation\", or leave out racing="):
        ranked(criterion, one_at_a_time(), racing=True)


def test_batches_are_refused():
    for options in ({"multiples_of": 4}, {"alike": ("*",)}):
        with pytest.raises(ScheduleError, match="Leave out racing="):
            ranked(ablation, one_at_a_time(), racing=True, **options)


def test_samples_that_are_not_in_memory_are_refused():
    model, groups, probe = problem(samples=300)
    inputs, targets = probe.samples.inputs, probe.samples.targets
    batches = [(inputs[at : at + 50], targets[at : at + 50]) for at in range(0, 300, 50)]
    streamed = Probe(model, batches, memory=2000)
    with pytest.raises(DataError, match=r"racing=False"):
        proposed(streamed, groups, one_shot("90 %"), racing=True)


def test_synapses_and_losses_without_derivative_are_refused():
    model, groups, probe = problem(samples=300)
    with pytest.raises(GroupError, match="whole units only"):
        proposed(probe, find_synapses(model)[:1], one_shot("90 %"), racing=True)
    wrong = probe.on((probe.samples.inputs, probe.samples.targets))
    wrong = Probe(model, (wrong.samples.inputs, wrong.samples.targets), loss=errors)
    with pytest.raises(CriterionError, match="differentiable"):
        proposed(wrong, groups, one_shot("90 %"), racing=True)


def errors(outputs, targets):
    return (outputs.argmax(1) != targets).float()


def endless(outputs, targets):
    """A loss that is infinite once outputs are small."""
    losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return torch.where(outputs.abs().sum(1) < 1e-3, torch.inf, losses)


def test_an_infinite_loss_is_named():
    model = hand.mlp(3, 1, 4, act=nn.ReLU)
    with torch.no_grad():
        model[0].bias += 10
        model[2].bias.zero_()
    probe = Probe(model, (torch.randn(400, 3), torch.randint(0, 4, (400,))), endless)
    groups = hand.hidden(model)
    with pytest.raises(LossError, match="samples 0 to 399"):
        race(probe, [(groups, 1)], Mask.full(groups), dict.fromkeys(groups, 0), 0)
