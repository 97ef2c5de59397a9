"""Lazy ranking against exact ablation at every step: the order, what is measured, resumed runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hand
from sentei import (
    CriterionError,
    Mask,
    Probe,
    ScheduleError,
    accuracy_within,
    levels,
    linear,
    one_at_a_time,
    prune,
    ranked,
)
from sentei.criteria import Ablation
from sentei.pruning.rules import lazy_scores
from sentei.pruning.rules.lazy_scores import LazyScores


def problem(seed=0, widths=(8, 20, 12, 4), samples=200, act=nn.ReLU):
    """Return a network, its groups and a Probe, with labels that another network gives."""
    teacher, model = (hand.mlp(*widths, act=act, seed=at).double() for at in (seed, seed + 1))
    torch.manual_seed(seed)
    x = torch.randn(samples, widths[0]).double()
    with torch.no_grad():
        y = (5 * teacher(x)).argmax(1)
    return model, hand.hidden(model), Probe(model, (x, y))


class Counting:
    """A Probe's answers with the number of units that were measured."""

    def __init__(self, probe, monkeypatch):
        self.measured = 0
        whole = probe.rises_without

        def counted(group, units=None, mix=None):
            self.measured += group.size if units is None else len(units)
            return whole(group, units, mix)

        monkeypatch.setattr(probe, "rises_without", counted)


class Stub:
    """A Probe whose scores and first-order estimates are given."""

    def __init__(self, group, scores, estimates):
        self.group, self.scores, self.estimates = group, scores, estimates
        self.forgotten, self.asked = 1, []

    def rises_without(self, group, units):
        self.asked += units.tolist()
        return self.scores[units]


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setattr(
        lazy_scores, "first_order", lambda probe, groups: {groups[0]: probe.estimates}
    )
    monkeypatch.setattr(lazy_scores, "_MISSES", 12)
    group = hand.inputs(12, "0")
    scores = torch.arange(12).double()
    return Stub(group, scores, torch.zeros(12).double()), LazyScores(), Mask.full([group])


def asked(stub, known, mask, step, count=1):
    stub.asked = []
    found = known(stub, [([stub.group], count)], mask, {stub.group: 0}, step)[stub.group]
    return sorted(stub.asked), found


def test_by_hand_what_is_measured(stubbed):
    stub, known, mask = stubbed
    assert asked(stub, known, mask, 1)[0] == [*range(12)]
    stub.scores = stub.scores + 0.25  # a miss of 0.25 for each of the 12
    assert asked(stub, known, mask, 2)[0] == [*range(12)]
    assert known.misses.tolist() == [0.25] * 12
    # 8 with the lowest predictions; 8.25 - 2 * 0.25 is not below 0.25.
    ranks, found = asked(stub, known, mask, 3)
    assert ranks == [*range(8)]
    assert found.tolist() == stub.scores.tolist()
    assert known.misses.tolist() == [0.25] * 4 + [0.0] * 8
    # Estimates raise the first eight by 10, and scores follow: 8.25 is then the lowest.
    stub.estimates = torch.tensor([10.0] * 8 + [0.0] * 4).double()
    stub.scores = stub.scores + stub.estimates
    assert asked(stub, known, mask, 4)[0] == [*range(4), *range(8, 12)]
    assert float(known.misses.max()) == 0


def test_a_prediction_within_the_margin_is_measured(stubbed):
    stub, known, mask = stubbed
    for step in (1, 2):
        asked(stub, known, mask, step)
    known.misses = torch.full((12,), 4.1).double()
    ranks, found = asked(stub, known, mask, 3)  # 8 - 2 * 4.1 is below 0, 9 - 2 * 4.1 is not
    assert ranks == [*range(9)]
    assert torch.equal(found, stub.scores)


