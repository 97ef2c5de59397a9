"""Budgets and floors: truth tables over measurements made by hand."""

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from sentei.errors import BudgetError
from sentei.network.encoding.format import FORMATS
from sentei.pruning.rules import limits
from sentei.pruning.rules.conditions import all_of, any_of
from sentei.pruning.rules.limits import parse_bytes, parse_seconds


@dataclass(frozen=True)
class Sizes:
    accuracy: float | None = 0.97
    loss: float = 0.1
    units: int = 100
    synapses: int = 79_400
    parameters: int = 79_510
    bytes: int = 320_000
    multiply_adds: int = 50_000
    metrics: dict = field(default_factory=lambda: {"f1": 0.5, "mae": 2.0})
    times: tuple = (0.002, 0.004)

    def latency(self, threads: int) -> tuple[float, float]:
        return tuple(time / threads for time in self.times)

    def bytes_in(self, format: str) -> int:
        return self.bytes if format == "safetensors" else self.bytes // 4

    def ram_in(self, format: str) -> int:
        return self.units


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
        (limits.metric_at_least("f1", 0.5), {}, True),
        (limits.metric_at_least("f1", 0.5001), {}, False),
        (limits.metric_at_most("mae", 2), {}, True),
        (limits.metric_at_most("mae", 1.99), {}, False),
        (limits.metric_within("f1", 0.1), {"metrics": {"f1": 0.4}}, True),
        (limits.metric_within("f1", 0.1), {"metrics": {"f1": 0.39}}, False),
        (limits.metric_within("f1", 0.1), {"metrics": {"f1": 0.9}}, True),
        (limits.metric_within("mae", 0.5, lower_is_better=True), {"metrics": {"mae": 2.5}}, True),
        (limits.metric_within("mae", 0.5, lower_is_better=True), {"metrics": {"mae": 2.6}}, False),
        (limits.metric_within("mae", 0.5, lower_is_better=True), {"metrics": {"mae": 0}}, True),
        (limits.multiply_adds_at_most("50 %"), {"multiply_adds": 25_000}, True),
        (limits.multiply_adds_at_most("50 %"), {"multiply_adds": 25_001}, False),
        (limits.multiply_adds_at_most(7), {"multiply_adds": 7}, True),
        (limits.multiply_adds_at_most(7), {"multiply_adds": 8}, False),
        (limits.latency_at_most("2 ms"), {}, True),
        (limits.latency_at_most(0.0019), {}, False),
        (limits.latency_at_most("1 ms", threads=2), {}, True),
        (limits.latency_at_most("900 us", threads=2), {}, False),
        (limits.latency_at_most("50 %"), {}, True),
        (limits.latency_at_most("49 %"), {}, False),
        (limits.latency_at_most("50 %"), {"times": (0.004, 0.007)}, False),
        (limits.units_at_most(40), {"units": 3}, True),
        (limits.synapses_at_most(1259), {"synapses": 38}, True),
        (limits.parameters_at_most("50 %"), {"parameters": 38}, True),
        (limits.bytes_at_most("32 KiB"), {"bytes": 300}, True),
        (limits.bytes_at_most("50 %"), {"bytes": 300}, True),
        (limits.ram_at_most("1 KiB"), {"units": 3}, True),
        (limits.accuracy_at_least(0.95), {"accuracy": 0.99}, True),
        (limits.accuracy_within(0.01), {"accuracy": 0.99}, True),
        (limits.loss_at_most(0.2), {"loss": 0.1}, True),
        (limits.loss_within(0.05), {"loss": 0.05}, True),
        (limits.units_at_most(0), {"units": 0}, True),
        (limits.units_at_most(0), {"units": 1}, False),
        (limits.units_at_most(100), {"units": 100}, True),  # as many as there are
        (limits.synapses_at_most(1), {"synapses": 1}, True),
        (limits.bytes_at_most(1), {"bytes": 1}, True),
        (limits.bytes_at_most(1), {"bytes": 2}, False),
        (limits.bytes_at_most("50 %"), {"bytes": 160_000}, True),
        (limits.bytes_at_most("50 %", format="c"), {"bytes": 4 * 40_000}, True),
        (limits.bytes_at_most("50 %", format="c"), {"bytes": 4 * 40_000 + 4}, False),
        (limits.ram_at_most(1), {"units": 1}, True),
        (limits.ram_at_most(1), {"units": 2}, False),
        (limits.ram_at_most("1 KiB", format="c-int8"), {"units": 1024}, True),
        (limits.ram_at_most("1 KiB", format="c-int8"), {"units": 1025}, False),
        (limits.accuracy_at_least(0), {"accuracy": 0.0}, True),
        (limits.accuracy_at_least(1), {"accuracy": 1.0}, True),
        (limits.accuracy_within(0), {"accuracy": 0.97}, True),
        (limits.accuracy_within(0), {"accuracy": 0.97 - 1e-9}, False),
        (limits.accuracy_within(1), {"accuracy": 0.0}, True),
        (limits.loss_at_most(0.2), {"loss": 0.2}, True),
        (limits.loss_at_most(-1.0), {"loss": -1.5}, True),  # a loss of the user's own
        (limits.loss_within(0), {"loss": 0.1}, True),
        (limits.loss_within(0), {"loss": 0.1000001}, False),
    ],
)
def test_limits_hold_as_they_read(limit, now, holds):
    assert limit(replace(START, **now), START) is holds


