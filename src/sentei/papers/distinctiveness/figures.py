"""Figures of the distinctiveness reproduction: those of the paper, and those of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentei.experiments.comparing import Curve, Way, rows
from sentei.papers import Order
from sentei.papers.distinctiveness import beyond
from sentei.papers.distinctiveness.experiments import METHODS, THRESHOLDS
from sentei.papers.distinctiveness.judging import Found, Runs, ours, readings
from sentei.papers.distinctiveness.networks import LITERAL
from sentei.reporting.figures import BLUE, INK, ORANGE, PALE, comparison, tidy

GREY = "#7f8c86"
NAMES = {"cnn": "CNN", "fnn": "FNN"}
MERGES = {
    "incoming": (ORANGE, "-", "incoming weights added (literal)"),
    "outgoing": (ORANGE, ":", "outgoing weights added"),
    "nobody": (INK, ":", "nobody takes over"),
    "affine": (BLUE, "--", "affine, one of a pair stays"),
    "least_squares": (BLUE, "-", "least squares, one of a pair stays"),
}
WAYS = {
    "alone": (None, 0, ORANGE, False),
    "least squares": ("least_squares", 0, BLUE, False),
    "retrained a little": (None, 1, ORANGE, True),
    "both": ("least_squares", 1, BLUE, True),
}
MARKS = {"as": "o", "epochs": "^", "width": "s", "filters": "D", "pixels": "D"}
LINES = {
    "ablation": (BLUE, ":"),
    "ablation + least squares": (BLUE, "-"),
    "obs + least squares": (BLUE, "--"),
    "ablation + least loss": (GREY, "-"),
    "distinctiveness": (ORANGE, ":"),
    "distinctiveness + affine": (ORANGE, "-"),
    "magnitude": (GREY, "-"),
    "random": (INK, ":"),
    "random + least squares": (INK, "-"),
}


def draw(order: Order, found: Found) -> None:
    """Draw every figure and write it as PNG and SVG."""
    order.figure("runs", _side_by_side(found.runs, one_by_one))
    order.figure("sweep", _sweep(found.runs))
    order.figure("curves", _side_by_side(found.runs, curves))
    order.figure("hundred", hundred(found.wide))
    order.figure("influence", _influence(found.changed))
    compared = {kind: beyond.curves(runs) for kind, runs in found.runs.items()}
    order.figure("compared", _side_by_side(compared, best_ways, 5.0))
    order.figure("areas", _areas(compared))


def _side_by_side(runs: Mapping[str, Any], axes_of: Any, height: float = 4.2) -> Figure:
    """Return a figure with one panel for each network."""
    figure = Figure(figsize=(10, height), layout="constrained", dpi=95)
    for place, (kind, found) in enumerate(runs.items()):
        axes = figure.add_subplot(1, 2, place + 1)
        tidy(axes)
        axes_of(axes, kind, found)
    return figure


def one_by_one(axes: Axes, kind: str, found: Sequence[Any]) -> None:
    """Plot each run's accuracy before and after, and units removed: the paper's figures 2 to 5."""
    degrees = 15 if kind == "cnn" else 25
    after = [readings(run, LITERAL[kind], degrees) for run in found]
    places = np.arange(len(found))
    before = [100 * run["accuracy"]["test"] for run in found]
    literal = [100 * reading["after"]["incoming"]["test"] for reading in after]
    axes.plot(places, before, "o", color=INK, label="before")
    axes.plot(places, literal, "x", color=ORANGE, label="after, literally", markersize=9)
    shares = [100 * r["removed"] / run["size"] for r, run in zip(after, found, strict=True)]
    beside = axes.twinx()
    beside.bar(places, shares, width=0.5, color=PALE, zorder=0)
    beside.set(ylabel="units gone (%)", ylim=(0, 100))
    beside.spines[["top"]].set_visible(False)
    axes.set_zorder(1)
    axes.patch.set_visible(False)
    axes.set(xlabel="run", ylabel="test accuracy, 10,000 images (%)", xticks=places)
    low = min(*before, *literal)
    axes.set_ylim(low - 1.5, max(before) + 0.6)
    axes.set_title(f"{NAMES[kind]}, {degrees} degrees", loc="left", color=INK)
    axes.legend(frameon=False, loc="upper center", ncols=2)


def _sweep(runs: Runs) -> Figure:
    """Plot accuracy and units removed against the threshold, for both networks."""
    figure = Figure(figsize=(10, 7), layout="constrained", dpi=85)
    for column, (kind, found) in enumerate(runs.items()):
        above, below = (figure.add_subplot(2, 2, column + 1 + 2 * row) for row in (0, 1))
        tidy(above)
        tidy(below)
        sweep_accuracy(above, kind, found)
        sweep_removal(below, found)
    return figure


def sweep_accuracy(axes: Axes, kind: str, found: Sequence[Any]) -> None:
    """Plot accuracy against the threshold, for every way to merge: figures 6 and 8."""
    for merge, (color, style, label) in MERGES.items():
        mean = [
            100
            * np.mean([readings(run, LITERAL[kind], d)["after"][merge]["test"] for run in found])
            for d in THRESHOLDS
        ]
        axes.plot(THRESHOLDS, mean, style, color=color, label=label)
    own = [100 * np.mean([ours(run, d)["test"] for run in found]) for d in THRESHOLDS]
    axes.plot(THRESHOLDS, own, "-", color=GREY, label="sentei.twins: centre half, affine")
    dense = float(100 * np.mean([run["accuracy"]["test"] for run in found]))
    axes.axhline(dense, color=PALE, linewidth=1.5, zorder=0)
    axes.set(xlabel="threshold (degrees)", ylabel="test accuracy (%)")
    axes.set_title(f"{NAMES[kind]}, centre: {LITERAL[kind]}", loc="left", color=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def sweep_removal(axes: Axes, found: Sequence[Any]) -> None:
    """Plot units removed against the threshold, for every centre: figures 7 and 9."""
    for centre, style in {"half": "-", "none": "--", "mean": ":", "minmax": "-."}.items():
        shares = [
            100 * np.mean([readings(run, centre, d)["removed"] / run["size"] for run in found])
            for d in THRESHOLDS
        ]
        axes.plot(THRESHOLDS, shares, style, color=ORANGE, label=f"centre {centre}")
    own = [100 * np.mean([ours(run, d)["removed"] / run["size"] for run in found])
           for d in THRESHOLDS]  # fmt: skip
    axes.plot(THRESHOLDS, own, "-", color=GREY, label="sentei.twins")
    dead = float(100 * np.mean([run["dead"] / run["size"] for run in found]))
    axes.axhline(dead, color=INK, linewidth=1, label="dead on the training images")
    axes.set(xlabel="threshold (degrees)", ylabel="units gone (%)", ylim=(-3, 103))
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def curves(axes: Axes, kind: str, found: Sequence[Any]) -> None:
    """Plot accuracy against units removed one at a time, without retraining."""
    for method in METHODS:
        color, style = LINES[method]
        mean = 100 * np.mean([run["curves"][method]["test"] for run in found], 0)
        axes.plot(mean, style, color=color, label=method)
    axes.set(xlabel="units gone", ylabel="test accuracy (%)", ylim=(50, 99))
    axes.set_title(f"{NAMES[kind]}, no retraining, mean of {len(found)}", loc="left", color=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def hundred(wide: Sequence[Mapping[str, list[float]]]) -> Figure:
    """Plot accuracy against units removed from the sigmoid network 784-100-10."""
    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    tidy(axes)
    for method in wide[0]:
        color, style = LINES[method]
        every = 100 * np.array([run[method] for run in wide])
        axes.plot(every.mean(0), style, color=color, label=method)
        axes.fill_between(np.arange(every.shape[1]), every.min(0), every.max(0), color=color,
                          alpha=0.12, linewidth=0)  # fmt: skip
    axes.set(xlabel="of 100 units gone", ylabel="test accuracy (%)", ylim=(70, 98.5))
    axes.set_title(f"784-100-10, no retraining, {len(wide)} networks", loc="left", color=INK)
    axes.legend(frameon=False, loc="lower left")
    return figure


def _influence(changed: Mapping[str, Any]) -> Figure:
    """Plot units removed against effective rank and train-test gap, for all settings."""
    figure = Figure(figsize=(10, 7.4), layout="constrained", dpi=85)
    for column, (kind, settings) in enumerate(changed.items()):
        above, below = (figure.add_subplot(2, 2, column + 1 + 2 * row) for row in (0, 1))
        tidy(above)
        tidy(below)
        _by_setting(above, kind, settings, _rank_share, "effective rank (% of the units)")
        _by_setting(below, kind, settings, _gap, "train-test gap (points)")
        above.set_title(f"{NAMES[kind]}, 5,000 images", loc="left", color=INK)
        above.legend(frameon=False, fontsize=8)
    return figure


def _by_setting(axes: Axes, kind: str, settings: Mapping[str, Any], across: Any, name: str) -> None:
    """Plot units removed at 30 degrees against `across(run)`, a dot for each network."""
    shades = np.linspace(0.0, 0.95, len(settings))
    for shade, (setting, found) in zip(shades, settings.items(), strict=True):
        removed = [100 * readings(run, LITERAL[kind], 30)["removed"] / run["size"] for run in found]
        axes.plot(
            [across(run) for run in found],
            removed,
            MARKS[setting.split()[0]],
            color=colormaps["viridis"](shade),
            label=setting,
            alpha=0.85,
        )
    axes.set(xlabel=name, ylabel=f"gone at 30 degrees, centre {LITERAL[kind]} (%)")


def _rank_share(run: Any) -> float:
    """Return the effective rank as a percentage of the units."""
    return 100 * run["effective rank"] / run["size"]


def _gap(run: Any) -> float:
    """Return training minus test accuracy, in points."""
    return 100 * (run["accuracy"]["train"] - run["accuracy"]["test"])


def best_ways(axes: Axes, kind: str, found: Sequence[Curve]) -> None:
    """Plot accuracy against units left, for every way that was compared without retraining."""
    not_retrained = [curve for curve in found if not curve.way.retrain]
    comparison(axes, not_retrained)
    axes.set_title(f"{NAMES[kind]}, no retraining", loc="left", color=INK)


def _areas(compared: Mapping[str, Sequence[Curve]]) -> Figure:
    """Plot the area under accuracy against units left: a row for each criterion, with four ways."""
    figure = Figure(figsize=(10, 6.4), layout="constrained", dpi=95)
    for place, (kind, found) in enumerate(compared.items()):
        axes = figure.add_subplot(1, 2, place + 1)
        tidy(axes)
        by_way = {row.way: row for row in rows(found)}
        best: dict[str, float] = {}
        for way, row in by_way.items():
            if not way.retrain:
                best[way.criterion] = max(best.get(way.criterion, 0.0), row.area)
        order = sorted(best, key=lambda name: best[name])
        for line, (label, (repair, epochs, color, filled)) in enumerate(WAYS.items()):
            shown = [by_way[Way(name, repair, epochs)].area * 100 for name in order]
            axes.plot(
                shown,
                np.arange(len(order)) + 0.14 * (1.5 - line),
                "o",
                markersize=5,
                color=color,
                markerfacecolor=color if filled else "white",
                label=label,
            )
        axes.set_yticks(np.arange(len(order)), order, fontsize=8)
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set(xlabel="mean accuracy from 64 to 6 units (%)")
        axes.set_title(NAMES[kind], loc="left", color=INK)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=len(WAYS))
    return figure
