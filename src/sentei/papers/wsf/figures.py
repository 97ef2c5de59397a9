"""Figures of the wsf reproduction, drawn from results only: two of the paper, four of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentei.jobs.results import Result
from sentei.papers.wsf.paths import network_of, speaks_for
from sentei.reporting.figures import BLUE, INK, ORANGE, PALE, SIGNED, canvas

if TYPE_CHECKING:
    from sentei.papers import Order

COLOURS = {"wsf": BLUE, "magnitude": INK, "karnin": ORANGE, "random": "#8f9a94"}


def draw(order: Order, results: Mapping[str, Result]) -> None:
    """Draw every figure that there are results for, and write it as PNG and SVG."""
    processes = [results[name] for name in sorted(results) if name.startswith("process-close")]
    if processes:
        figure, axes = canvas()
        process(axes, processes[0]["steps"])
        order.figure("process", figure)
    ladders, tried = (
        [r for name, r in sorted(results.items()) if name.startswith(start)]
        for start in ("ladder-", "few-")
    )
    if ladders and tried and "together" in results:
        figure, axes = canvas()
        lines = {
            "one network of 20 hidden units": (BLUE, [r["rungs"] for r in ladders]),
            "best of ten of 8 hidden units": (INK, [r["rungs"] for r in tried]),
            "2,200 epochs, distorted images": (ORANGE, [[r] for r in results["together"]["runs"]]),
        }
        ladder(axes, lines)
        order.figure("ladder", figure)
    if tried:
        figure, axes = canvas(4.3, 3.5)
        graph(axes, smallest(tried)["edges"])
        order.figure("graph", figure)
    if any(name.startswith("compared") for name in results):
        figure, axes = canvas()
        compared(axes, results)
        order.figure("compared", figure)
    if any(name.startswith("hypothesis") for name in results):
        figure, axes = canvas()
        histogram(axes, [r for name, r in results.items() if name.startswith("hypothesis")])
        order.figure("histogram", figure)
    if "rules-0" in results:
        figure = Figure(figsize=(7.4, 3.6), layout="constrained", dpi=150)
        rules(figure, results["rules-0"]["classes"])
        order.figure("rules", figure)


def smallest(runs: Sequence[Result], synapses: int = 38) -> Result:
    """Return the result with the best validation accuracy among those with `synapses` synapses."""
    rungs = [rung for found in runs for rung in found["rungs"] if rung["synapses"] == synapses]
    return max(rungs, key=lambda rung: rung["validation"])


def process(axes: Axes, steps: Sequence[Mapping[str, float]]) -> None:
    """Plot synapses, inputs, hidden units and accuracy by step: the paper's figure 2."""
    numbers = range(len(steps))
    for name, colour in (("synapses", INK), ("inputs", ORANGE), ("hidden", PALE)):
        axes.plot(numbers, [s[name] for s in steps], color=colour, linewidth=2, label=name)
    axes.set_yscale("log")
    last = steps[-1]
    axes.set(xlabel="step that was kept", ylabel="how many are left")
    axes.set_title(
        f"{last['synapses']:,} of {steps[0]['synapses']:,} synapses stay, {last['inputs']} inputs",
        loc="left",
        color=INK,
    )
    beside = axes.twinx()
    beside.plot(numbers, [100 * s["validation"] for s in steps], color=BLUE, linewidth=2)
    beside.set_ylabel("validation accuracy (%)", color=BLUE)
    beside.set_ylim(0, 100)
    beside.spines[["top", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.1))


def ladder(
    axes: Axes, lines: Mapping[str, tuple[str, Sequence[Sequence[Mapping[str, float]]]]]
) -> None:
    """Plot test accuracy against the number of synapses, one line for each seed.

    Args:
        axes: the axes to draw on.
        lines: for each way of training its colour, and for each seed the networks of every size.
    """
    for name, (colour, seeds) in lines.items():
        for rungs in seeds:
            counts, tests = ([r[part] for r in rungs] for part in ("synapses", "test"))
            label = name if rungs is seeds[0] else None
            scaled = [100 * test for test in tests]
            axes.plot(counts, scaled, color=colour, alpha=0.6, marker=".", label=label)
    ring = {"markersize": 14, "markeredgewidth": 1.5, "markerfacecolor": "none"}
    axes.plot([1259, 38], [97, 50], "ko", linestyle="", label="published", **ring)
    axes.legend(frameon=False, loc="lower left")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set(xlabel="synapses left", ylabel="test accuracy (%)")
    axes.set_title("How few synapses will do", loc="left", color=INK)


