"""Draw figures with matplotlib, one function for each figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sentei import storage
from sentei.criteria.agreement import spearman
from sentei.metrics import NAMES, R2

INK, BLUE, ORANGE, PALE = "#23302b", "#1d63b5", "#b4510a", "#c9d3cd"
SHADES = colormaps["viridis"]
SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, "#ffffff", BLUE])
COUNTS = {"integer": True, "steps": [1, 2, 5, 10]}  # of ticks of axes of whole numbers
SHOWN = 0.995  # share of weights that a scale of colours tells apart; larger ones have its ends


def canvas(width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    """Create an empty figure with one axes in the common style, without a window."""
    figure = blank(width, height)
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def blank(width: float, height: float, dpi: int = 150) -> Figure:
    """Create a figure without axes, for functions that add several panels."""
    return Figure(figsize=(width, height), layout="constrained", dpi=dpi)


def tidy(axes: Axes) -> None:
    """Apply the common style to axes: no top and right frame lines, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.grid(color=PALE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def tradeoff(
    axes: Axes, steps: Sequence[Any], floors: Sequence[tuple[str, float]] = (), samples: str = ""
) -> None:
    """Plot accuracy, or R², and loss against units left, all units at the left.

    Args:
        axes: the axes to draw on; a second vertical axis is added for the loss.
        steps: `Step` or `Record` objects.
        floors: what every step had to satisfy; see `floors.levels`.
        samples: what the numbers are measured on, such as "5,000 validation samples".
    """
    units = [step.measured.units for step in steps]
    if steps[0].measured.accuracy is None:
        shown, times, name = R2, 1, NAMES[R2]
        values = [step.measured.metrics[R2] for step in steps]
        reached = f"{name} {values[-1]:.4f}"
    else:
        shown, times, name = "accuracy", 100, "accuracy (%)"
        values = [100 * step.measured.accuracy for step in steps]
        reached = f"{values[-1]:.2f} % correct"
    loss = axes.twinx()
    loss.plot(units, [step.measured.loss for step in steps], color=INK, linewidth=1, label="loss")
    axes.plot(units, values, color=BLUE, linewidth=2, label=name.removesuffix(" (%)"))
    axes.plot(units[-1], values[-1], "o", color=BLUE)
    for panel, limited, scale in ((axes, shown, times), (loss, "loss", 1)):
        for place, (what, level) in enumerate(each for each in floors if each[0] == limited):
            label = None if place else ("floor" if what == shown else "highest loss allowed")
            dashes = "--" if what == shown else ":"
            panel.axhline(scale * level, color=ORANGE, linewidth=1.2, linestyle=dashes, label=label)
    axes.set_title(f"{units[-1]} of {units[0]} units stay, {reached}", loc="left", color=INK)
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(**COUNTS))
    axes.set(xlabel="hidden units left" + (f"; measured on {samples}" if samples else ""))
    axes.set(ylabel=name)
    loss.set_ylabel("loss", color=INK)
    loss.spines[["top", "left"]].set_visible(False)
    below(axes, loss)


def below(axes: Axes, *others: Axes) -> None:
    """Add one legend for all axes of a figure, below it, where no data are."""
    handles, labels = axes.get_legend_handles_labels()
    for each in others:
        more, names = each.get_legend_handles_labels()
        handles, labels = handles + more, labels + names
    figure = axes.get_figure()
    if handles and isinstance(figure, Figure):
        place = "outside lower center"
        figure.legend(handles, labels, loc=place, ncols=4, frameon=False, fontsize=8)


def order_of_removal(
    axes: Axes, scores: Tensor, removed: Sequence[int], score: str = "rise in loss if removed"
) -> None:
    """Plot the scores of units in the unpruned network; removed units have another colour.

    Args:
        axes: the axes to draw on.
        scores: (size,) scores of the units of one group.
        removed: the units that were removed.
        score: what the scores are, for the vertical axis.
    """
    values = scores.numpy()
    order = np.argsort(values, kind="stable")
    cut = np.isin(order, list(removed))
    places = np.arange(len(order))
    axes.bar(places[~cut], values[order][~cut], width=0.9, color=BLUE, label="stayed")
    axes.bar(places[cut], values[order][cut], width=0.9, color=ORANGE, label="removed")
    axes.set(xlabel="units, by score in the unpruned network", ylabel=score)
    axes.xaxis.set_major_locator(MaxNLocator(**COUNTS))
    below(axes)


