"""Figures of the annealing reproduction: the poster's training curves, and three of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sentei.jobs.results import Result
from sentei.papers import Order
from sentei.papers.annealing.judging import DENSE_SYNAPSES, final
from sentei.papers.annealing.networks import VARIANTS
from sentei.reporting.figures import BLUE, INK, ORANGE, PALE, canvas

Runs = Mapping[str, Sequence[Result]]
COLOURS = {"annealed": BLUE, "dropout": ORANGE, "neither": INK}


def draw(order: Order, runs: Runs, selected: Mapping[float, Sequence[Result]]) -> None:
    """Draw every figure and write it as PNG and SVG."""
    for name, make in (
        ("curves", lambda axes: curves(axes, runs)),
        ("accuracies", lambda axes: accuracies(axes, runs)),
        ("kept", lambda axes: kept(axes, runs)),
        ("selection", lambda axes: selection(axes, selected)),
    ):
        figure, axes = canvas()
        make(axes)
        order.figure(name, figure)


def curves(axes: Axes, runs: Runs) -> None:
    """Plot training (dashed) and test error by epoch: mean over seeds, with standard deviation."""
    for name, colour in COLOURS.items():
        for which, style in (("test", "-"), ("train", "--")):
            errors = _errors(runs[name], which)
            epochs = np.arange(1, errors.shape[1] + 1)
            mean, spread = errors.mean(0), errors.std(0)
            label = VARIANTS[name].words if which == "test" else None
            axes.plot(epochs, mean, style, color=colour, label=label)
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="epoch", ylabel="wrong (%)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("test (solid) and training (dashed)", loc="left", color=INK, fontsize=10)
    axes.legend(frameon=False)


def accuracies(axes: Axes, runs: Runs) -> None:
    """Plot final test accuracy by variant: a dot for each seed, and a bar at the mean."""
    names = list(runs)[::-1]
    for published, words in ((98.89, "ANN_A"), (98.76, "ANN_D")):
        axes.axvline(published, color=PALE, zorder=0)
        axes.text(published, len(names) - 0.4, words, ha="center", fontsize=8, color=INK)
    for place, name in enumerate(names):
        values = 100 * np.array(final(runs[name]))
        colour = COLOURS.get(name.partition("-")[0], BLUE)
        axes.plot(values, np.full(len(values), place), "o", color=colour, ms=5, alpha=0.6)
        axes.plot([values.mean()], [place], "|", color=INK, ms=14, mew=2)
    axes.set_yticks(range(len(names)), [VARIANTS[name].words for name in names])
    axes.set(xlabel="test accuracy (%)")


def kept(axes: Axes, runs: Runs) -> None:
    """Plot the share of connections left in the first dense layer, by epoch."""
    for name, style in (("annealed", "-"), ("geometric", "--"), ("fsa", "-."), ("fsa-0.7", ":")):
        remaining = [100 * at["fc1"] / DENSE_SYNAPSES["fc1"] for at in runs[name][0]["kept"]]
        axes.plot([0, *range(1, len(remaining) + 1)], [100, *remaining], style, color=BLUE,
                  label=VARIANTS[name].words)  # fmt: skip
    axes.set(xlabel="epoch", ylabel="connections left in fc1 (%)", ylim=(0, 102))
    axes.legend(frameon=False)


def selection(axes: Axes, selected: Mapping[float, Sequence[Result]]) -> None:
    """Plot how many of the ten variables are found, against the cost of the schedule."""
    for mu, results in selected.items():
        area = results[0]["area"]
        found = [result["found"] for result in results]
        axes.plot([area] * len(found), found, "o", color=BLUE, alpha=0.5)
        axes.plot([area], [sum(found) / len(found)], "_", color=INK, ms=18, mew=2)
        axes.annotate(f"μ = {mu:g}", (area, 0.3), ha="center", fontsize=8, color=INK)
    axes.set(xscale="log", ylim=(0, 10.5))
    axes.set(xlabel="area under the schedule (cost, in M · N)", ylabel="of 10 variables, found")


def _errors(runs: Sequence[Result], which: str) -> Any:
    """Return the error in percent, (seeds, epochs)."""
    return 100 * (1 - np.array([[epoch[0] for epoch in run[which]] for run in runs]))
