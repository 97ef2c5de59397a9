"""The values that a run's `keeping=` demands, as figures draw them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import sentei
from sentei.metrics import R2
from sentei.pruning.measuring import Measurement
from sentei.reporting import figures
from sentei.reporting.floors import levels

FIRST = Measurement(0.9, 0.25, metrics={R2: 0.8, "dice": 0.5})

EXPECTED = [
    (sentei.accuracy_within(0.25), [("accuracy", 0.65)]),
    (sentei.accuracy_at_least(0.75), [("accuracy", 0.75)]),
    (sentei.loss_within(0.5), [("loss", 0.75)]),
    (sentei.loss_at_most(0.5), [("loss", 0.5)]),
    (sentei.metric_at_least("dice", 0.25), [("dice", 0.25)]),
    (sentei.metric_at_most("dice", 1), [("dice", 1)]),
    (sentei.metric_within("dice", 0.25), [("dice", 0.25)]),
    (sentei.metric_within("dice", 0.25, lower_is_better=True), [("dice", 0.75)]),
    (sentei.metric_within("unmeasured", 0.25), []),
    (
        sentei.all_of(sentei.accuracy_at_least(0.5), sentei.loss_at_most(1.5)),
        [("accuracy", 0.5), ("loss", 1.5)],
    ),
    (sentei.any_of(sentei.accuracy_at_least(0.5), sentei.loss_at_most(1.5)), []),
    (sentei.units_at_most("50 %"), []),
    (sentei.bytes_at_most("32 KiB", format="c"), []),
]


@pytest.mark.parametrize(("limit", "expected"), EXPECTED, ids=lambda each: str(each)[:40])
def test_a_limit_is_read_from_its_text(limit, expected):
    found = levels(repr(limit), FIRST)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [level for _, level in found] == pytest.approx([level for _, level in expected])


@pytest.mark.parametrize("words", [None, "", "<lambda>#87563f66", "module.holds#1", "'x'"])
def test_what_is_no_limit_of_ours_has_no_levels(words):
    assert levels(words, FIRST) == []


def test_every_floor_is_a_line_of_its_curve():
    steps = [_step(0.9, 0.25, 10), _step(0.8, 0.5, 5)]
    figure, axes = figures.canvas()
    figures.tradeoff(axes, steps, [("accuracy", 0.75), ("loss", 0.625), ("dice", 3)], "7 samples")
    quality, loss = figure.axes
    assert _flat(quality) == [75]
    assert _flat(loss) == [0.625]
    (legend,) = figure.legends
    assert [each.get_text() for each in legend.get_texts()] == [
        "accuracy", "floor", "loss", "highest loss allowed",
    ]  # fmt: skip
    assert "7 samples" in axes.get_xlabel()


def test_all_pictures_have_one_scale_of_colours():
    figure = figures.blank(4, 2)
    weights = torch.arange(1, 403).float().view(3, 134) * torch.tensor([1, -1]).repeat(67)
    figures.receptive_fields(figure, weights, (2, 67), [0, 1], "layer")
    *pictures, key = figure.axes
    high = 1 + 0.995 * 267  # of 268 numbers from 1
    for axes in pictures:
        assert axes.images[0].get_clim() == pytest.approx((-high, high))
    assert key.get_ylabel() == "weight"


def _step(accuracy, loss, units):
    return SimpleNamespace(measured=SimpleNamespace(accuracy=accuracy, loss=loss, units=units))


def _flat(axes):
    """Return the heights of the horizontal lines across the whole axes."""
    lines = [line for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]]
    return [float(line.get_ydata()[0]) for line in lines]
