"""Figures of the sensitivity reproduction."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentei.papers import Order
from sentei.papers.sensitivity.plan import CONTROLS, LATE, MOMENTS, WIDTHS
from sentei.papers.sensitivity.reading import Runs, accuracies
from sentei.reporting.figures import BLUE, INK, ORANGE, PALE, blank, canvas, tidy

PRUNED = (
    ("deep-once", "one check", INK),
    ("deep-often", "seven checks", BLUE),
    ("deep-relu-often", "seven checks, ReLU", ORANGE),
)


def draw(order: Order, runs: Runs) -> None:
    """Draw every figure and write it as PNG and SVG."""
    for name, make in DRAWN.items():
        order.figure(name, make(runs))


def curves(runs: Runs) -> Figure:
    """Plot validation accuracy and losses by epoch, one line for each seed."""
    figure, (right, loss) = _two(9.5, 4.0)
    for name, words, colour in (
        ("deep", "not pruned", PALE),
        ("deep-once", "one check, at epoch 50", INK),
        ("deep-often", "seven checks, to epoch 35", BLUE),
    ):
        for number, run in enumerate(runs[name]):
            epochs, accuracy, validated = np.array(run["curve"]).T
            label = words if number == 0 else None
            right.plot(epochs, 100 * accuracy, color=colour, alpha=0.6, lw=1.0, label=label)
            loss.plot(epochs, validated, color=colour, alpha=0.6, lw=1.0, label=label)
            label = "the same in training" if (number, name) == (0, "deep-once") else None
            every = np.arange(len(run["loss"])) + 1
            loss.plot(every, run["loss"], color=colour, lw=0.8, ls=":", label=label)
    right.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(60, 96))
    loss.set(xlabel="epoch", ylabel="loss on validation", ylim=(0, 1.5))
    right.legend(frameon=False, loc="lower right")
    loss.legend(frameon=False)
    return figure


def confusion(runs: Runs) -> Figure:
    """Draw which letters are mistaken for which, before and after pruning; errors of all seeds."""
    figure = blank(10.5, 5.3)
    shares = []
    for name in ("deep", "deep-once"):
        total = np.sum([run["confusion"] for run in runs[name]], axis=0)
        share = 100 * total / np.maximum(total.sum(1, keepdims=True), 1)
        np.fill_diagonal(share, 0)
        shares.append(share)
    letters, pictures = list(string.ascii_uppercase), []
    for place, (share, words) in enumerate(
        zip(shares, ("not pruned", "pruned, one check"), strict=True)
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        most = max(map(np.max, shares))
        pictures.append(axes.imshow(share, cmap="YlGn", vmin=0, vmax=most))
        axes.set_xticks(range(26), letters, fontsize=6)
        axes.set_yticks(range(26), letters, fontsize=6)
        axes.set(xlabel="said", ylabel="letter" if place == 0 else "")
        axes.set_title(words, loc="left", color=INK)
        axes.tick_params(length=0)
    figure.colorbar(pictures[0], ax=figure.axes, label="% of the letter's samples", shrink=0.85)
    return figure


def controls(runs: Runs) -> Figure:
    """Plot test accuracy by criterion; all removed equally many units at the same checks."""
    figure, axes = canvas(7, 4.4)
    names = ("weight_change", *CONTROLS, "afresh")
    for number, (run, words, colour) in enumerate(PRUNED):
        for place, name in enumerate(names):
            if name != "weight_change" and name not in runs[run][0]:
                continue
            values = [
                100 * (one if name == "weight_change" else one[name])["accuracy"]["test"]
                for one in runs[run]
            ]
            at = len(names) - place - 1 + 0.22 * (1 - number)
            label = words if place == 0 else None
            _dots(axes, values, at, colour, label)
    labels = {"weight_change": "the paper's rule", "afresh": "a new network so small"}
    axes.set_yticks(range(len(names)), [labels.get(name, name) for name in names[::-1]])
    axes.set(xlabel="test accuracy (%); a dot is a seed, a bar the mean")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def layers(runs: Runs) -> Figure:
    """Plot the number of units removed from each layer."""
    figure, axes = canvas(7, 3.4)
    start = np.array([60, 45, 30])
    for number, (name, words, colour) in enumerate(PRUNED):
        removed = start - np.array([run["units"] for run in runs[name]])
        places = np.arange(3) + 0.26 * (number - 1)
        axes.bar(places, removed.mean(0), 0.24, color=colour, label=words, yerr=removed.std(0),
                 error_kw={"ecolor": PALE, "lw": 1.5})  # fmt: skip
    axes.plot(np.arange(3), [9, 1, 3], "D", mfc="white", mec=INK, ms=7, label="the paper")
    axes.set_xticks(range(3), [f"{n} units" for n in start])
    axes.set(ylabel="removed")
    axes.legend(frameon=False)
    return figure


def widths(runs: Runs) -> Figure:
    """Plot test accuracy by the width of a single hidden layer: trained, pruned, or restarted."""
    figure, axes = canvas(7, 3.8)
    for width in WIDTHS:
        values = [100 * value for value in accuracies(runs[f"width-{width}"])]
        axes.plot([width] * len(values), values, "o", color=BLUE, alpha=0.5, ms=4)
    means = [100 * np.mean(accuracies(runs[f"width-{width}"])) for width in WIDTHS]
    axes.plot(WIDTHS, means, color=BLUE, label="trained so, GELU, Adam, rate falling to zero")
    full = accuracies(runs["sigmoid-rmsprop"])
    axes.plot([64] * len(full), [100 * value for value in full], "o", color=INK, alpha=0.5, ms=4,
              label="the paper's 64 sigmoids, not pruned")  # fmt: skip
    pruned = runs["rmsprop-pruned"]
    axes.plot([sum(run["units"]) for run in pruned], [100 * a for a in accuracies(pruned)], "s",
              color=INK, ms=5, label="pruned from 64, in place")  # fmt: skip
    smallest = [run["smallest"] for run in runs["restart-one"]]
    axes.plot([row["units"] for row in smallest], [100 * row["test"] for row in smallest], "^",
              color=INK, mfc="none", ms=6, label="version 2, one unit fewer each time")  # fmt: skip
    axes.plot([64], [89.72], "x", color=ORANGE, ms=9, mew=2, label="the paper")
    axes.set(xlabel="hidden units", ylabel="test accuracy (%)")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return figure


def moments(runs: Runs) -> Figure:
    """Plot test accuracy by the epoch at which a quarter of every layer is removed."""
    figure, axes = canvas(7, 3.6)
    for words, colour, shift, read in (
        ("the paper's criterion", BLUE, -0.35, lambda run: run),
        ("random units", ORANGE, 0.35, lambda run: run["random"]),
    ):
        found = [[100 * read(run)["accuracy"]["test"] for run in runs[f"when-{epoch}"]]
                 for epoch in MOMENTS]  # fmt: skip
        for epoch, values in zip(MOMENTS, found, strict=True):
            axes.plot([epoch + shift] * len(values), values, "o", color=colour, ms=4, alpha=0.5)
        axes.plot(np.array(MOMENTS) + shift, [np.mean(values) for values in found], color=colour,
                  label=words)  # fmt: skip
    axes.set(xlabel="epoch of 50 at which a quarter of each layer goes", ylabel="test accuracy (%)")
    axes.legend(frameon=False)
    return figure


def flagged(runs: Runs) -> Figure:
    """Plot the share of units under the threshold at each check, in a training without removal."""
    figure, (share, dear) = _two(9.5, 3.6)
    for name, words, colour in (
        ("sigmoid", "sigmoid", BLUE),
        ("relu", "ReLU", ORANGE),
        ("decay", "sigmoid, rate falling to zero", INK),
    ):
        found = runs[f"watched-{name}"]
        epochs = 5 * (np.arange(len(found[0]["checks"])) + 1)
        for axes, some, whole in ((share, "flagged", "units"), (dear, "dear", "flagged")):
            values = np.array([[100 * check[some] / max(check[whole], 1) for check in run["checks"]]
                               for run in found])  # fmt: skip
            axes.plot(epochs, values.mean(0), color=colour, label=words)
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
    dear.axhline(50, color=PALE, lw=2, zorder=0)
    share.set(xlabel="epoch", ylabel="units under 0.001 (%)", ylim=(0, 100))
    dear.set(xlabel="epoch", ylabel="of them in the half that matters more (%)", ylim=(0, 100))
    share.legend(frameon=False)
    return figure


def late(runs: Runs) -> Figure:
    """Plot test accuracy by the criterion that decides in the last 30 % of training."""
    figure, axes = canvas(7, 3.4)
    names = tuple(LATE)
    for place, name in enumerate(names):
        values = [100 * value for value in accuracies(runs[f"late-{name}"])]
        _dots(axes, values, len(names) - place - 1, BLUE if name != "none" else INK)
    labels = {"none": "nothing goes late", "weight_change": "sensitivity"}
    axes.set_yticks(range(len(names)), [labels.get(name, name) for name in names[::-1]])
    axes.set(xlabel="test accuracy (%); a dot is a seed, a bar the mean")
    return figure


def _dots(
    axes: Axes, values: Sequence[float], at: float, colour: str, label: str | None = None
) -> None:
    """Plot each value as a dot, and their mean as a bar."""
    axes.plot(values, [at] * len(values), "o", color=colour, ms=4, alpha=0.5, label=label)
    axes.plot([np.mean(values)], [at], "|", color=colour, ms=12, mew=2)


def _two(width: float, height: float) -> tuple[Figure, tuple[Axes, Axes]]:
    """Return a figure with two panels side by side."""
    figure = blank(width, height)
    panels = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for axes in panels:
        tidy(axes)
    return figure, panels


DRAWN = {
    "curves": curves,
    "confusion": confusion,
    "controls": controls,
    "layers": layers,
    "widths": widths,
    "moments": moments,
    "flagged": flagged,
    "late": late,
}