def compared(axes: Axes, results: Mapping[str, Result]) -> None:
    """Plot mean test accuracy at each size, by criterion; the band is one standard deviation."""
    for name, colour in COLOURS.items():
        runs = [r["curve"] for job, r in results.items() if job.startswith(f"compared-{name}-")]
        if not runs:
            continue
        counts = [step["synapses"] for step in runs[0]]
        values = 100 * np.array([[step["test"] for step in run] for run in runs])
        mean, deviation = values.mean(0), values.std(0, ddof=min(1, len(runs) - 1))
        axes.plot(counts, mean, color=colour, linewidth=2, label=name)
        axes.fill_between(counts, mean - deviation, mean + deviation, color=colour, alpha=0.15)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set(xlabel="synapses left", ylabel="test accuracy (%)")
    axes.set_title("The same cuts by four criteria", loc="left", color=INK)
    axes.legend(frameon=False)


def histogram(axes: Axes, found: Sequence[Result]) -> None:
    """Plot the histogram of |w - w(0)|; the leftmost bar has the synapses that did not move."""
    counts = np.mean([result["histogram"] for result in found], axis=0)
    edges = np.logspace(-5, 1, len(counts) + 1)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE)
    axes.bar(edges[0], counts[0], edges[1] - edges[0], align="edge", color=ORANGE)
    axes.set_xscale("log")
    axes.set(xlabel="|w - w(0)| (leftmost: at most 1e-5)", ylabel="synapses")
    axes.set_title("How far training moved 15,880 synapses", loc="left", color=INK)


def graph(axes: Axes, edges: Sequence[Sequence[Sequence[float]]]) -> None:
    """Draw the network as a graph, each synapse in the colour of a class: the paper's figure 3."""
    palette = matplotlib.colormaps["tab10"]
    first, second = network_of(edges)
    inputs, hidden = sorted({d for _, d in first}), sorted({k for _, k in second})
    hidden = [k for k in hidden if any(unit == k for unit, _ in first)]
    outputs = range(10)
    height = [_spread(part) for part in (inputs, hidden, outputs)]
    class_of = speaks_for(first, second)
    for (unit, pixel), weight in first.items():
        if unit in height[1]:
            _line(
                axes,
                (0, height[0][pixel]),
                (1, height[1][unit]),
                weight,
                palette(class_of[unit, pixel]),
            )
    for (label, unit), weight in second.items():
        if unit in height[1]:
            _line(axes, (1, height[1][unit]), (2, height[2][label]), weight, palette(label))
    for pixel in inputs:
        axes.plot(0, height[0][pixel], "s", color=INK, markersize=5)
        axes.text(-0.04, height[0][pixel], f"{pixel // 28},{pixel % 28}", ha="right", va="center",
                  fontsize=6, color=INK)  # fmt: skip
    for unit in hidden:
        axes.plot(1, height[1][unit], "o", color=INK, markersize=7)
    for label in outputs:
        axes.plot(2, height[2][label], "o", color=palette(label), markersize=9)
        axes.text(2.05, height[2][label], str(label), va="center", color=INK)
    axes.set_title(f"{len(first) + len(second)} synapses, {len(inputs)} inputs (row, column)",
                   loc="left", color=INK)  # fmt: skip
    axes.set_axis_off()
    axes.set_xlim(-0.25, 2.2)


def _spread(members: Sequence[int] | range) -> dict[int, float]:
    """Return a height from 0 to 1 for each member, evenly spaced."""
    return {m: 1 - (i + 0.5) / max(len(members), 1) for i, m in enumerate(members)}


def _line(
    axes: Axes, a: tuple[float, float], b: tuple[float, float], weight: float, colour: tuple
) -> None:
    """Draw a synapse: wider for a larger |weight|, dashed for a negative weight."""
    style = "-" if weight > 0 else "--"
    width = 0.6 + min(abs(weight), 6) / 3
    axes.plot([a[0], b[0]], [a[1], b[1]], style, color=colour, linewidth=width, zorder=0)


def rules(figure: Figure, classes: Sequence[Mapping]) -> None:
    """Draw for each digit the inputs that suffice: blue counts for the digit, orange against it."""
    for label, found in enumerate(classes):
        axes = figure.add_subplot(2, 5, label + 1)
        field = np.zeros(784)
        strengths = np.array(found["strengths"])
        field[found["inputs"]] = strengths / max(np.abs(strengths).max(), 1e-12)
        axes.imshow(field.reshape(28, 28), cmap=SIGNED, vmin=-1, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"{label}: {len(found['inputs'])} inputs", fontsize=8, color=INK, pad=3)
        for spine in axes.spines.values():
            spine.set_color(PALE)
