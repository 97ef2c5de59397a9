"""Curves, confusions and counts."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from sentei.papers import Order
from sentei.papers.jobs import Result
from sentei.papers.sensitivity.judging import accuracies
from sentei.papers.sensitivity.plan import CONTROLS, WIDTHS
from sentei.reporting.figures import EARTH, INK, LEAF, PALE, canvas

Runs = Mapping[str, Sequence[Result]]


def draw(order: Order, runs: Runs) -> None:
    """All figures of the page."""
    for name, make, size in (
        ("curves", curves, (7, 4.2)),
        ("confusion", confusion, (6.2, 5.6)),
        ("controls", controls, (7, 4.2)),
        ("layers", layers, (7, 3.4)),
        ("widths", widths, (7, 3.8)),
    ):
        figure, axes = canvas(*size)
        make(axes, runs)
        order.figure(name, figure)


def curves(axes: Axes, runs: Runs) -> None:
    """Validation accuracy by epoch, every seed."""
    for name, words, colour in (
        ("sigmoid-rmsprop", "16-64-26, not pruned", INK),
        ("rmsprop-pruned", "16-64-26, pruned every 5 epochs", LEAF),
        ("deep-often", "16-60-45-30-26, pruned every 5 epochs", EARTH),
    ):
        for number, run in enumerate(runs[name]):
            epochs, right = np.array(run["curve"]).T
            label = words if number == 0 else None
            axes.plot(epochs, 100 * right, color=colour, alpha=0.7, lw=1.2, label=label)
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes.legend(frameon=False, loc="lower right")


def confusion(axes: Axes, runs: Runs) -> None:
    """Which letter is taken for which, after pruning: all seeds together, errors only."""
    total = np.sum([run["confusion"] for run in runs["deep-once"]], axis=0)
    share = 100 * total / total.sum(1, keepdims=True)
    np.fill_diagonal(share, 0)
    picture = axes.imshow(share, cmap="YlGn", vmin=0)
    letters = list(string.ascii_uppercase)
    axes.set_xticks(range(26), letters, fontsize=7)
    axes.set_yticks(range(26), letters, fontsize=7)
    axes.set(xlabel="said", ylabel="letter")
    axes.grid(visible=False)
    axes.figure.colorbar(picture, ax=axes, label="% of the letter's samples")


def controls(axes: Axes, runs: Runs) -> None:
    """Test accuracy after as many units went at the same moments, by criterion."""
    names = ("weight_change", *CONTROLS)
    for number, (run, words, colour) in enumerate(
        (("deep-once", "one check", INK), ("deep-often", "seven checks", LEAF),
         ("deep-relu-often", "seven checks, ReLU", EARTH))
    ):  # fmt: skip
        for place, name in enumerate(names):
            values = [
                100 * (one if name == "weight_change" else one[name])["accuracy"]["test"]
                for one in runs[run]
            ]
            at = len(names) - place - 1 + 0.22 * (1 - number)
            axes.plot(values, [at] * len(values), "o", color=colour, ms=4, alpha=0.5,
                      label=words if place == 0 else None)  # fmt: skip
            axes.plot([np.mean(values)], [at], "|", color=colour, ms=12, mew=2)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set(xlabel="test accuracy (%); a dot is a seed, a bar the mean")
    axes.legend(frameon=False)


def layers(axes: Axes, runs: Runs) -> None:
    """Units left in each layer."""
    start = np.array([60, 45, 30])
    for number, (name, words, colour) in enumerate(
        (("deep-once", "one check", INK), ("deep-often", "seven checks", LEAF),
         ("deep-relu-often", "seven checks, ReLU", EARTH))
    ):  # fmt: skip
        left = np.array([run["units"] for run in runs[name]])
        places = np.arange(3) + 0.26 * (number - 1)
        axes.bar(places, left.mean(0), 0.24, color=colour, label=words, yerr=left.std(0),
                 error_kw={"ecolor": INK, "lw": 1})  # fmt: skip
    axes.hlines(start, np.arange(3) - 0.42, np.arange(3) + 0.42, color=PALE, lw=2)
    axes.set_xticks(range(3), [f"{n} units" for n in start])
    axes.set(ylabel="left")
    axes.legend(frameon=False)


def widths(axes: Axes, runs: Runs) -> None:
    """Test accuracy of a single hidden layer by its width, plainly trained."""
    for width in WIDTHS:
        values = [100 * value for value in accuracies(runs[f"width-{width}"])]
        axes.plot([width] * len(values), values, "o", color=LEAF, alpha=0.5)
    means = [100 * np.mean(accuracies(runs[f"width-{width}"])) for width in WIDTHS]
    axes.plot(WIDTHS, means, color=INK)
    axes.plot([64], [89.72], "x", color=EARTH, ms=9, mew=2)
    axes.annotate("the paper", (64, 89.72), xytext=(-6, -14), textcoords="offset points",
                  ha="right", color=EARTH)  # fmt: skip
    axes.set(xlabel="hidden units", ylabel="test accuracy (%)")
