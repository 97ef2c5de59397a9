"""What is measured for a page: criteria beside ablation, surfaces, what giving back would do."""

from __future__ import annotations

import copy
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria import CRITERIA, scores, surface
from sentei.criteria.agreement import spearman
from sentei.errors import PruningError
from sentei.losses import per_sample
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe
from sentei.reporting.page.base64_arrays import Packed, packed
from sentei.reporting.page.story import Story, evenly, has_classes

UNITS = 512  # of a group, beyond which it is left out
DRAWN = 128  # units of a group whose surfaces are measured
ROWS = 500  # samples that units are measured on
GAINS = [*(i / 10 for i in range(30)), *(i / 2 for i in range(6, 21))]
FEW = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 7.5, 10)  # of channels, where each costs more


def agreements(story: Story, probe: Probe) -> tuple[dict[int, Any], list[str]]:
    """For each group of units: exact ablation, and what every other criterion makes of it.

    Returns:
        By the group's position `{"exact", "criteria": [{"name", "scores", "spearman"}]}`, and what
        was left out.
    """
    found, said = {}, []
    for position, group in _units(story.groups):
        if group.size > UNITS:
            said.append(
                f"{group.name} has {group.size:,} units: criteria are compared up to {UNITS}."
            )
            continue
        exact = scores("ablation", probe, group)
        rows = []
        for name in sorted(CRITERIA):
            if name == "ablation":
                continue
            try:
                given = scores(name, probe, group)
            except (PruningError, ValueError):
                continue  # a criterion of synapses, or one that asks how the network was trained
            rows.append(_row(name, given, exact))
        rows.sort(key=lambda row: -(row["spearman"] or 0))
        used = _used(story, group)
        if used is not None:
            rows.insert(0, {**_row("as the run saw it", used, exact), "used": True})
        found[position] = {"exact": packed(exact), "criteria": rows}
    return found, said


def surfaces(story: Story, probe: Probe) -> dict[int, Any]:
    """For each group of units, the loss along each unit's gate; its slope and curvature at 1."""
    found = {}
    for position, group in _units(story.groups):
        units = torch.arange(min(group.size, DRAWN))
        grid = FEW if group.kind == "channel" else GAINS
        curves = surface(probe, group, units, grid)
        slopes = probe.slopes(group)[units]
        try:
            bends: Packed | None = packed(probe.curvatures(group, "full")[units])
        except PruningError:
            bends = None  # a loss without a second derivative has no parabola
        found[position] = {
            "grid": grid,
            "curves": packed(curves),
            "slopes": packed(slopes),
            "curvatures": bends,
        }
    return found


@torch.no_grad()
def gains(story: Story) -> list[dict[str, Any]]:
    """For each class, the one removed unit that would help it most if it were given back alone.

    Measured exactly at the last step, on the samples: the unit's listeners get their first weights
    back. Empty where nothing was removed or targets are not classes.
    """
    record = story.records[-1]
    samples = None if story.samples is None else evenly(story.samples, ROWS)
    if samples is None or story.loss is None or not has_classes(samples):
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
            given = copy.deepcopy(network)
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
    """Let a unit's listeners hear it again, with the weights in `first`."""
    for part in group.listeners:
        weight, columns = network.get_parameter(part.parameter), part.index[unit]
        weight.index_copy_(part.dim, columns, first[part.parameter].index_select(part.dim, columns))


def _by_class(
    network: nn.Module, inputs: Tensor, targets: Tensor, classes: int, loss: Any
) -> Tensor:
    lost = loss(network(inputs), targets).double()
    total = torch.zeros(classes, dtype=torch.float64).index_add_(0, targets, lost)
    return total / torch.bincount(targets, minlength=classes).clamp(min=1)


def _units(groups: list[Group]) -> list[tuple[int, Neurons]]:
    return [
        (position, group)
        for position, group in enumerate(groups)
        if isinstance(group, Neurons) and group.kind != "input"
    ]


def _used(story: Story, group: Group) -> Tensor | None:
    """What the run's own criterion said before its first step, on its own samples."""
    if len(story.records) < 2:
        return None
    return story.records[1].scores.get(group)


def _row(name: str, given: Tensor, exact: Tensor) -> dict[str, Any]:
    clean = given.double().nan_to_num(0.0, 0.0, 0.0)
    together = spearman(clean, exact)
    agree = round(together, 4) if isfinite(together) else None
    return {"name": name, "scores": packed(clean), "spearman": agree}
