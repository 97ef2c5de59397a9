"""Schedules: small numbers by hand, published points, and properties of all of them."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

import numpy as np
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
        lambda: fsa(5, mu=float("inf")),
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
    with pytest.raises((ScheduleError, TypeError)):  # a TypeError: no number, or no whole one
        make()


def at(start: int, remaining: int | None = None, step: int = 1, total: int | None = None, **more):
    return Progress(step, total, start, start if remaining is None else remaining, **more)


@pytest.mark.parametrize(
    ("keep", "start", "count"),
    [
        (0, 10, 0),
        (12, 10, 12),  # a schedule refuses what is more than there are
        ("0 %", 10, 0),
        ("100 %", 10, 10),
        ("12.4 %", 100, 12),
        ("0.4 %", 100, 0),
        ("0.5 %", 100, 1),
        ("50 %", 3, 2),
        (" 40%", 10, 4),
        (" 40 ", 10, 40),
        ("1e1 %", 50, 5),
        ("-0 %", 10, 0),
    ],
)
def test_amounts_by_hand(keep, start, count):
    assert amount(keep, start) == count


@pytest.mark.parametrize("bad", ["100.001 %", "-0.001 %", "4.5", "0.5", "%40", "40 percent"])
def test_amounts_just_outside_are_refused(bad):
    with pytest.raises(ScheduleError, match="to keep is a count like 40"):
        amount(bad, 10)


@pytest.mark.parametrize(
    ("schedule", "progress", "kept"),
    [
        (one_at_a_time(), at(9, 1), 0),
        (one_at_a_time(), at(9, 0), 0),
        # Less is left than the target: the schedule keeps it all, and does not rise.
        (one_shot(4), at(10, 3), 3),
        (one_shot("100 %"), at(10), 10),
        (linear(4, steps=2), at(10, 3), 3),
        (linear(by=3), at(10, 2, step=2), 2),
        (cubic(4, steps=2), at(10, 3), 3),
        (geometric(4, steps=2), at(10, 3), 3),
        (geometric(by="10 %"), at(10, 3), 3),
        (fsa(4, steps=2), at(10, 3), 3),
        (multiples_of(4, linear(4, steps=2)), at(10, 3), 3),
        # The target is kept, and not less.
        (linear(5, by=3), at(10, step=2), 5),
        (linear(5, by=3), at(10, step=1), 7),
        (linear(by=4), at(10, step=3), 0),
        (linear(by=1), at(10), 9),
        (linear(by="100 %"), at(10), 0),
        (linear(by="0.9 %"), at(100), 100),
        (geometric(9, by="10 %"), at(10, step=2), 9),
        (geometric(by="10 %"), at(10, step=2), 8),
        (geometric(by="10 %"), at(10, step=3), 7),
        (geometric(by="100 %"), at(10), 1),
        (geometric(1, steps=1), at(10), 1),
        # Halves go up.
        (linear(0, steps=2), at(5), 3),
        (cubic(0, steps=2), at(4), 1),
        (geometric(by="50 %"), at(5), 3),
        # steps= counts, and total= only without it; after the last step the target stays.
        (linear(0, steps=2), at(10, step=1, total=10), 5),
        (linear(0), at(10, step=1, total=10), 9),
        (linear(2, steps=2), at(10, step=3, total=10), 2),
        (cubic(2, steps=2), at(10, step=3), 2),
        (fsa(2, steps=2), at(10, step=3), 2),
        (geometric(2, steps=2), at(10, step=3), 2),
        # fsa: p = 1 / (1 * 4) of a linear fall, and with mu = 2: (1 - p) / (1 + 2 p) = 1 / 2.
        (fsa(2, mu=0, steps=4, finish=1), at(10), 8),
        (fsa(2, mu=2, steps=4, finish=1), at(10), 6),
        (fsa(2, mu=2, steps=4, finish=0.5), at(10), 4),
        (fsa(2, mu=2, steps=4, finish=0.5), at(10, step=2), 2),
        (fsa(2, mu=2, steps=4, finish=0.25), at(10), 2),
        # levels: a part of what is left now, one at least.
        (levels(0), at(10), 0),
        (levels(99), at(10), 9),
        (levels(99.5), at(2000, 1000), 995),
        (levels(50), at(10, 5), 2),
        (levels(50), at(10, 1), 0),
        (levels(50), at(10, 0), 0),
        (levels(50, 50), at(10, undone=1), 5),
        (levels(50), at(10, 7, undone=1), 7),
        (levels(50), at(10, 7, undone=2), 7),
        (levels(50, then=one_at_a_time()), at(10, 7, undone=2), 6),
        (multiples_of(1, one_at_a_time()), at(10), 9),
        (multiples_of(8, one_shot(8)), at(20), 8),
        (multiples_of(8, one_shot(9)), at(20), 16),
    ],
    ids=lambda value: repr(value) if callable(value) else None,
)
def test_schedules_by_hand(schedule, progress, kept):
    assert schedule(progress) == kept


@pytest.mark.parametrize("make", [linear, cubic, geometric, fsa], ids=lambda make: make.__name__)
def test_steps_are_any_whole_number_from_one(make):
    assert make(5, steps=np.int64(1))(at(10)) == 5
    assert make(5, steps=1)(at(10)) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: one_shot(-1), "a count to keep is 0 or more; got -1"),
        (lambda: one_shot("x"), "to keep"),
        (lambda: cubic("x"), "to keep"),
        (lambda: fsa("x"), "to keep"),
        (lambda: geometric("x"), "to keep"),
        (lambda: linear("x", by=3), "to keep"),
        (lambda: geometric("0 %"), "never reaches 0; keep at least one"),
        (lambda: geometric(by="0 %"), "by= is what to remove at each step"),
        (lambda: geometric(by="100.1 %"), "by= is what to remove at each step"),
        (lambda: linear(by="100.1 %"), "by= is what to remove at each step"),
        (lambda: linear(by="-1 %"), "by= is what to remove at each step"),
        (lambda: linear(steps=1, by=1), "by= determines the number of steps"),
        (lambda: fsa(5, mu=-0.001), "mu >= 0"),
        (lambda: fsa(5, finish=1.001), "0 < finish <= 1"),
        (lambda: fsa(5, finish=float("nan")), "0 < finish <= 1"),
        (lambda: levels(-0.001), "rising percentages below 100"),
        (lambda: levels(50, float("nan")), "rising percentages below 100"),
        (lambda: multiples_of(-8, linear(5)), "a count, 1 or more; got -8"),
    ],
)
def test_a_schedule_that_cannot_be_says_which_argument(make, message):
    with pytest.raises(ScheduleError, match=message):
        make()


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_that_are_no_count_are_named(steps):
    with pytest.raises(ScheduleError, match="steps= is a count, 1 or more"):
        linear(5, steps=steps)


@pytest.mark.parametrize("steps", [2.5, 2.0, "4", True])
def test_steps_that_are_no_whole_number_are_named(steps):
    with pytest.raises(TypeError, match="linear: `steps` must be a whole number or None"):
        linear(5, steps=steps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fsa(5, mu=True), "fsa: `mu` must be a number; got True"),
        (lambda: fsa(5, finish="half"), "fsa: `finish` must be a number; got 'half'"),
        (lambda: levels(True), "levels: `percents` must be a number; got True"),
        (lambda: multiples_of(True, linear(5)), "multiples_of: `number` must be a whole number"),
        (lambda: cadence(True, 10, None, 1), "`every` must be a whole number or a text; got True"),
        (lambda: cadence(5, 10, 2.5, 1), "`steps_per_epoch` must be a whole number or None"),
        (lambda: cadence(5, 10, None, "half"), "`finish` must be a number; got 'half'"),
    ],
)
def test_what_is_no_number_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_part_of_nothing_is_refused_where_it_is_known():
    with pytest.raises(ScheduleError, match="never reaches 0: '4 %' of 10 is 0"):
        geometric("4 %", steps=2)(at(10))
    assert geometric("5 %", steps=2)(at(10, step=2)) == 1


def test_two_schedules_are_equal_if_they_say_the_same():
    assert linear("40 %", steps=3) == linear("40 %", steps=3)
    assert len({linear(4, steps=3), linear(4, steps=3), linear(5, steps=3)}) == 2
    assert linear(4, steps=3) != cubic(4, steps=3)
    with pytest.raises(FrozenInstanceError):
        linear(4).words = "cubic(4)"  # pyright: ignore
    with pytest.raises(FrozenInstanceError):
        at(10).step = 2
    assert at(10).starts == {}
    assert at(10).undone == 0


@pytest.mark.parametrize("make", [linear, cubic, fsa, geometric])
def test_a_target_above_the_start_is_refused_and_the_start_itself_is_not(make):
    assert make(10, steps=2)(at(10)) == 10
    with pytest.raises(ScheduleError, match="keep 11 of 10"):
        make(11, steps=2)(at(10))


def test_a_schedule_that_would_rise_is_refused():
    with pytest.raises(ScheduleError, match="cannot rise: keep 20 of 10; keep at most 10"):
        linear(20, steps=2)(Progress(1, None, 10, 10))


def test_a_schedule_without_a_number_of_steps_asks_for_it():
    with pytest.raises(ScheduleError, match=r"steps=.* total="):
        linear("40 %")(Progress(1, None, 10, 10))


def test_geometric_keeps_any_part_that_is_some():
    assert geometric("0.00000005 %", steps=1)(at(10**10)) == 5
    with pytest.raises(ScheduleError, match="never reaches 0"):  # none of a thousand million
        geometric("0.00000004 %")
    assert walk(geometric("0.01 %", steps=2), 1_000_000, 2) == [10_000, 100]


def test_multiples_are_rounded_up_and_never_rise():
    schedule = multiples_of(8, linear("60 %", steps=4))  # 29, 26, 22, 19 of 32
    assert walk(schedule, 32, 4) == [32, 32, 24, 24]
    assert walk(multiples_of(8, linear("50 %", steps=2)), 30, 2) == [24, 16]
    assert walk(multiples_of(8, linear(1, steps=1)), 5, 1) == [5]
    assert repr(schedule) == "multiples_of(8, linear('60 %', steps=4))"


def test_schedules_say_what_they_are():
    assert repr(linear("40 %", steps=3)) == "linear('40 %', steps=3)"
    assert repr(linear(by=3)) == "linear(0, by=3)"
    assert repr(cubic(4)) == "cubic(4, steps=None)"
    assert repr(geometric(by="5 %")) == "geometric(1, by='5 %')"
    assert repr(geometric(2, 5)) == "geometric(2, steps=5)"
    assert repr(fsa(4, mu=5)) == "fsa[mu=5, finish=0.5](4, steps=None)"
    assert repr(one_shot("40 %")) == "one_shot('40 %')"
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
        ((0, 10, None, 1), "every= is a number of updates from 1.* got 0"),
        ((5, "often", None, 1), "total= is a number of updates from 1.* got 'often'"),
        (("2 epochs", None, None, 1), "give steps_per_epoch="),
        (("2 epochs", None, 0, 1), "steps_per_epoch= is a number of updates from 1; got 0"),
        ((5, 10, None, 1.5), "finish= is a part of total=.* got finish=1.5"),
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
