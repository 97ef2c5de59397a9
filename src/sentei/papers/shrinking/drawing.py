"""Figures of the shrinking reproduction.

Figures 2 to 12 have the numbers of the paper; `others`, `controls` and `handover` are ours.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentei.jobs.results import Result
from sentei.papers import Order
from sentei.papers.shrinking.handover import AIMS, WAYS
from sentei.papers.shrinking.removal import GAINS
from sentei.reporting import figures
from sentei.reporting.figures import BLUE, INK, ORANGE

Runs = dict[str, list[Result]]
STYLES = {
    "ablation": (BLUE, "-", "exact ablation (the paper's brute force)"),
    "taylor1": (INK, ":", "first order"),
    "taylor2-diagonal": (ORANGE, "--", "second order, the paper's recursion"),
    "taylor2": (ORANGE, "-", "second order, exact"),
    "magnitude": ("#8a8a8a", "-.", "magnitude"),
    "random": ("#b9b9b9", "-", "random"),
}
LINES = dict(zip(WAYS, (  # colour and dashes of each way to hand over the work of removed units
    ("#8a8a8a", "-"), (BLUE, ":"), (BLUE, "--"), (INK, "-"), (ORANGE, "-"), (ORANGE, "--"),
), strict=True))  # fmt: skip
PAPERS = ("ablation", "taylor1", "taylor2-diagonal", "taylor2")
SURFACES = {
    "figure-5": ("1x100", "ablation"),
    "figure-6": ("1x100", "taylor1"),
    "figure-7": ("1x100", "taylor2-diagonal"),
    "figure-10": ("2x50", "ablation"),
    "figure-11": ("2x50", "taylor1"),
    "figure-12": ("2x50", "taylor2-diagonal"),
}
OTHER = ("1x100-large", "2x50-large", "less-trained", "three-layers")
OTHER += ("relu", "letter", "mnist", "diamond")


def draw(order: Order, runs: Runs) -> None:
    """Draw every figure and write it as PNG and SVG."""
    order.figure("figure-2", _approximations(runs["1x100"][0]))
    order.figure("figure-3", _removals(runs["1x100"], "single"))
    order.figure("figure-4", _removals(runs["1x100"], "iterative"))
    order.figure("figure-8", _removals(runs["2x50"], "single"))
    order.figure("figure-9", _removals(runs["2x50"], "iterative"))
    for name, (network, criterion) in SURFACES.items():
        order.figure(name, _surfaces(runs[network][0], criterion))
    order.figure("others", _others(runs))
    order.figure("controls", _controls(runs))
    order.figure("handover", handover(runs))


def _blank(width: float, height: float) -> Figure:
    return figures.blank(width, height, dpi=100)


def _line(axes: Axes, rows: list[list[float]], criterion: str, scale: float = 1.0) -> None:
    """Plot the mean over seeds as a line, and the range of the seeds as a band."""
    _band(axes, rows, *STYLES[criterion], scale)


def _band(
    axes: Axes, rows: list[list[float]], colour: str, dashes: str, label: str, scale: float
) -> None:
    values = scale * np.array(rows)
    x = np.arange(values.shape[1])
    axes.plot(x, values.mean(0), color=colour, linestyle=dashes, linewidth=1.5, label=label)
    axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)


def _removals(runs: list[Result], way: str) -> Figure:
    """Plot error and accuracy on the ranked data and held-out accuracy, by units removed."""
    figure = _blank(10, 3.6)
    shown = [c for c in STYLES if f"{way} {c}" in runs[0]["curves"]]
    panels = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    kinds = {
        "error": "summed half squared error",
        "accuracy": "accuracy, ranked data (%)",
        "held": "accuracy, held-out data (%)",
    }
    for axes, (kind, label) in zip(panels, kinds.items(), strict=True):
        figures.tidy(axes)
        for criterion in shown:
            rows = [run["curves"][f"{way} {criterion}"][kind] for run in runs]
            _line(axes, rows, criterion, 1.0 if kind == "error" else 100.0)
        axes.set(xlabel="units removed", ylabel=label)
    _legend(figure, panels[0], 3)
    return figure


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Add one legend for all panels below the figure."""
    handles, names = axes.get_legend_handles_labels()
    place = "outside lower center"
    figure.legend(handles, names, loc=place, ncols=columns, frameon=False, fontsize=8)


def _surfaces(run: Result, criterion: str) -> Figure:
    """Plot error against the gain of the unit removed next, at every tenth removal."""
    drawn = run["curves"][f"iterative {criterion}"]["surfaces"]
    figure = _blank(9, 3.6)
    labels = [f"removal {one['removal']}: {one['group']} {one['unit']}" for one in drawn]
    curves = torch.tensor([one["exact"] for one in drawn])
    figures.surfaces(figure, GAINS, curves, labels, "summed half squared error")
    return figure