@pytest.mark.parametrize(
    ("samples", "before", "drop"), [(100, 54, 0.05), (1000, 549, 0.05), (10_000, 5_492, 0.05)]
)
def test_a_drop_of_exactly_so_many_samples_is_within_whatever_floats_say(samples, before, drop):
    """In floats 0.54 - 0.05 is more than 0.49; one sample more is too many in any case."""
    after = before - round(drop * samples)
    limit = limits.accuracy_within(drop)
    start = replace(START, accuracy=before / samples)
    assert limit(replace(START, accuracy=after / samples), start)
    assert not limit(replace(START, accuracy=(after - 1) / samples), start)
    assert not limit(replace(START, accuracy=after / samples - 1e-9), start)


@pytest.mark.parametrize(
    ("limit", "is_size", "formats"),
    [
        (limits.units_at_most(1), True, ()),
        (limits.synapses_at_most(1), True, ()),
        (limits.parameters_at_most(1), True, ()),
        (limits.bytes_at_most(1), True, ()),
        (limits.bytes_at_most(1, format="".join(("safe", "tensors"))), True, ()),  # as from argv
        (limits.bytes_at_most(1, format="onnx"), True, ("onnx",)),
        (limits.ram_at_most(1), True, ("c",)),
        (limits.accuracy_at_least(0.5), False, ()),
        (limits.accuracy_within(0.5), False, ()),
        (limits.loss_at_most(0.5), False, ()),
        (limits.loss_within(0.5), False, ()),
        (any_of(limits.units_at_most(1), limits.loss_at_most(0.5)), False, ()),
        (all_of(limits.units_at_most(1), limits.ram_at_most(1)), True, ("c",)),
        (
            all_of(
                limits.ram_at_most(1, "c-int8"),
                limits.bytes_at_most(1, "onnx"),
                limits.bytes_at_most(1, "c-int8"),
            ),
            True,
            ("c-int8", "onnx"),
        ),
        (any_of(limits.bytes_at_most(1), limits.bytes_at_most(1, "c")), True, ("c",)),
    ],
    ids=lambda value: repr(value) if callable(value) else None,
)
def test_what_a_limit_depends_on(limit, is_size, formats):
    told = [tell(START) for tell in limit.told]
    assert limit.is_size == is_size
    assert told == [
        f"80,000 bytes as {format}{' with 100 of RAM' * (format != 'onnx')}" for format in formats
    ]
    assert limit.least == max((FORMATS[format].least for format in formats), default=0)
    with pytest.raises(FrozenInstanceError):
        limit.is_size = not is_size


def test_a_memory_budget_is_a_limit_on_bytes_and_ram():
    budget = limits.MemoryBudget("c", "2 KiB", "1 kB")
    assert (budget.format, budget.bytes, budget.ram) == ("c", 2048, 1000)
    assert repr(budget.limit) == (
        "all_of(bytes_at_most(2048, format='c'), ram_at_most(1000, format='c'))"
    )
    fits = replace(START, bytes=4 * 2048, units=1000)
    assert budget.limit(fits, START)
    assert not budget.limit(replace(fits, bytes=4 * 2048 + 4), START)
    assert not budget.limit(replace(fits, units=1001), START)
    flash = limits.MemoryBudget("onnx", 512)
    assert (flash.ram, repr(flash.limit)) == (None, "bytes_at_most(512, format='onnx')")
    assert budget == limits.MemoryBudget("c", 2048, 1000)
    with pytest.raises(FrozenInstanceError):
        budget.bytes = 1
    with pytest.raises(ValueError, match="format 'd'"):
        limits.MemoryBudget("d", 1)
    with pytest.raises(ValueError, match="C format 'onnx'"):
        limits.MemoryBudget("onnx", 1, 1)
    with pytest.raises(BudgetError, match="more than 0 bytes; got 0"):
        limits.MemoryBudget("c", 1, 0)


