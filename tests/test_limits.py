"""Budgets and floors: truth tables over measurements made by hand."""

from dataclasses import dataclass, replace

import pytest

from sentei.errors import BudgetError
from sentei.pruning.rules import limits
from sentei.pruning.rules.limits import parse_bytes


@dataclass(frozen=True)
class Sizes:
    accuracy: float | None = 0.97
    loss: float = 0.1
    units: int = 100
    synapses: int = 79_400
    parameters: int = 79_510
    bytes: int = 320_000

    def bytes_in(self, format: str) -> int:
        return self.bytes if format == "safetensors" else self.bytes // 4


START = Sizes()


@pytest.mark.parametrize(
    ("limit", "now", "holds"),
    [
        (limits.units_at_most(40), {"units": 40}, True),
        (limits.units_at_most(40), {"units": 41}, False),
        (limits.units_at_most("40 %"), {"units": 40}, True),
        (limits.units_at_most("40 %"), {"units": 41}, False),
        (limits.synapses_at_most(1259), {"synapses": 1259}, True),
        (limits.synapses_at_most(1259), {"synapses": 1260}, False),
        (limits.parameters_at_most("50 %"), {"parameters": 39_755}, True),
        (limits.parameters_at_most("50 %"), {"parameters": 39_756}, False),
        (limits.bytes_at_most("32 KiB"), {"bytes": 32_768}, True),
        (limits.bytes_at_most("32 KiB"), {"bytes": 32_769}, False),
        (limits.bytes_at_most("32 KiB", format="c"), {"bytes": 4 * 32_768}, True),
        (limits.bytes_at_most("50 %"), {"bytes": 160_001}, False),
        (limits.accuracy_at_least(0.95), {"accuracy": 0.95}, True),
        (limits.accuracy_at_least(0.95), {"accuracy": 0.9499}, False),
        (limits.accuracy_within(0.01), {"accuracy": 0.96}, True),
        (limits.accuracy_within(0.01), {"accuracy": 0.9598}, False),
        (limits.loss_at_most(0.2), {"loss": 0.21}, False),
        (limits.loss_at_most(0.2), {"loss": float("nan")}, False),
        (limits.loss_within(0.05), {"loss": 0.15}, True),
        (limits.loss_within(0.05), {"loss": 0.16}, False),
    ],
)
def test_limits_hold_as_they_read(limit, now, holds):
    assert limit(replace(START, **now), START) is holds


def test_limits_combine():
    both = limits.all_of(limits.units_at_most(40), limits.accuracy_at_least(0.9))
    either = limits.any_of(limits.units_at_most(40), limits.accuracy_at_least(0.9))
    now = replace(START, units=50, accuracy=0.95)
    assert (both(now, START), either(now, START)) == (False, True)
    assert repr(both) == "all_of(units_at_most(40), accuracy_at_least(0.9))"
    assert not both.is_size
    assert limits.any_of(limits.units_at_most(1), limits.bytes_at_most(9)).is_size


@pytest.mark.parametrize(
    ("text", "count"),
    [("32 KiB", 32_768), ("32KiB", 32_768), ("1.5 kB", 1500), ("7", 7), (7, 7), ("2MiB", 2**21)],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("bad", ["32 Kib", "lots", "", "1 XB", "KiB", None])
def test_sizes_that_are_none_say_the_units(bad):
    with pytest.raises(BudgetError, match="KiB"):
        parse_bytes(bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: limits.bytes_at_most(0),
        lambda: limits.bytes_at_most("-1 KiB"),
        lambda: limits.units_at_most(-1),
        lambda: limits.units_at_most("120 %"),
        lambda: limits.synapses_at_most(0),
        lambda: limits.synapses_at_most("0 %"),
        lambda: limits.accuracy_within(1.5),
        lambda: limits.accuracy_within(float("nan")),
        lambda: limits.accuracy_at_least(97),
        lambda: limits.loss_at_most(float("inf")),
        lambda: limits.loss_within(-0.1),
    ],
)
def test_limits_that_cannot_be_are_refused_when_made(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_a_count_of_more_than_there_are_is_refused_and_says_how_many_there_are():
    with pytest.raises(BudgetError, match=r"synapses_at_most\(80000\).*79,400 synapses"):
        limits.synapses_at_most(80_000)(START, START)


def test_an_accuracy_limit_without_classes_says_so():
    with pytest.raises(BudgetError, match="loss_within"):
        limits.accuracy_within(0.01)(replace(START, accuracy=None), START)
