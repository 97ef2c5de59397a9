"""Measure criteria against exact ablation, error surfaces, and the effect of restoring units."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria import CRITERIA, scores, surface
from sentei.criteria.agreement import spearman
from sentei.errors import PruningError
from sentei.losses import per_sample
from sentei.network.copying import copied
from sentei.network.encoding.size import multiply_adds
from sentei.network.units import Group, Neurons, tensor_of
from sentei.probe.probe import Probe
from sentei.reporting.page.base64_arrays import Packed, packed
from sentei.reporting.page.story import Story, evenly

UNITS = 512  # units of a group, at most; criteria are not compared in larger groups
DRAWN = 128  # units of a group whose surfaces are measured
ROWS, FEWEST = 500, 32  # samples that scores and surfaces are measured on: at most, and at least
WORK = 5e10  # multiply-adds that one ablation of all units may take
CURVES = 1e10  # likewise, where error surfaces and second derivatives are computed too
SECOND_ORDER = ("taylor2",)  # criteria that compute these
GAINS = [*(i / 10 for i in range(30)), *(i / 2 for i in range(6, 21))]
FEW = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 7.5, 10)  # gains of channels, which cost more


@dataclass(frozen=True)
class Extent:
    """How much a page measures.

    Attributes:
        rows: number of samples; 0 if nothing is measured.
        curves: whether error surfaces and second derivatives are computed.
        notes: sentences on what is left out.
    """

    rows: int
    curves: bool
    notes: tuple[str, ...] = ()


def extent(story: Story, is_chain: bool) -> Extent:
    """Decide what can be measured in about a minute, from the network's multiply-adds and units.

    Args:
        story: what the page is about.
        is_chain: whether the network is a chain of linear layers, of which units cost little.
    """
    if story.samples is None or story.loss is None or story.running:
        return Extent(0, curves=False)
    rows = min(story.samples.rows, ROWS)
    if is_chain:
        return Extent(rows, curves=True)
    units = sum(group.size for _, group in _units(story.groups) if group.size <= UNITS)
    each = units * multiply_adds(story.start, story.samples.inputs[:1])
    rows = min(rows, int(WORK / max(each, 1)))
    if rows < min(FEWEST, story.samples.rows):
        note = (
            f"Criteria are not compared, because exact ablation of {units:,} units takes too long "
            "for a page; `sentei rank` measures it."
        )
        return Extent(0, curves=False, notes=(note,))
    curves = rows * each <= CURVES
    note = "Error surfaces and second derivatives are left out: they take too long for a page."
    return Extent(rows, curves, () if curves else (note,))


def agreements(
    story: Story, probe: Probe, *, curves: bool = True
) -> tuple[dict[int, Any], list[str]]:
    """Score the units of each group by exact ablation and by every other criterion.

    Without `curves`, those that need second derivatives are left out.

    Returns:
        By the group's position, `{"exact", "criteria": [{"name", "scores", "spearman"}]}`; and
        notes on groups that are left out.
    """
    found, notes = {}, []
    for position, group in _units(story.groups):
        if group.size > UNITS:
            notes.append(
                f"{group.name} has {group.size:,} units: criteria are compared up to {UNITS}."
            )
            continue
        exact = scores("ablation", probe, group)
        rows = []
        for name in sorted(CRITERIA):
            if name == "ablation" or (name in SECOND_ORDER and not curves):
                continue
            try:
                given = scores(name, probe, group)
            except (PruningError, ValueError):
                continue  # a criterion for synapses, or one that needs a trajectory of training
            rows.append(_row(name, given, exact))
        rows.sort(key=lambda row: -(row["spearman"] or 0))
        used = _used(story, group)
        if used is not None:
            rows.insert(0, {**_row("criterion of the run", used, exact), "used": True})
        found[position] = {"exact": packed(exact), "criteria": rows}
    return found, notes


def surfaces(story: Story, probe: Probe) -> dict[int, Any]:
    """Compute the loss along each unit's gate, with its slope and curvature at gate 1.

    Groups whose units have no gain are left out.
    """
    found = {}
    for position, group in _units(story.groups):
        if group.kind == "stream":
            continue  # the norms count its units, so that a gain between 0 and 1 means nothing
        units = torch.arange(min(group.size, DRAWN))
        grid = FEW if group.kind == "channel" else GAINS
        curves = surface(probe, group, units, grid)
        slopes = probe.slopes(group)[units]
        curvatures = _curvatures(probe, group, units)
        found[position] = {
            "grid": grid,
            "curves": packed(curves),
            "slopes": packed(slopes),
            "curvatures": curvatures,
        }
    return found


def _curvatures(probe: Probe, group: Neurons, units: Tensor) -> Packed | None:
    """Return the curvatures at gate 1; None for a loss without a second derivative."""
    try:
        return packed(probe.curvatures(group, "full")[units])
    except PruningError:
        return None


@torch.no_grad()
def gains(story: Story, rows: int = ROWS) -> list[dict[str, Any]]:
    """Find, for each class, the removed unit whose restoration lowers its loss most.

    The loss is measured at the last step, on the samples, with one unit restored at a time: the
    unit's listeners get the weights of the unpruned network back. Empty if nothing was removed or
    targets are not classes.
    """
    record = story.records[-1]
    samples = None if story.samples is None else evenly(story.samples, rows)
    if samples is None or story.loss is None or not story.has_classes:
        return []
    network = story.network(record.number).eval()
    first = dict(story.start.named_parameters())
    loss = per_sample(story.loss)
    classes = int(samples.targets.max()) + 1
    before = _by_class(network, samples.inputs, samples.targets, classes, loss)
    best: dict[int, tuple[float, int, int]] = {}
    for position, group in _units(story.groups):
        dead = record.mask.dead(group)
        for unit in dead[:UNITS].tolist():
            given = copied(network)
            give_back_(given, first, group, unit)
            after = _by_class(given, samples.inputs, samples.targets, classes, loss)
            for number, fall in enumerate((before - after).tolist()):
                if fall > best.get(number, (0.0,))[0]:
                    best[number] = fall, position, unit
    return [
        {"class": c, "fall": fall, "loss": float(before[c]), "group": group, "unit": unit}
        for c, (fall, group, unit) in sorted(best.items())
    ]


def give_back_(
    network: nn.Module, first: dict[str, nn.Parameter], group: Neurons, unit: int
) -> None:
    """Restore a unit: copy the columns that read it from the weights in `first`, in place."""
    for part in group.listeners:
        weight, columns = tensor_of(network, part.parameter), part.index[unit]
        weight.index_copy_(part.dim, columns, first[part.parameter].index_select(part.dim, columns))


def _by_class(
    network: nn.Module, inputs: Tensor, targets: Tensor, classes: int, loss: Any
) -> Tensor:
    """Return the mean loss of each class."""
    losses = loss(network(inputs), targets).double()
    total = torch.zeros(classes, dtype=torch.float64).index_add_(0, targets, losses)
    return total / torch.bincount(targets, minlength=classes).clamp(min=1)


def _units(groups: list[Group]) -> list[tuple[int, Neurons]]:
    return [
        (position, group)
        for position, group in enumerate(groups)
        if isinstance(group, Neurons) and group.kind != "input"
    ]


def _used(story: Story, group: Group) -> Tensor | None:
    """Return the run's own scores in its first step, on the run's samples; None without a run."""
    if len(story.records) < 2:
        return None
    return story.records[1].all_scores.get(group)


def _row(name: str, given: Tensor, exact: Tensor) -> dict[str, Any]:
    clean = given.double().nan_to_num(0.0, 0.0, 0.0)
    correlation = spearman(clean, exact)
    rounded = round(correlation, 4) if isfinite(correlation) else None
    return {"name": name, "scores": packed(clean), "spearman": rounded}
