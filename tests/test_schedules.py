"""Schedules: small numbers by hand, published points, and properties of all of them."""

import subprocess
import sys
from dataclasses import replace
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sentei.errors import ScheduleError
from sentei.pruning.rules.schedules import (
    Progress,
    amount,
    cubic,
    fsa,
    geometric,
    levels,
    linear,
    multiples_of,
    one_at_a_time,
    one_shot,
)
from sentei.pruning.while_training.cadence import cadence


def walk(schedule, start: int, steps: int) -> list[int]:
    kept, remaining = [], start
    for step in range(1, steps + 1):
        remaining = schedule(Progress(step, steps, start, remaining))
        kept.append(remaining)
    return kept


def test_amounts_are_counts_or_percentages_of_the_start():
    assert amount(40, 100) == 40
    assert amount("40 %", 65) == 26
    assert amount("12.5%", 100) == 13  # halves go up
    assert amount("7", 100) == 7
    assert amount("1e-999999999 %", 100) == 0


@given(
    percent=st.decimals(0, 100, places=3).filter(lambda number: number > 0),
    start=st.integers(1, 10**7),
)
def test_percentages_are_those_of_decimal_arithmetic(percent, start):
    exact = Decimal(percent) * start / 100  # 28 digits hold it
    kept, gone, left = (
        amount(f"{percent} %", start),
        start - linear(by=f"{percent} %")(Progress(1, None, start, start)),
        levels(float(percent))(Progress(1, None, start, start)) if percent < 100 else None,
    )
    assert kept == exact.to_integral_value(ROUND_HALF_UP)
    assert gone == exact.to_integral_value(ROUND_FLOOR)
    assert left in (exact.to_integral_value(ROUND_FLOOR), start - 1, None)


def test_percentages_lose_nothing_to_float_rounding():
    assert amount("57.5 %", 100) == 58
    assert linear(by="0.7 %")(Progress(1, None, 1000, 1000)) == 993
    assert levels(70)(Progress(1, None, 90, 90)) == 63


@pytest.mark.parametrize(
    "bad", [-1, "140 %", "-3 %", "many", "nan %", "1e999999999 %", "1/3 %", "%", "", 0.5, True]
)
def test_amounts_that_are_none_say_the_rule(bad):
    with pytest.raises(ScheduleError, match=r"keep is|to keep"):
        amount(bad, 100)


def test_hand_sized_schedules():
    assert walk(one_at_a_time(), 4, 5) == [3, 2, 1, 0, 0]
    assert walk(one_shot("40 %"), 10, 2) == [4, 4]
    assert walk(linear(0), 10, 5) == [8, 6, 4, 2, 0]
    assert walk(linear(4, steps=2), 10, 4) == [7, 4, 4, 4]
    assert walk(cubic(0, steps=2), 80, 2) == [10, 0]
    assert walk(geometric(10, steps=2), 1000, 2) == [100, 10]


def test_half_a_percent_of_the_connections_every_fifty_updates_gives_the_poster_counts():
    # annealing: 5,628 updates hold 112 events of 0.5 % of the initial count (2,949 and 6 weights).
    assert walk(linear(589_824 - 112 * 2_949), 589_824, 112)[-1] == 259_536
    assert walk(linear(1_280 - 112 * 6), 1_280, 112)[-1] == 608


@pytest.mark.parametrize(
    ("mu", "area"), [(0, 124.5), (1, 96.1), (10, 40.4), (100, 8.7), (300, 3.5), (1000, 1.2)]
)
def test_fsa_has_the_published_areas(mu, area):
    # Barbu et al. 2017, table 1: the area under M_e / M for 500 iterations, k apart.
    scale = 10**7
    kept = walk(fsa(0, mu=mu), scale, 500)
    assert sum(kept) / scale == pytest.approx(area, abs=0.051)


def test_fsa_follows_equation_three():
    n, mu, start, keep = 300, 100, 1000, 30
    for e, kept in enumerate(walk(fsa(keep, mu=mu), start, n), start=1):
        exact = keep + (start - keep) * max(0, (n - 2 * e) / (2 * e * mu + n))
        assert kept == pytest.approx(exact, abs=0.5 + 1e-6)


def test_fsa_finish_is_where_the_target_is_reached():
    kept = walk(fsa(100, mu=10, finish=0.7), 1000, 100)
    assert kept[69] == 100
    assert kept[68] > 100


def test_levels_go_finer_with_every_undo_then_hand_over():
    schedule = levels(25, 50, 70, then=one_at_a_time())
    assert schedule(Progress(1, None, 200, 100, undone=0)) == 25
    assert schedule(Progress(1, None, 200, 100, undone=1)) == 50
    assert schedule(Progress(1, None, 200, 100, undone=2)) == 70
    assert schedule(Progress(1, None, 200, 100, undone=3)) == 99
    assert schedule(Progress(1, None, 200, 1, undone=2)) == 0  # at least one goes


