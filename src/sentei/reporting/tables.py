"""Format numbers as tables for the terminal (rich)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from torch import Tensor

from sentei.formats.safetensors import Contents
from sentei.metrics import texts
from sentei.network.tracing.inventory import Inventory, Offered
from sentei.network.units import Branches, Neurons, Synapses
from sentei.probe.estimates import Estimate
from sentei.pruning.tidying import Tidied
from sentei.reporting.page.network_facts import Facts

UNLIMITED = 10_000  # columns of a terminal on which every table fits


def before_and_after(before: Facts, after: Facts) -> Table:
    """Tabulate sizes, times, accuracy and loss before and after pruning."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "before", "after", "after / before"):
        table.add_column(name, justify="left" if not name else "right")
    rows = [
        ("units", before.units, after.units, "{:,}"),
        ("synapses", before.synapses, after.synapses, "{:,}"),
        ("parameters", before.parameters, after.parameters, "{:,}"),
        ("bytes on disk", before.bytes, after.bytes, "{:,}"),
        ("multiply-adds", before.multiply_adds, after.multiply_adds, "{:,}"),
        ("latency of 1", before.latency * 1e6, after.latency * 1e6, "{:,.1f} µs"),
        ("latency of 256", before.batch_latency * 1e6, after.batch_latency * 1e6, "{:,.0f} µs"),
    ]
    for name, old, new, form in rows:
        share = f"{new / old:.1%}" if old else "-"
        table.add_row(name, form.format(old), form.format(new), share)
    if before.accuracy is not None and after.accuracy is not None:
        points = 100 * (after.accuracy - before.accuracy)
        shown = [f"{value:.2%}" for value in (before.accuracy, after.accuracy)]
        table.add_row("accuracy", *shown, f"{points:+.2f} points")
    old, new = dict(texts(before.metrics)), dict(texts(after.metrics))
    for name in [*old, *(new.keys() - old.keys())]:
        table.add_row(name, old.get(name, "-"), new.get(name, "-"), "")
    table.add_row("loss", f"{before.loss:.4f}", f"{after.loss:.4f}", "")
    return table


def ranking(values: Tensor, criterion: str, most: int, branches: tuple[str, ...] = ()) -> Table:
    """Tabulate the `most` units, or branches with these names, with lowest and highest scores."""
    table = Table(box=None, pad_edge=False)
    for name in ("rank", "branch" if branches else "unit", criterion):
        table.add_column(name, justify="right")
    order = values.argsort(stable=True).tolist()
    shown = range(len(order))
    gap = len(order) > 2 * most
    for place in shown:
        if gap and most <= place < len(order) - most:
            if place == most:
                table.add_row("…", "…", "…")
            continue
        unit = order[place]
        named = branches[unit] if branches else str(unit)
        table.add_row(str(place + 1), named, f"{float(values[unit]):.6g}")
    return table


def surfaces(
    group: str, units: Sequence[int], gains: Tensor, curves: Tensor, first: Tensor, second: Tensor
) -> Table:
    """Tabulate, for each unit, its loss at gain 0, the two estimates of it, and the lowest loss."""
    table = Table(box=None, pad_edge=False)
    for name in (
        "group",
        "unit",
        "loss at 0",
        "by tangent",
        "by parabola",
        "best gain",
        "loss there",
    ):
        table.add_column(name, justify="left" if name == "group" else "right")
    at = int(gains.abs().argmin())
    for place, unit in enumerate(units):
        best = int(curves[place].argmin())
        at_zero = [f"{float(of[place, at]):.5f}" for of in (curves, first, second)]
        lowest = (f"{float(gains[best]):.3g}", f"{float(curves[place, best]):.5f}")
        table.add_row(group, str(unit), *at_zero, *lowest)
    return table


def agreement(units: Mapping[str, int], correlations: Mapping[str, float]) -> Table:
    """Tabulate Spearman's rank correlation of two criteria, group by group, and its units."""
    table = Table(box=None, pad_edge=False)
    table.add_column("group")
    table.add_column("units", justify="right")
    table.add_column("Spearman", justify="right")
    for name, correlation in correlations.items():
        table.add_row(name, str(units[name]), f"{correlation:+.3f}")
    return table