def receptive_fields(
    figure: Figure, weights: Tensor, picture: tuple[int, int], units: Sequence[int], title: str
) -> None:
    """Draw each unit's incoming weights as a picture, with a key of the colours.

    All pictures have one scale of colours. It ends at the absolute weight that all but 0.5 % of
    the weights drawn are below; larger ones have the colour of the end.

    Args:
        figure: gets one small picture for each unit, and a colour bar.
        weights: (size, inputs) incoming weights.
        picture: height and width of the input.
        units: which units to draw, in this order.
        title: title above the pictures.
    """
    columns = max(1, min(10, len(units)))
    rows = max(1, -(-len(units) // columns))
    reach = float(np.quantile(weights[list(units)].abs().numpy(), SHOWN)) or 1.0
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(len(units))]
    drawn = None
    for axes, unit in zip(panels, units, strict=True):
        field = weights[unit].reshape(picture).numpy()
        drawn = axes.imshow(field, cmap=SIGNED, vmin=-reach, vmax=reach)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(str(unit), fontsize=7, color=INK, pad=2)
        for spine in axes.spines.values():
            spine.set_color(PALE)
    if drawn is not None:
        key = figure.colorbar(drawn, ax=panels, fraction=0.03, pad=0.01, extend="both")
        key.set_label("weight", fontsize=7)
        key.ax.tick_params(labelsize=6)
    figure.suptitle(title, fontsize=10, color=INK)


def surfaces(
    figure: Figure, gains: Tensor, curves: Tensor, labels: Sequence[str], loss: str = "loss"
) -> None:
    """Plot the loss against the gain of one unit at a time, on a log and on a linear scale.

    Args:
        figure: gets two panels.
        gains: (g,) factors of the unit's output.
        curves: (k, g) losses.
        labels: names of the k curves.
        loss: label of the vertical axis.
    """
    shades = SHADES(np.linspace(0.0, 0.92, len(labels)))
    panels = [figure.add_subplot(1, 2, place) for place in (1, 2)]
    for axes, scale in zip(panels, ("log", "linear"), strict=True):
        tidy(axes)
        axes.axvline(1.0, color=ORANGE, linewidth=1)
        for curve, label, shade in zip(curves.numpy(), labels, shades, strict=True):
            axes.plot(gains.numpy(), curve, color=shade, linewidth=1.3, label=label)
        axes.set(xlabel="gain of the unit (0 removed, 1 unchanged)")
        axes.set(ylabel=f"{loss}, {scale} scale", yscale=scale)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)


def approximated(
    figure: Figure,
    gains: Tensor,
    curves: Tensor,
    tangents: Tensor,
    parabolas: Tensor,
    labels: Sequence[str],
) -> None:
    """Plot each curve with its tangent and its parabola at gain 1.

    Args:
        figure: gets one small panel for each curve.
        gains: (g,) factors of the unit's output.
        curves: (k, g) losses.
        tangents: (k, g) first-order estimates.
        parabolas: (k, g) second-order estimates.
        labels: names of the k curves.
    """
    columns = min(5, len(labels))
    rows = -(-len(labels) // columns)
    x = gains.numpy()
    for place, label in enumerate(labels):
        axes = figure.add_subplot(rows, columns, place + 1)
        tidy(axes)
        curve = curves[place].numpy()
        axes.axvline(1.0, color=PALE, linewidth=1)
        axes.plot(x, curve, color=BLUE, linewidth=2, label="loss")
        axes.plot(
            x, tangents[place].numpy(), color=INK, linewidth=1, linestyle=":", label="tangent"
        )
        axes.plot(x, parabolas[place].numpy(), color=ORANGE, linewidth=1, label="parabola")
        low, high = curve.min(), curve.max()
        room = 0.15 * (high - low) or 1e-3
        axes.set_ylim(low - 2 * room, high + room)
        axes.set_title(label, fontsize=8, color=INK)
        axes.tick_params(labelsize=7)
    figure.supxlabel("gain of the unit's output (0 removed, 1 unchanged)", fontsize=8, color=INK)
    figure.supylabel("loss", fontsize=8, color=INK)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3, frameon=False, fontsize=8)