@given(
    start=st.integers(1, 5000),
    steps=st.integers(1, 60),
    part=st.floats(0, 100),
    name=st.sampled_from(["linear", "cubic", "geometric", "fsa", "one_shot"]),
)
def test_schedules_never_rise_and_end_at_their_target(start, steps, part, name):
    target = amount(f"{part} %", start)
    assume(name != "geometric" or target > 0)
    schedule = {
        "linear": lambda: linear(target, steps),
        "cubic": lambda: cubic(target, steps),
        "geometric": lambda: geometric(target, steps),
        "fsa": lambda: fsa(target, steps=steps),
        "one_shot": lambda: one_shot(target),
    }[name]()
    kept = walk(schedule, start, steps)
    assert all(a >= b for a, b in zip([start, *kept], kept, strict=False))
    assert kept[-1] == target
    assert all(k >= target for k in kept)


@pytest.mark.parametrize(
    "make",
    [
        lambda: linear(10, steps=5, by=3),
        lambda: geometric(10, steps=5, by="1 %"),
        *(
            lambda make=make, steps=steps: make(5, steps=steps)
            for make in (linear, cubic, geometric, fsa)
            for steps in (0, 2.5, float("nan"), "4", True)
        ),
        lambda: geometric(5, by=3),
        lambda: fsa(5, mu=-1),
        lambda: fsa(5, mu="x"),
        lambda: fsa(5, mu=float("nan")),
        lambda: fsa(5, finish=0),
        lambda: fsa(5, finish="half"),
        lambda: geometric(0),
        lambda: levels(),
        lambda: levels(50, 25),
        lambda: levels(50, 100),
        lambda: levels("50"),
        lambda: linear("x"),
        lambda: multiples_of(0, linear(5)),
        lambda: multiples_of(2.5, linear(5)),
    ],
)
def test_schedules_that_cannot_be_are_refused_when_made(make):
    with pytest.raises(ScheduleError):
        make()


def test_a_schedule_that_would_rise_is_refused():
    with pytest.raises(ScheduleError, match="cannot rise: keep 20 of 10; keep at most 10"):
        linear(20, steps=2)(Progress(1, None, 10, 10))


def test_a_schedule_without_a_number_of_steps_asks_for_it():
    with pytest.raises(ScheduleError, match=r"steps=.* total="):
        linear("40 %")(Progress(1, None, 10, 10))


def test_geometric_keeps_any_part_that_is_some():
    assert walk(geometric("0.01 %", steps=2), 1_000_000, 2) == [10_000, 100]


def test_multiples_are_rounded_up_and_never_rise():
    schedule = multiples_of(8, linear("60 %", steps=4))  # 29, 26, 22, 19 of 32
    assert walk(schedule, 32, 4) == [32, 32, 24, 24]
    assert walk(multiples_of(8, linear("50 %", steps=2)), 30, 2) == [24, 16]
    assert walk(multiples_of(8, linear(1, steps=1)), 5, 1) == [5]
    assert repr(schedule) == "multiples_of(8, linear('60 %', steps=4))"


def test_schedules_say_what_they_are():
    assert repr(linear("40 %", steps=3)) == "linear('40 %', steps=3)"
    assert repr(levels(25, 50, then=one_at_a_time())) == "levels(25, 50, then=one_at_a_time())"


def test_schedules_and_limits_need_no_torch():
    rules = "import sys, sentei.pruning.rules.limits, sentei; sentei.linear"
    code = f"{rules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_half_a_percent_every_fifty_updates():
    # 12 epochs of ceil(60,000 / 128) = 469 updates: 5,628, of which every fiftieth prunes.
    events = 12 * 469 // 50
    assert events == 112
    fc1, fc2 = (Progress(events, events, size, size) for size in (589_824, 1_280))
    assert linear(by="0.5 %")(fc1) == 589_824 - 112 * 2_949 == 259_536
    assert linear(by="0.5 %")(fc2) == 1_280 - 112 * 6 == 608
    assert geometric(by="0.5 %")(fc1) == 336_440
    assert geometric(by="0.5 %")(fc2) == 730
    assert linear("50 %", by=10_000)(fc1) == 589_824 // 2
    assert linear(by=7)(replace(fc2, step=1)) == 1_273


@pytest.mark.parametrize("by", ["0 %", "101 %", "much", "half %", -3, 0, True, 0.5])
def test_a_step_that_cannot_be_is_refused_when_made(by):
    with pytest.raises(ScheduleError, match="by="):
        linear(by=by)


def test_what_falls_on_the_end_of_the_first_part_is_in_it():
    told = cadence(275, 2750, None, 0.7)
    assert told.falls_on(1925)
    assert told.proposals == 7
    assert not told.falls_on(2200)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((True, 10, None, 1), "every= is a number of updates from 1.* got True"),
        ((5, True, None, 1), "total= is a number of updates from 1.* got True"),
        (("2 epochs", None, None, 1), "give steps_per_epoch="),
        (("2 epochs", None, 2.5, 1), "steps_per_epoch= is a number of updates from 1; got 2.5"),
        (("2 epochs", None, 0, 1), "steps_per_epoch= is a number of updates from 1; got 0"),
        ((5, 10, None, "half"), "finish= is a part of total=.* got finish='half'"),
        ((5, None, None, 0.5), "finish= is a part of total=.* total=None"),
        ((50, 10, None, 1), "nothing would ever be pruned"),
    ],
)
def test_a_cadence_that_cannot_be_is_refused(words, message):
    with pytest.raises(ScheduleError, match=message):
        cadence(*words)


def test_a_cadence_counts_epochs_in_updates():
    told = cadence("2 epochs", "5 epochs", 8, 1.0)
    assert (told.every, told.last, told.proposals) == (16, 40, 2)
