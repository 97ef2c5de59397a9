"""Rules go to other processes: limits, schedules and proposals are pickled, and do the same."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch

import hand
import sentei
from sentei.metrics import R2
from sentei.pruning.rules.conditions import Limit
from sentei.pruning.rules.schedules import Named, Progress

SCHEDULES = {
    "one_at_a_time": sentei.one_at_a_time(),
    "one_shot": sentei.one_shot("40 %"),
    "linear": sentei.linear("40 %", 4),
    "linear by": sentei.linear(by="5 %"),
    "cubic": sentei.cubic("40 %", 4),
    "geometric": sentei.geometric(3, 4),
    "geometric by": sentei.geometric(3, by="30 %"),
    "fsa": sentei.fsa("10 %", 20.0, 8),
    "levels": sentei.levels(20, 40, then=sentei.one_at_a_time()),
    "multiples_of": sentei.multiples_of(4, sentei.linear("40 %", 4)),
}
LIMITS = {
    "units_at_most": sentei.units_at_most("50 %"),
    "synapses_at_most": sentei.synapses_at_most(40),
    "parameters_at_most": sentei.parameters_at_most("50 %"),
    "bytes_at_most": sentei.bytes_at_most("400 B", format="c"),
    "ram_at_most": sentei.ram_at_most("60 B"),
    "accuracy_at_least": sentei.accuracy_at_least(0.75),
    "accuracy_within": sentei.accuracy_within(0.1),
    "loss_at_most": sentei.loss_at_most(0.5),
    "loss_within": sentei.loss_within(0.1),
    "metric_at_least": sentei.metric_at_least(R2, 0.5),
    "metric_at_most": sentei.metric_at_most("mine", 0.5),
    "metric_within": sentei.metric_within(R2, 0.1),
    "multiply_adds_at_most": sentei.multiply_adds_at_most("50 %"),
    "latency_at_most": sentei.latency_at_most("50 %"),
    "all_of": sentei.all_of(sentei.accuracy_at_least(0.75), sentei.units_at_most(5)),
    "any_of": sentei.any_of(sentei.accuracy_at_least(0.75), sentei.units_at_most(5)),
    "limit": sentei.MemoryBudget("c", "400 B", ram="60 B").limit,
}


def fewer_than_five(now, start):
    """A condition of a user's own."""
    return now.units < 5 <= start.units


LIMITS["own"] = sentei.all_of(fewer_than_five, sentei.units_at_most("50 %"))


def again(thing):
    return pickle.loads(pickle.dumps(thing))


def measured(units, quality):
    return SimpleNamespace(
        accuracy=quality, loss=1 - quality, units=units, synapses=10 * units,
        parameters=11 * units, bytes=44 * units, multiply_adds=10 * units,
        metrics={R2: quality, "mine": quality},
        bytes_in=lambda _: 44 * units, ram_in=lambda _: 8 * units,
        latency=lambda _: (units / 10, 1.0),
    )  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_keeps_as_many(name):
    schedule, other = SCHEDULES[name], again(SCHEDULES[name])
    assert repr(other) == repr(schedule)
    steps = [Progress(n, 8, 40, 40 - 3 * n) for n in range(1, 6)]
    assert [other(each) for each in steps] == [schedule(each) for each in steps]


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_holds_where_it_held(name):
    limit, other = LIMITS[name], again(LIMITS[name])
    assert repr(other) == repr(limit)
    assert (other.is_size, other.least, other.metrics) == (
        *(limit.is_size, limit.least, limit.metrics),
    )
    start = measured(10, 0.8)
    now = [measured(units, quality) for units in (10, 5, 4) for quality in (0.8, 0.6, 0.3)]
    held = [limit(each, start) for each in now]
    assert [other(each, start) for each in now] == held
    assert set(held) == {True, False}


def test_every_limit_and_schedule_is_here():
    found = {**SCHEDULES, **LIMITS}
    for name in sentei.__all__:
        function = getattr(sentei, name)
        returned = getattr(function, "__annotations__", {}).get("return")
        if returned in ("Limit", "Schedule"):
            assert name in found, name
    assert all(isinstance(each, Limit) for each in LIMITS.values())
    assert all(isinstance(each, Named) for each in SCHEDULES.values())


def test_proposals_remove_the_same():
    torch.manual_seed(0)
    model, x = hand.mlp(4, 12, 3), torch.rand(20, 4)
    schedule = sentei.linear("40 %", 3)
    proposals = [
        sentei.ranked("magnitude", schedule),
        sentei.ranked("ablation", schedule, repair="least_squares"),
        sentei.twins(80.0),
        sentei.per_byte("c"),
        sentei.only("neuron", sentei.ranked("taylor2", schedule)),
    ]
    for propose in proposals:
        cuts = []
        for each in (propose, again(propose)):
            probe = sentei.Probe(model, (x, torch.arange(20) % 3))
            groups = [*hand.hidden(model)]
            mask = sentei.Mask.full(groups)
            cuts.append(each(probe, groups, mask, Progress(1, 3, 12, 12)))
        assert all(cuts), propose
        one, two = ({g.name: units.tolist() for g, units in cut.doomed.items()} for cut in cuts)
        assert one == two