def test_limits_combine():
    both = all_of(limits.units_at_most(40), limits.accuracy_at_least(0.9))
    either = any_of(limits.units_at_most(40), limits.accuracy_at_least(0.9))
    now = replace(START, units=50, accuracy=0.95)
    assert (both(now, START), either(now, START)) == (False, True)
    assert repr(both) == "all_of(units_at_most(40), accuracy_at_least(0.9))"
    assert not both.is_size
    assert any_of(limits.units_at_most(1), limits.bytes_at_most(9)).is_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *(("32 KiB", 32_768), ("32KiB", 32_768), ("1.5 kB", 1500), ("7", 7), (7, 7)),
        *(("2MiB", 2**21), ("3 B", 3), ("2 KB", 2000), ("2 MB", 2_000_000), (" 1 kB ", 1000)),
        *(("2 GB", 2_000_000_000), ("2 GiB", 2**31), ("0.7 B", 1), ("-1", -1), ("1e3", 1000)),
    ],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("bad", ["32 Kib", "lots", "", "1 XB", "KiB", None, "inf", "nan B"])
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
        lambda: limits.loss_within(float("inf")),
        lambda: limits.loss_within(float("nan")),
        lambda: limits.loss_at_most(float("nan")),
        lambda: limits.accuracy_at_least(1.001),
        lambda: limits.accuracy_at_least(-0.001),
        lambda: limits.bytes_at_most("101 %"),
        lambda: limits.bytes_at_most("lots"),
        lambda: limits.parameters_at_most("x"),
        lambda: limits.metric_at_least("f1", float("nan")),
        lambda: limits.metric_at_most("f1", float("inf")),
        lambda: limits.metric_within("f1", -0.1),
        lambda: limits.metric_within("f1", float("nan")),
        lambda: limits.multiply_adds_at_most(-1),
        lambda: limits.multiply_adds_at_most("lots"),
        lambda: limits.latency_at_most(0),
        lambda: limits.latency_at_most("0 %"),
        lambda: limits.latency_at_most("-1 ms"),
        lambda: limits.latency_at_most("2 hours"),
        lambda: limits.latency_at_most("nan s"),
        lambda: limits.latency_at_most("2 ms", threads=0),
        lambda: limits.ram_at_most(0),
        lambda: limits.ram_at_most(-1),
    ],
)
def test_limits_that_cannot_be_are_refused_when_made(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_any_part_of_the_synapses_that_is_some_may_be_kept():
    """Whether a part is none is judged by a thousand million synapses."""
    assert repr(limits.synapses_at_most("0.00000005 %")) == "synapses_at_most('0.00000005 %')"
    with pytest.raises(BudgetError, match=r"keep 1 or more; got '0\.00000004 %'"):
        limits.synapses_at_most("0.00000004 %")


def test_a_count_of_more_than_there_are_is_refused_and_says_how_many_there_are():
    with pytest.raises(BudgetError, match=r"synapses_at_most\(80000\).*79,400 synapses"):
        limits.synapses_at_most(80_000)(START, START)


def test_formats_that_do_not_exist_or_do_not_fit_are_refused():
    for format in ("safetensor", "x", ""):
        with pytest.raises(ValueError, match="format"):
            limits.bytes_at_most(1, format)
    for format in ("safetensors", "onnx", "c-int4"):
        with pytest.raises(ValueError, match="C format"):
            limits.ram_at_most(1, format)
    for format in FORMATS:
        assert limits.bytes_at_most(START.bytes, format)(START, START)


def test_an_accuracy_limit_without_classes_says_so():
    with pytest.raises(BudgetError, match="loss_within"):
        limits.accuracy_within(0.01)(replace(START, accuracy=None), START)


def test_an_unknown_metric_is_refused_with_those_there_are():
    for limit in (
        limits.metric_at_least("f2", 0.5),
        all_of(limits.units_at_most(3), limits.metric_within("f2", 0.1)),
    ):
        with pytest.raises(BudgetError, match=r"no metric 'f2' is measured\. Known: 'f1', 'mae'"):
            limit.check(START.metrics)
    with pytest.raises(BudgetError, match="no metric 'f2' is measured"):
        limits.metric_at_least("f2", 0.5)(START, START)
    with pytest.raises(BudgetError, match="Known: none; evaluate= takes a function"):
        limits.metric_at_most("f1", 1).check({})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2 ms", 0.002), ("300us", 3e-4), ("5 µs", 5e-6), ("1.5 s", 1.5), (0.25, 0.25), ("3", 3)],
)
def test_times_are_read_as_people_write_them(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds, rel=1e-12)
