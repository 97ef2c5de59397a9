"""Draw the figures of docs/transformers.md and write its tables, from the results alone.

Run: python benchmarks/axes_page.py. The results are lines of transformers_by_axis.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.axes import Axes

from axes_results import (
    ALL,
    AS_CUT,
    AXES,
    CHOSEN,
    DEPTH,
    DISTILLED,
    HEADS,
    LANGUAGE,
    MAGNITUDE,
    PATTERN,
    RANDOM,
    REPAIRED,
    ROTATED,
    UNITS,
    VIT,
    WIDTH,
    Row,
    of,
    results,
    untouched,
)
from sentei.reporting.figures import BLUE, INK, ORANGE, below, blank, tidy

DOCS = Path(__file__).parents[1] / "docs"
WORDS = {
    CHOSEN: "by its criterion",
    REPAIRED: "the same, repaired",
    MAGNITUDE: "magnitude",
    RANDOM: "random",
}
LEFT = {7: "7/8", 6: "3/4", 4: "1/2"}  # of the synapses in blocks, by eighths
LOOKS = {  # colour and mark
    UNITS: (BLUE, "o"),
    HEADS: (ORANGE, "s"),
    WIDTH: ("#7f8c86", "^"),
    ROTATED: ("#2a9d8f", "<"),
    DEPTH: ("#8a5fb0", "D"),
    ALL: (INK, "v"),
    PATTERN: ("#b8901f", "P"),
}


def perplexity(row: Row, stage: str) -> float:
    """Return the perplexity for each character."""
    return math.exp(row[f"{stage}loss"])


def accuracy(row: Row, stage: str) -> float:
    """Return the accuracy in %."""
    return 100 * row[f"{stage}accuracy"]


QUALITY: dict[str, tuple[str, Callable[[Row, str], float], int]] = {  # its name, and decimals
    LANGUAGE: ("perplexity of a character", perplexity, 2),
    VIT: ("test accuracy (%)", accuracy, 1),
}


# Tables.


def spread(values: Sequence[float], decimals: int, seeds: int = 0) -> str:
    """Return mean ± standard deviation, or a dash; with the number of values if below `seeds`."""
    if not values:
        return "-"
    after = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    fewer = f" ({len(values)})" if len(values) < seeds else ""
    return f"{fmean(values):.{decimals}f}{after}{fewer}"


def quality_table(rows: Sequence[Row], network: str) -> str:
    """Return the table of all axes and ways at all budgets, as cut and after distillation."""
    what, value, decimals = QUALITY[network]
    own = [row for row in rows if row["network"] == network]
    whole = untouched(own)
    start = spread([value(row, AS_CUT) for row in whole], decimals)
    seeds = "seed" if len(whole) == 1 else "seeds"
    lines = [f"{what[0].upper()}{what[1:]}, {len(whole)} {seeds}; whole network: {start}.", ""]
    lines.append(
        "| axis | units or synapses chosen | "
        + " | ".join(LEFT.values())
        + " | "
        + " | ".join(f"{left}, distilled" for left in LEFT.values())
        + " |"
    )
    lines.append("| --- | --- |" + " ---: |" * 6)
    for axis in AXES:
        for way, words in WORDS.items():
            cells = [
                spread(
                    [value(r, stage) for r in found if f"{stage}loss" in r], decimals, len(whole)
                )
                for stage in (AS_CUT, DISTILLED)
                for found in [of(own, axis, way, eighths) for eighths in LEFT]
            ]
            if set(cells) != {"-"}:
                lines.append(f"| {axis} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def size_table(rows: Sequence[Row], network: str) -> str:
    """Return what is left of parameters, multiply-adds and time, in % of the whole network."""
    own = [row for row in rows if row["network"] == network]
    whole = {row["seed"]: row for row in untouched(own)}
    lines = ["| axis | " + " | ".join(LEFT.values()) + " |", "| --- | ---: | ---: | ---: |"]
    for axis in AXES:
        cells = []
        for eighths in LEFT:
            found = of(own, axis, CHOSEN, eighths)
            shares = [
                [100 * row[part] / whole[row["seed"]][part] for row in found]
                for part in ("parameters", "multiply_adds", "latency")
            ]
            cells.append(" / ".join(f"{fmean(each):.0f}" if each else "-" for each in shares))
        lines.append(f"| {axis} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return the tables of the page by their marks."""
    found = {}
    for network in QUALITY:
        mark = network.replace(" ", "-").lower()
        found[f"{mark}-quality"] = quality_table(rows, network)
        found[f"{mark}-sizes"] = size_table(rows, network)
    return found