def agreement(
    figure: Figure, exact: Tensor, given: Mapping[str, Tensor], gone: Sequence[int]
) -> None:
    """Plot the scores of several criteria against exact ablation, a dot for each unit.

    Args:
        figure: gets one panel for each criterion.
        exact: (size,) rises in loss by exact ablation.
        given: (size,) scores of each criterion, by its name.
        gone: removed units, drawn in another colour.
    """
    removed = np.isin(np.arange(len(exact)), list(gone))
    for place, (name, values) in enumerate(given.items()):
        axes = figure.add_subplot(1, len(given), place + 1)
        tidy(axes)
        for which, colour, label in ((~removed, BLUE, "stayed"), (removed, ORANGE, "removed")):
            x, y = exact.numpy()[which], values.numpy()[which]
            axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.8, label=label)
        rank = f"rank correlation {spearman(values, exact):+.2f}"
        axes.set_title(f"{name}\n{rank}", fontsize=9, color=INK)
        axes.set(xlabel="rise in loss if removed", ylabel=f"score by {name}")
        axes.locator_params(axis="x", nbins=3)
    if figure.axes:
        below(figure.axes[0])


def by_class(axes: Axes, names: Sequence[str], before: Tensor, after: Tensor) -> None:
    """Plot the accuracy of each class: before pruning as a mark, after as a bar.

    The axis starts 10 points below the lowest accuracy, and says so.
    """
    places = np.arange(len(names))[::-1]
    axes.barh(places, 100 * after.numpy(), color=BLUE, height=0.6, label="after")
    axes.plot(100 * before.numpy(), places, "|", color=INK, markersize=9, label="before",
              clip_on=False)  # fmt: skip
    axes.set_yticks(places, names)
    start = max(0, 100 * min(float(before.min()), float(after.min())) - 10)
    axes.set_xlim(start, 100)
    axes.set(xlabel="correct (%)" + (f"; the axis starts at {start:.0f} %" if start else ""))
    axes.set_ylabel("class")
    axes.grid(visible=False, axis="y")
    below(axes)


def sizes(axes: Axes, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Plot each size after pruning as a percentage of the size before."""
    names = list(before)
    shares = [100 * after[name] / before[name] for name in names]
    places = np.arange(len(names))[::-1]
    axes.barh(places, [100] * len(names), color=PALE, height=0.6)
    axes.barh(places, shares, color=BLUE, height=0.6)
    for place, share, name in zip(places, shares, names, strict=True):
        label = f"{share:.0f} %: {after[name]:,.0f} of {before[name]:,.0f}"
        axes.text(101, place, label, va="center", color=INK, fontsize=9)
    axes.set_yticks(places, names)
    axes.set(xlabel="% of the network before")
    axes.grid(visible=False)


def write(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and as SVG, and return both paths.

    Raises:
        FileError: a file cannot be written; an existing one is unchanged.
    """
    written = [Path(path).with_suffix(suffix) for suffix in (".png", ".svg")]
    for each in written:
        storage.writable(each)
    for each in written:
        # Without a date, the same run writes the same bytes.
        metadata = {"Date": None} if each.suffix == ".svg" else {"Software": "sentei"}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=each.suffix.removeprefix("."), metadata=metadata)
        storage.write(each, drawn.getvalue())
    return written