def claims(rows: Sequence[Any]) -> Table:
    """Tabulate a paper's claims beside the measured results: rows of `papers.claims.Claim`."""
    table = Table(box=None, pad_edge=False)
    for name in ("claim", "published", "measured", "verdict", "remark"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row.claim, row.published, row.measured, row.verdict, row.remark)
    return table


def contents(about: Contents) -> Group:
    """Tabulate the contents of a file: its metadata, then its tensors with their dead entries."""
    head = Table(box=None, pad_edge=False, show_header=False)
    head.add_column(style="bold")
    head.add_column()
    head.add_row("bytes", f"{about.bytes:,}")
    head.add_row("parameters", f"{about.entries:,}")
    head.add_row("format", f"{about.format}, written by sentei {about.written_by}")
    head.add_row("network", about.architecture or "not stored in the file: load(path, into=...)")
    known = about.card.data()
    for what in (each for each in ("predicts", "loss", "classes", "features") if each in known):
        value = known[what]
        head.add_row(what, ", ".join(value) if isinstance(value, list) else value)
    tensors = Table(box=None, pad_edge=False)
    tensors.add_column("tensor")
    tensors.add_column("shape", justify="right")
    tensors.add_column("entries", justify="right")
    layers = [group for group in about.mask.groups if isinstance(group, Synapses)]
    dead = {layer.parameter: len(about.mask.dead(layer)) for layer in layers}
    if dead:
        tensors.add_column("dead", justify="right")
    for name, shape in about.tensors.items():
        size = " × ".join(map(str, shape))
        counted = [f"{dead[name]:,}" if name in dead else ""] if dead else []
        tensors.add_row(name, size, f"{prod(shape):,}", *counted)
    return Group(head, "", tensors)