def test_other_weights_and_a_new_run_measure_all(stubbed):
    stub, known, mask = stubbed
    for step in (1, 2, 3):
        asked(stub, known, mask, step)
    state = known.state_dict()
    assert state["holds"]
    stub.forgotten = 2
    assert not known.state_dict()["holds"]
    assert asked(stub, known, mask, 4)[0] == [*range(12)]
    assert asked(stub, known, mask, 1)[0] == [*range(12)]
    fresh = LazyScores()
    fresh.load_state_dict(state)
    assert len(asked(stub, fresh, mask, 4)[0]) == 8


def order(lazy, seed, widths, act, steps, **options):
    model, groups, probe = problem(seed, widths, act=act)
    rule = ranked("ablation", one_at_a_time(), lazy=lazy, **options)
    taken = prune(model, groups, probe, rule)
    return [
        [(group.name, units.tolist()) for group, units in step.removed.items()]
        for step, _ in zip(taken, range(steps), strict=False)
    ]


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([(8, 60, 4), (8, 60, 30, 4), (8, 12, 9, 4)]),
    act=st.sampled_from([nn.Sigmoid, nn.Tanh, nn.SiLU]),
    within=st.sampled_from(["network", "group"]),
)
def test_the_order_is_the_exact_one(seed, widths, act, within):
    exact = order(False, seed, widths, act, 20, within=within)
    assert order(True, seed, widths, act, 20, within=within) == exact


def test_few_units_are_measured(monkeypatch):
    model, groups, probe = problem(widths=(8, 200, 100, 4), act=nn.Tanh)
    counting = Counting(probe, monkeypatch)
    steps = prune(model, groups, probe, ranked("ablation", one_at_a_time(), lazy=True))
    for _ in zip(steps, range(31), strict=False):
        pass
    assert counting.measured < 30 * 300 / 3


def resumed_and_whole(folder, schedule, **options):
    def steps(name, resume):
        model, groups, probe = problem(widths=(8, 80, 30, 4), act=nn.Tanh)
        rule = ranked("ablation", schedule, lazy=True)
        return prune(model, groups, probe, rule, journal=folder / name, resume=resume, **options)

    for _ in zip(steps("whole", False), range(16), strict=False):
        pass
    first = steps("stopped", False)
    for _ in range(9):
        next(first)
    first.close()
    for _ in zip(steps("stopped", True), range(16), strict=False):
        pass
    return [
        {path.name: path.read_bytes() for path in sorted((folder / name / "steps").iterdir())}
        for name in ("whole", "stopped")
    ]


def nudge(model, mask):
    with torch.no_grad():
        model[0].weight += 0.01
    mask.apply_(model)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (one_at_a_time(), {}),
        (one_at_a_time(), {"retrain": nudge}),
        (levels(90, 97, then=one_at_a_time()), {"keeping": accuracy_within(0.02)}),
    ],
    ids=["cuts", "retrain", "undo"],
)
def test_a_resumed_run_writes_the_same_bytes(tmp_path, schedule, options):
    whole, stopped = resumed_and_whole(tmp_path, schedule, **options)
    assert len(whole) >= 10
    assert whole == stopped


def test_retraining_between_steps_measures_all(monkeypatch):
    model, groups, probe = problem(widths=(8, 80, 30, 4))
    counting = Counting(probe, monkeypatch)
    rule = ranked("ablation", linear(by=1), lazy=True)
    for _ in zip(range(5), prune(model, groups, probe, rule, retrain=nudge), strict=False):
        pass
    assert counting.measured == 110 + 109 + 108 + 107


def test_what_is_not_ablation_is_refused():
    for criterion in ("taylor1", Ablation("affine")):
        with pytest.raises(CriterionError, match="leave out lazy="):
            ranked(criterion, one_at_a_time(), lazy=True)
    with pytest.raises(ScheduleError, match="Leave out lazy="):
        ranked("ablation", one_at_a_time(), lazy=True, multiples_of=4)
    with pytest.raises(ScheduleError, match="leave out one"):
        ranked("ablation", one_at_a_time(), lazy=True, racing=True)
