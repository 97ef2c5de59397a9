"""The figures of the study: critical differences, and quality at each size."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sentei.papers.study.judging import BOTH, PLAIN, REPAIRED, RETRAINED
from sentei.papers.study.ranks import alike, average_ranks, critical_difference
from sentei.papers.study.reading import (
    NEW,
    PRUNED_WHILE_TRAINED,
    REPAIRED_WHILE_TRAINED,
    Study,
    Way,
)
from sentei.papers.study.ways import UNITS, WEIGHTS
from sentei.reporting.figures import BLUE, INK, ORANGE, PALE, below, blank, tidy

if TYPE_CHECKING:
    from sentei.papers import Order

NAMES = {
    "ranks-plain": PLAIN,
    "ranks-repaired": REPAIRED,
    "ranks-retrained": RETRAINED,
    "ranks-both": BOTH,
    "ranks-while-training": PRUNED_WHILE_TRAINED,
    "ranks-while-training-repaired": REPAIRED_WHILE_TRAINED,
}
GREY = "#6b7a72"
Line = tuple[str, Way, str, str, str]
LINES: dict[str, list[Line]] = {  # label, way, criterion, colour and dashes
    UNITS: [
        ("random", PLAIN, "random", PALE, "-"),
        ("ablation", PLAIN, "ablation", INK, ":"),
        ("random, least squares", REPAIRED, "random", ORANGE, "--"),
        ("ablation, least squares", REPAIRED, "ablation-least-squares", ORANGE, "-"),
        ("the same, retrained", BOTH, "ablation-least-squares", BLUE, "-"),
        ("ablation while training", PRUNED_WHILE_TRAINED, "ablation", BLUE, "--"),
        ("new networks", NEW, "", INK, "-"),
    ],
    WEIGHTS: [
        ("random", PLAIN, "random", PALE, "-"),
        ("magnitude", PLAIN, "magnitude", INK, ":"),
        ("brain surgeon", PLAIN, "obs", ORANGE, "-"),
        ("magnitude, retrained", RETRAINED, "magnitude", BLUE, ":"),
        ("brain surgeon, retrained", RETRAINED, "obs", BLUE, "-"),
        ("magnitude while training", PRUNED_WHILE_TRAINED, "magnitude", BLUE, "--"),
        ("new sparse networks", NEW, "", INK, "-"),
    ],
}


def draw(order: Order, study: Study) -> None:
    """Draw all figures whose runs are there; those of weights have names that begin so."""
    prefix = "" if study.members == UNITS else f"{study.members}-"
    for name, way in NAMES.items():
        names, networks, qualities = study.qualities(way)
        if len(names) > 2 and networks:
            ranks = average_ranks(qualities).tolist()
            figure = blank(8.0, 1.2 + 0.17 * len(names))
            title = f"{way[0]}: {_words(way)}, {len(networks)} networks"
            width = critical_difference(len(names), len(networks))
            differences(figure.add_subplot(), names, ranks, width, title)
            order.figure(prefix + name, figure)
    figure = blank(8.0, 2.6 * ((len(study.tasks) + 1) // 2))
    panels = [*figure.subplots((len(study.tasks) + 1) // 2, 2, squeeze=False).flat]
    for panel, task in zip(panels, study.tasks, strict=False):
        sizes(panel, study, task)
    for panel in panels[len(study.tasks) :]:
        panel.set_axis_off()
    below(figure.axes[0])
    order.figure(f"{prefix}sizes", figure)


def _words(way: Way) -> str:
    repair = "no repair" if way.repair == "none" else way.repair.replace("_", " ")
    return repair + (", ten updates of retraining after each cut" if way.retrained else "")


def differences(
    axes: Axes, names: Sequence[str], ranks: Sequence[float], width: float, title: str
) -> None:
    """Draw average ranks on a line, the best at the left; bars join what is not told apart.

    Args:
        axes: the axes to draw on.
        names: the methods.
        ranks: their average ranks.
        width: the critical difference.
        title: written above.
    """
    order = sorted(range(len(names)), key=lambda i: ranks[i])
    sorted_ranks = [ranks[i] for i in order]
    half = (len(order) + 1) // 2
    bars = alike(sorted_ranks, width)
    top = 0.35 * (len(bars) + 1)
    low, high = 1.0, float(len(names))
    for place, i in enumerate(order):
        left = place < half
        depth = top + (place if left else len(order) - 1 - place) + 0.7
        end = low - 0.5 if left else high + 0.5
        colour = ORANGE if names[i] == "random" else BLUE if place == 0 else INK
        axes.plot([ranks[i], ranks[i], end], [0, depth, depth], color=colour, linewidth=0.8)
        align = "right" if left else "left"
        text = f"{names[i]}  {ranks[i]:.1f}" if left else f"{ranks[i]:.1f}  {names[i]}"
        axes.text(end, depth, f" {text} ", ha=align, va="center", fontsize=8, color=colour)
    for level, (first, last) in enumerate(bars, 1):
        ends = [sorted_ranks[first] - 0.06, sorted_ranks[last] + 0.06]
        axes.plot(ends, [0.35 * level] * 2, color=GREY, linewidth=3, solid_capstyle="round")
    axes.plot([low, low + width], [-1.6, -1.6], color=GREY, linewidth=3)
    words = f"critical difference {width:.1f}"
    axes.text(low + width, -1.6, f"  {words}", va="center", fontsize=8, color=GREY)
    axes.set_ylim(top + half + 1.2, -2.4)
    axes.set_xlim(low - 0.32 * (high - low), high + 0.32 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks([tick for tick in range(1, len(names) + 1) if tick % 2 or len(names) < 9])
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.spines["top"].set_bounds(low, high)
    axes.spines["top"].set_position(("data", 0))
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, colors=INK)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_visible(False)
    axes.set_title(title, loc="left", color=INK, fontsize=10)


def sizes(axes: Axes, study: Study, task: str) -> None:
    """Plot quality against the share that stays, in a few ways."""
    points = study.what.points
    own = [network for network in study.networks if network.task == task]
    for label, way, criterion, colour, dash in LINES[study.members]:
        found = [study.paths[key] for n in own if (key := (way, n, criterion)) in study.paths]
        if found:
            means = [
                100 * statistics.fmean(max(path[i][0], 0) for path in found)
                for i in range(len(points))
            ]
            axes.plot(points, means, dash, color=colour, linewidth=1.6, label=label)
    tidy(axes)
    axes.set_xlim(max(points) + 2, min(points) - 2)
    axes.set_ylim(-3, 103)
    whole = 100 * statistics.fmean(study.networks[n]["whole"][0] for n in own)
    axes.axhline(whole, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title(task, loc="left", color=INK, fontsize=10)
    axes.set(xlabel=f"{study.members} left (%)", ylabel="accuracy or R² (%)")