def _approximations(run: Result) -> Figure:
    """Plot the exact error of some units against their gain, with both Taylor approximations.

    Gains go from 0, the unit is removed, to 2, its output is doubled.
    """
    drawn = run["curves"]["iterative ablation"]["surfaces"]
    chosen = [drawn[round(place)] for place in np.linspace(0, len(drawn) - 1, min(5, len(drawn)))]
    near = GAINS <= 2
    curves, tangents, parabolas = (
        torch.tensor([one[kind] for one in chosen])[:, near]
        for kind in ("exact", "tangent", "parabola")
    )
    figure = _blank(10, 2.6)
    labels = [f"removal {one['removal']}" for one in chosen]
    figures.approximated(figure, GAINS[near], curves, tangents, parabolas, labels)
    return figure


def _others(runs: Runs) -> Figure:
    """Plot accuracy on the ranked data by units removed, for other networks, losses and data."""
    figure = _blank(10, 5.4)
    panels = [figure.add_subplot(2, 4, place + 1) for place in range(len(OTHER))]
    for axes, name in zip(panels, OTHER, strict=True):
        figures.tidy(axes)
        for criterion in PAPERS:
            rows = [run["curves"][f"iterative {criterion}"]["accuracy"] for run in runs[name]]
            _line(axes, rows, criterion, 100.0)
        axes.set_title(name, fontsize=9, color=INK)
        axes.tick_params(labelsize=7)
    figure.suptitle("accuracy on the ranked data (%) against units removed", fontsize=10)
    _legend(figure, panels[0], 4)
    return figure


def handover(runs: Runs) -> Figure:
    """Plot accuracy by units removed, if the others take over the work of what goes."""
    figure = _blank(10, 3.6)
    panels = [figure.add_subplot(1, 4, place) for place in (1, 2, 3, 4)]
    shown = [(name, kind) for name in AIMS for kind in ("accuracy", "held")]
    for axes, (name, kind) in zip(panels, shown, strict=True):
        figures.tidy(axes)
        for words, (colour, dashes) in LINES.items():
            rows = [run[words][kind] for run in runs[f"handover-{name}"]]
            _band(axes, rows, colour, dashes, words, 100.0)
        data = "ranked" if kind == "accuracy" else "held-out"
        axes.set(xlabel="units removed", ylabel=f"accuracy, {data} images (%)", ylim=(80, 100.5))
        axes.set_title(name, fontsize=9, color=INK)
    _legend(figure, panels[0], 3)
    return figure


def _controls(runs: Runs) -> Figure:
    """Plot pruned networks beside their controls.

    Two panels show held-out accuracy: pruned, trained from scratch, and truncated. The third one
    shows the error by number of units: pruned, and grown by cascade-correlation.
    """
    figure = _blank(10, 3.4)
    panels = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    for axes, name in zip(panels, ("1x100", "2x50"), strict=False):
        figures.tidy(axes)
        total = len(runs[name][0]["curves"]["iterative ablation"]["error"]) - 1
        kinds = {"pruned": (BLUE, "o"), "scratch": (INK, "s"), "svd": (ORANGE, "^")}
        for kind, (colour, marker) in kinds.items():
            rows = [row for run in runs[name] for row in run["controls"] if row[kind]]
            left = [total - row["removed"] for row in rows]
            axes.plot(left, [100 * row[kind][1] for row in rows], marker, color=colour, alpha=0.6)
            axes.plot([], [], marker, color=colour, label=_CONTROLS[kind])
        axes.set(xlabel="units left", ylabel="held-out accuracy (%)", title=name)
    axes = panels[2]
    figures.tidy(axes)
    for run in runs["cascade"]:
        axes.plot(range(len(run["error"])), run["error"], color=ORANGE, linewidth=1)
    for run in runs["1x100"]:
        error = run["curves"]["iterative ablation"]["error"]
        axes.plot(range(len(error))[::-1], error, color=BLUE, linewidth=1)
    axes.plot([], [], color=ORANGE, label="grown by cascade-correlation")
    axes.plot([], [], color=BLUE, label="1x100 pruned by exact ablation")
    axes.set(xlabel="hidden units", ylabel="summed half squared error", yscale="log")
    axes.legend(frameon=False, fontsize=7)
    _legend(figure, panels[0], 3)
    return figure


_CONTROLS = {
    "pruned": "pruned, not retrained",
    "scratch": "the same widths trained from scratch",
    "svd": "first layer truncated to as many parameters",
}