def foretold(costs: Sequence[Estimate]) -> Table:
    """Tabulate what work on a network would cost: passes of one sample, time and memory."""
    table = Table(box=None, pad_edge=False)
    table.add_column("work")
    for name in ("passes", "seconds", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in costs:
        passes = f"{each.passes:,.0f}" if each.passes else ""
        table.add_row(each.work, passes, f"{each.seconds:.2g}", f"{each.memory / 1e6:,.0f} MB")
    return table


def offered(found: Inventory) -> FirstFitting:
    """Tabulate the groups of a network, what belongs to each, and its share of the parameters."""
    counted = ("computed\nby", "passed on\nby", "read\nby")
    names = ("group", "kind", "units", *counted, "parameters", "share")
    rows = []
    for each in found.offered:
        group, ties = each.group, ["", "", ""]
        if isinstance(group, Neurons):
            parts = group.producers, group.followers, group.listeners
            ties = [str(len(part)) for part in parts]
        numbers = [f"{each.parameters:,}", f"{found.share(each.parameters):.1%}"]
        rows.append([group.name, group.kind, f"{group.size:,}", *ties, *numbers])
    units = sum(group.size for group in found.groups)
    numbers = [f"{found.removable:,}", f"{found.share(found.removable):.1%}"]
    rows.append(["all together", "", f"{units:,}", "", "", "", *numbers])
    widths = (range(len(names)), (0, 1, 2, 6, 7), (0, 2, 7))
    return FirstFitting([_of_groups(names, rows, columns) for columns in widths])


def by_branch(found: Inventory, each: Offered) -> Table:
    """Tabulate the branches of a group, and the parameters that go with each alone."""
    table = Table(box=None, pad_edge=False)
    table.add_column("branch", overflow="fold")
    for name in ("parameters", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    assert isinstance(each.group, Branches)
    for name, count in zip(each.group.names, each.by_branch, strict=True):
        table.add_row(name, f"{count:,}", f"{found.share(count):.1%}")
    return table


def _of_groups(
    names: Sequence[str], rows: Sequence[Sequence[str]], columns: Iterable[int]
) -> Table:
    table = Table(box=None, pad_edge=False)
    for at in columns:
        if at == 0:
            table.add_column(names[at], overflow="fold", min_width=16)
        else:
            table.add_column(names[at], justify="left" if at == 1 else "right", no_wrap=True)
    for row in rows:
        style = "bold" if row is rows[-1] else None
        table.add_row(*(row[at] for at in columns), style=style)
    return table


@dataclass(frozen=True)
class FirstFitting:
    """Shows the first of some tables that fits the width of the terminal; else the last."""

    tables: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table."""
        unlimited = options.update_width(UNLIMITED)
        for table in self.tables:
            if Measurement.get(console, unlimited, table).minimum <= options.max_width:
                yield table
                return
        yield self.tables[-1]


def left_out(found: Inventory) -> Table:
    """Tabulate the layers with rows that are not offered, those with the same reason in a row."""
    table = Table(box=None, pad_edge=False)
    table.add_column("layers", overflow="fold", ratio=2)
    table.add_column("why", ratio=3)
    for reason, places in found.reasons.items():
        layers = dict.fromkeys(p.parameter.rpartition(".")[0] or p.parameter for p in places)
        table.add_row(", ".join(patterns(layers)), reason)
    return table


def patterns(names: Iterable[str]) -> list[str]:
    """Join names that differ in numbers alone: "blocks.*.fc (12)"; others stay as they are."""
    names = list(names)
    alike = Counter(re.sub(r"\d+", "*", name) for name in names)
    found = dict.fromkeys(
        f"{pattern} ({alike[pattern]})" if alike[pattern] > 1 else name
        for name in names
        for pattern in [re.sub(r"\d+", "*", name)]
    )
    return list(found)


def finds(done: Tidied) -> Table:
    """Tabulate the units that `tidy` removed, why, and whether that holds for every input."""
    table = Table("where", "why", "units", "holds")
    for find in done.finds:
        shown = ", ".join(map(str, find.units[:8])) + ", …" * (len(find.units) > 8)
        holds = "for every input" if find.proven else "on the samples"
        table.add_row(find.group.name, find.why, f"{len(find.units)}: {shown}", holds)
    for name in done.norms:
        table.add_row(name, "batch norm, folded", "", "in evaluation mode")
    if not done.finds and not done.norms:
        table.add_row("", "nothing to remove", "0", "")
    return table


def compared(found: Sequence[Any]) -> Table:
    """Tabulate ways to prune, one in a row: see `experiments.comparing.Row`."""
    percent = all(row.metric == "accuracy" for row in found)
    unit, times, digits = (" (%)", 100, 2) if percent else ("", 1, 4)
    table = Table("way", f"area{unit}", f"at half{unit}", "agrees with ablation", "seeds")
    for row in found:
        area = f"{times * row.area:.{digits}f} ± {times * row.deviation:.{digits}f}"
        half = f"{times * row.half:.{digits}f}"
        table.add_row(str(row.way), area, half, f"{row.agreement:+.2f}", str(row.seeds))
    return table


def tried(found: Sequence[Any]) -> Table:
    """Tabulate the end of each path of a search: see `pruning.searching.Found`."""
    table = Table("path", "steps", "bytes", "RAM", "validation", "fits", box=None, pad_edge=False)
    for each in found:
        ram = "" if each.ram is None else f"{each.ram:,}"
        fits = "yes" if each.fits else "no"
        table.add_row(each.path, str(each.steps), f"{each.bytes:,}", ram, _validation(each), fits)
    return table


def _validation(found: Any) -> str:
    """Return what a path ends with as a text: the accuracy, else R², else the loss."""
    if found.accuracy is not None:
        return f"{found.accuracy:.2%}"
    now = found.step.measured
    return " ".join([*texts(now.metrics), ("loss", f"{now.loss:.4f}")][0])


def budgets(curves: Sequence[Any]) -> Table:
    """Tabulate the network of each path at each budget: see `experiments.budgets.Curve`."""
    names = ("budget", "path", "weights", "bytes", "units", "synapses", "validation", "test")
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("path", "weights") else "right")
    formats = {curve.format: curve for curve in curves}
    for curve in formats.values():
        table.add_row("none", "untouched", curve.weights, *_point(curve.untouched))
    for place in range(len(curves[0].points)):
        for curve in curves:
            point = curve.points[place]
            table.add_row(f"{point.budget:,}", curve.path, curve.weights, *_point(point))
    return table


def _point(point: Any) -> list[str]:
    if not point.fits:
        return [f"not met: {point.bytes:,} at least", "", "", "", ""]
    size = [f"{value:,}" for value in (point.bytes, point.units, point.synapses)]
    return [*size, f"{point.validation:.2%}", f"{point.test:.2%}"]