def budget_curves(axes: Axes, curves: Sequence[Any]) -> None:
    """Plot test accuracy against budgets of bytes, a line for each path and format.

    Both axes are logarithmic, the vertical one in the error. A cross below the lines marks a budget
    that a path cannot meet.

    Args:
        axes: the axes to draw on.
        curves: `experiments.budgets.Curve` objects with the same budgets.
    """
    paths = list(dict.fromkeys(curve.path for curve in curves))
    formats = list(dict.fromkeys(curve.format for curve in curves))
    colours = dict(zip(paths, [ORANGE, "#7f8c86", BLUE, INK, PALE], strict=False))
    met = [point for curve in curves for point in curve.points if point.fits]
    worst = max((_error(point) for point in met), default=100.0)
    floor = worst * 1.35
    crossed: dict[int, int] = {}
    for curve in curves:
        line = "-" if curve.format == formats[-1] else "--"
        colour = colours.get(curve.path, INK)
        kept = [point for point in curve.points if point.fits]
        label = f"{curve.path.replace('units:', 'units to ')}, {curve.weights}"
        x, y = [point.budget for point in kept], [_error(point) for point in kept]
        axes.plot(x, y, line, color=colour, marker="o", markersize=4, linewidth=1.8, label=label)
        for point in curve.points:
            if not point.fits:
                shift = 1 + 0.07 * crossed.setdefault(point.budget, 0)
                crossed[point.budget] += 1
                axes.plot(point.budget * shift, floor, "x", color=colour, markersize=6)
    for at, format in enumerate(formats):
        start = next(curve.untouched for curve in curves if curve.format == format)
        if at == 0:
            axes.axhline(_error(start), color=INK, linewidth=0.8, linestyle=":", label="untouched")
    budgets = sorted({point.budget for curve in curves for point in curve.points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(floor * 1.2, 0.8 * min((_error(point) for point in met), default=1.0))
    axes.set_xticks(budgets, [f"{budget / 1024:g}" for budget in budgets])
    shown = [e for e in (0.5, 1, 2, 3, 5, 10, 20, 50) if axes.get_ylim()[1] < e <= worst * 1.1]
    axes.set_yticks(shown, [f"{100 - error:g}" for error in shown])
    axes.minorticks_off()
    axes.set(xlabel="budget (KiB of weights, indices, biases and scales), log scale")
    axes.set(ylabel="test accuracy of the emitted code (%), log scale of the error")
    if crossed:
        axes.set_title("×: this path cannot meet the budget", loc="left", fontsize=9, color=INK)
    below(axes)


def _error(point: Any) -> float:
    """Return the test error in per cent, at least 0.01 so that its logarithm is finite."""
    return max(100 * (1 - point.test), 0.01)


def comparison(axes: Axes, curves: Sequence[Any], most: int = 8) -> None:
    """Plot the mean accuracy, or R², of each way against units left, the best few in colour.

    Args:
        axes: the axes to draw on.
        curves: `experiments.comparing.Curve` objects.
        most: number of ways that get a colour and a name; the others are pale.
    """
    by_way: dict[Any, list[Any]] = {}
    for curve in curves:
        by_way.setdefault(curve.way, []).append(curve)
    order = sorted(by_way, key=lambda way: -np.mean([curve.area for curve in by_way[way]]))
    shades = colormaps["viridis"](np.linspace(0, 0.9, min(most, len(order))))
    percent = all(curve.metric == "accuracy" for curve in curves)
    times, name = (100, "accuracy (%)") if percent else (1, NAMES[R2])
    for place, way in reversed(list(enumerate(order))):
        every = np.array([curve.accuracy for curve in by_way[way]])
        named = place < most
        axes.plot(
            by_way[way][0].left,
            times * every.mean(0),
            color=shades[place] if named else PALE,
            linewidth=2 if named else 1,
            zorder=3 if named else 1,
            label=str(way) if named else None,
        )
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(**COUNTS))
    axes.set(xlabel="hidden units left", ylabel=name)
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    if isinstance(figure, Figure):
        place = "outside right upper"
        figure.legend(handles[::-1], labels[::-1], loc=place, frameon=False, fontsize=8)
