"""Descriptions tell parts of a run apart, and are the same in every process."""

import functools
import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sentei
from sentei.criteria import fixed
from sentei.describing import described


def first(probe, group):
    return torch.arange(group.size).double()


def second(probe, group):
    return -torch.arange(group.size).double()


def doc(probe, group):
    """Another docstring, and the code of `first`."""
    return torch.arange(group.size).double()


def power(exponent):
    return lambda probe, group: torch.arange(group.size).double() ** exponent


def offset(probe, group, by=0.0, *, times=1):
    return torch.arange(group.size).double() * times + by


@dataclass(frozen=True)
class Scaled:
    factor: float
    inner: object = first

    def __call__(self, probe, group):
        return self.factor * self.inner(probe, group)


class Plain:
    def __init__(self, factor):
        self.factor = factor
        self._calls = object()

    def __call__(self, probe, group):
        return torch.arange(group.size) * self.factor

    def method(self, probe, group):
        return self(probe, group)


class Doubled(Plain):
    def __call__(self, probe, group):
        return 2 * super().__call__(probe, group)


class Worded(Plain):
    @property
    def words(self):
        return f"worded {self.factor}"


def network(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def large(last):
    scores = torch.zeros(5000)
    scores[2500] = last  # in the middle, which a tensor's repr leaves out
    return scores


PARTS = [
    lambda: first,
    lambda: second,
    lambda: lambda probe, group: torch.zeros(group.size),
    lambda: lambda probe, group: torch.ones(group.size),
    lambda: lambda probe, group: torch.full((group.size,), 2.5),
    lambda: power(1),
    lambda: power(2),
    lambda: offset,
    lambda: functools.partial(offset, by=1.0),
    lambda: functools.partial(offset, by=2.0),
    lambda: functools.partial(offset, times=2),
    lambda: Scaled(1.0),
    lambda: Scaled(2.0),
    lambda: Scaled(1.0, second),
    lambda: Plain(1),
    lambda: Plain(2),
    lambda: Plain(2).method,
    lambda: Doubled(2),
    lambda: Worded(1),
    lambda: Worded(2),
    lambda: fixed(large(1.0)),
    lambda: fixed(large(2.0)),
    lambda: Scaled(1.0, np.arange(3.0)),
    lambda: Scaled(1.0, np.arange(4.0)),
    lambda: Scaled(1.0, network(0)),
    lambda: Scaled(1.0, network(1)),
    lambda: Scaled(1.0, {"a": first, "b": [1, 2]}),
    lambda: Scaled(1.0, {"a": first, "b": [1, 3]}),
    lambda: Scaled(1.0, {"b", "a"}),
    lambda: Scaled(1.0, ("a", "b")),
    lambda: sentei.criteria.magnitude,
    lambda: sentei.criteria.CRITERIA["taylor1-absolute"],
    lambda: "magnitude",
]
SCHEDULES = [
    sentei.one_at_a_time,
    lambda: sentei.linear("10 %", steps=2),
    lambda: sentei.multiples_of(2, lambda progress: progress.remaining - 1),
    lambda: sentei.multiples_of(2, lambda progress: progress.remaining - 2),
    lambda: lambda progress: progress.remaining - 1,
    lambda: lambda progress: progress.remaining - 2,
]
PROPOSALS = [
    *(lambda make=make: sentei.ranked(make(), sentei.one_at_a_time()) for make in PARTS),
    *(lambda make=make: sentei.ranked(first, make()) for make in SCHEDULES[1:]),
    lambda: sentei.ranked(first, sentei.one_at_a_time(), within="group"),
    lambda: sentei.ranked(first, sentei.one_at_a_time(), repair="mean"),
    lambda: sentei.only("neuron", sentei.ranked(first, sentei.one_at_a_time())),
    lambda: sentei.only("neuron", sentei.ranked(second, sentei.one_at_a_time())),
    lambda: sentei.below(first, 0.5),
    lambda: sentei.below(second, 0.5),
    lambda: sentei.when_stalled(sentei.ranked(first, sentei.one_at_a_time())),
]


def every_text():
    return [described(make()) for make in (*PARTS, *SCHEDULES, *PROPOSALS)]


def test_different_parts_have_different_descriptions():
    texts = every_text()
    same = [(a, b) for a, b in itertools.combinations(range(len(texts)), 2) if texts[a] == texts[b]]
    assert not same
    assert all("0x" not in text for text in texts)


def test_descriptions_are_the_same_in_another_process():
    program = "import test_describing as t; print('\\n'.join(t.every_text()))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == every_text()


def test_a_docstring_changes_nothing():
    one, other = described(first), described(doc)
    assert one is not None
    assert other is not None
    assert one.partition("#")[2] == other.partition("#")[2]


def test_state_is_no_part_of_a_description():
    stalled = sentei.when_stalled(sentei.twins(15))
    before = described(stalled)
    stalled.before = 0.5
    assert described(stalled) == before


def test_what_holds_itself_is_described():
    held = Plain(1)
    held.own = held
    text = described(held)
    assert text is not None
    assert text.endswith("(factor=1, own=...)")


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (None, None),
        (sentei.accuracy_within(0.01), "accuracy_within(0.01)"),
        (
            sentei.ranked("ablation", sentei.one_at_a_time()),
            "ranked(criterion='ablation', schedule=one_at_a_time(), within='network', repair=None, "
            "keep=None, at_least=0, multiples_of=1, alike=tuple(), racing=False, "
            "lazy=False)",
        ),
        (sentei.criteria.magnitude, "magnitude"),  # decorated with torch.no_grad
        (sentei.twins(15), "twins(degrees=15, centre='half', repair='affine', order='best_first')"),
    ],
)
def test_sentei_s_own_parts_are_described_by_the_call_that_makes_them(part, text):
    assert described(part) == text