# Figures.


def draw(rows: Sequence[Row], network: str, path: Path) -> None:
    """Draw quality against parameters, as cut and at its best, and against time."""
    figure = blank(10.5, 4.2)
    panels = [figure.add_subplot(1, 3, place) for place in (1, 2, 3)]
    own = [row for row in rows if row["network"] == network]
    share = "parameters left (% of the network)"
    curves(panels[0], own, network, AS_CUT, "parameters", (CHOSEN,))
    panels[0].set(xlabel=share, title="as cut")
    for panel, part in zip(panels[1:], ("parameters", "latency"), strict=True):
        curves(panel, own, network, DISTILLED, part, (REPAIRED, CHOSEN))
    panels[1].set(xlabel=share, title="distilled; repaired where all seeds were")
    panels[2].set(xlabel="time of a pass (% of the network's)", title="the same")
    for panel in panels:
        panel.title.set_fontsize(9)
        panel.title.set_color(INK)
        panel.invert_xaxis()
    below(panels[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": "sentei", "Description": digest(rows, network)})


def digest(rows: Sequence[Row], network: str) -> str:
    """Return hex digits of a network's results, which its figure carries."""
    own = sorted(json.dumps(row, sort_keys=True) for row in rows if row["network"] == network)
    return hashlib.sha256("\n".join(own).encode()).hexdigest()


def error(row: Row, stage: str) -> float:
    """Return the part of the test samples that is wrong, in %."""
    return 100 - accuracy(row, stage)


DRAWN: dict[str, tuple[str, Callable[[Row, str], float]]] = {  # on a log scale
    LANGUAGE: ("perplexity of a character", perplexity),
    VIT: ("test error (%)", error),
}


def curves(
    axes: Axes, rows: Sequence[Row], network: str, stage: str, part: str, ways: Sequence[str]
) -> None:
    """Plot a line for each axis: means over seeds, with bars of their standard deviation.

    Args:
        axes: the axes to draw on.
        rows: the results of the network.
        network: its name.
        stage: whether before or after distillation.
        part: what the horizontal axis is.
        ways: that with the most seeds is drawn, of equals the first.
    """
    tidy(axes)
    what, value = DRAWN[network]
    whole = {row["seed"]: row for row in untouched(rows)}
    for axis in AXES:
        x, y, bars = [], [], []
        for eighths in LEFT:
            each = [of(rows, axis, way, eighths) for way in ways]
            found = max(([row for row in some if f"{stage}loss" in row] for some in each), key=len)
            if found:
                x.append(fmean(100 * row[part] / whole[row["seed"]][part] for row in found))
                values = [value(row, stage) for row in found]
                y.append(fmean(values))
                bars.append(stdev(values) if len(values) > 1 else 0.0)
        colour, marker = LOOKS[axis]
        if x:
            axes.errorbar(x, y, bars, color=colour, marker=marker, markersize=5, linewidth=1.6,
                          capsize=2, label=axis)  # fmt: skip
    level = fmean(value(row, AS_CUT) for row in whole.values())
    axes.axhline(level, color=INK, linewidth=0.9, linestyle=":", label="whole network")
    axes.set(yscale="log", ylabel=f"{what}, log scale")
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(lambda number, _: f"{number:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)


# The page.


def pictures() -> dict[str, Path]:
    """Return the figures by network."""
    return {
        network: DOCS / "pictures" / f"axes-{network.replace(' ', '-').lower()}.png"
        for network in QUALITY
    }


def write_page(rows: Sequence[Row], page: Path = DOCS / "transformers.md") -> None:
    """Draw the figures anew, and replace the tables between their marks in the page."""
    for network, path in pictures().items():
        if any(row["network"] == network for row in rows):
            draw(rows, network, path)
    text = page.read_text(encoding="utf-8")
    for mark, table in tables(rows).items():
        marked = f"<!-- {mark} -->\n\n{table}\n\n<!-- /{mark} -->"
        text = re.sub(f"<!-- {mark} -->.*<!-- /{mark} -->", lambda _: marked, text, flags=re.DOTALL)  # noqa: B023
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_page(results())
