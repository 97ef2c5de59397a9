"""Collect the data of a page as one value that can be stored as JSON."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import PruningError, StructureError
from sentei.metrics import NAMES, in_order
from sentei.network.layers import Standardise, standardises
from sentei.network.units import Branches, Neurons, Synapses
from sentei.reporting.page import evidence
from sentei.reporting.page.base64_arrays import packed
from sentei.reporting.page.facts import facts
from sentei.reporting.page.frames import frames
from sentei.reporting.page.operations import Operation, operations
from sentei.reporting.page.story import Story, evenly
from sentei.reporting.page.structure import structure
from sentei.reporting.page.wording import criterion, lead, measured_on, scored_on, title

LISTED = 2000  # rows of the table of removed units, at most
PICTURES, ROWS = 60, 200  # samples that the page offers: large inputs, and others
SLIDERS = 64  # values of an input, at most, that have a slider each
WHOLE = 1e-4  # how far a number may be from a whole one, after standardisation was taken back
HEIRS = 3  # units named as replacing a removed unit

Document = dict[str, Any]


def document(story: Story) -> Document:
    """Collect the page's data; the page states which parts are missing.

    Raises:
        PruningError: the run cannot be shown at all.
    """
    notes = list(story.missing)
    row, why_not = _operations(story)
    network = None
    if row is not None:
        network, network_notes = _network(story, row)
        notes += network_notes
    removed, removed_notes = _removed(story)
    extent = evidence.extent(story, _is_chain(row))
    found, evidence_notes = _evidence(story, extent)
    return {
        "title": title(story),
        "lead": lead(story),
        "measuredOn": measured_on(story),
        "scoredOn": scored_on(story, extent.rows),
        "criterion": criterion(story.card.get("propose")),
        "predictsClasses": story.has_classes,
        "isRun": story.is_run,
        "live": story.running,
        "steps": _steps(story),
        "classes": _classes(story),
        "byClass": _by_class(story),
        "groups": _groups(story, row),
        "structure": structure(story),
        "removed": removed,
        "network": network,
        "unrunnable": why_not,
        "input": _input(story, runs=network is not None),
        "samples": _samples(story) if network is not None else None,
        **found,
        **facts(story, _form(story, row), extent.rows),
        "notes": [*notes, *removed_notes, *evidence_notes],
    }


def _operations(story: Story) -> tuple[list[Operation] | None, str]:
    """Return the network's operations and ""; or None and why the page cannot run it."""
    try:
        row = operations(story.start)
    except StructureError as error:
        return None, f"This page cannot draw or run the network: {error}."
    if story.samples is None:
        return None, "This page cannot draw the network: there are no samples of its inputs."
    if not story.samples.inputs.is_floating_point():
        return None, "This page cannot draw the network: its inputs are integers, not floats."
    return row, ""


def _network(story: Story, row: list[Operation]) -> tuple[Document | None, tuple[str, ...]]:
    """Return the operations and the weights of chosen steps, and notes on what is left out."""
    chosen = frames(story)
    if not chosen.packed:
        return None, chosen.notes
    listed = [{"kind": each.kind, "layer": each.layer, **each.settings} for each in row]
    return {
        "operations": listed,
        "frames": chosen.packed,
        "frameOf": chosen.frame_of,
        "exact": chosen.exact,
        "hasStart": chosen.has_start,
    }, chosen.notes


def _form(story: Story, row: list[Operation] | None) -> str:
    """Return the layer widths of a multilayer perceptron; else the name of the network's class."""
    weights = [each.tensors["w"] for each in row or [] if each.kind in ("linear", "conv")]
    if not weights or any(weight.ndim != 2 for weight in weights):
        return type(story.start).__name__
    return "-".join(str(each) for each in (weights[0].shape[1], *(w.shape[0] for w in weights)))


def _steps(story: Story) -> Document:
    keys = ("accuracy", "loss", "units", "synapses", "parameters", "bytes")
    measured = [record.measured for record in story.records]
    sizes = {key: [getattr(each, key) for each in measured] for key in keys}
    metrics = [
        [NAMES.get(name, name), [each.metrics.get(name) for each in measured]]
        for name in in_order(name for each in measured for name in each.metrics)
    ]
    return {**sizes, "metrics": metrics}


def _classes(story: Story) -> list[str]:
    if story.names.classes:
        return list(story.names.classes)
    samples = story.samples
    if samples is None or not story.has_classes:
        return []
    return [str(number) for number in range(int(samples.targets.max()) + 1)]


def _by_class(story: Story) -> Document | None:
    counted = [record.measured.by_class for record in story.records]
    if any(each is None for each in counted):
        return None
    both = torch.stack([each for each in counted if each is not None])
    return {"right": packed(both[..., 0], "i4"), "total": both[0, :, 1].tolist()}


def _groups(story: Story, row: list[Operation] | None) -> list[Document]:
    """Describe each group: its operation (-1 for inputs) and the step in which each member died."""
    layers = {each.layer: place for place, each in enumerate(row or []) if each.tensors}
    described = []
    for group in story.groups:
        if isinstance(group, Synapses):
            place = layers.get(group.parameter.rpartition(".")[0])
        elif isinstance(group, Branches):
            place = None
        elif group.kind == "input":
            place = -1
        else:
            places = [layers[p.layer] for p in group.producers if p.layer in layers]
            place = min(places, default=None)
        described.append(
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "operation": place,
                "death": packed(_death(story, group), "i2"),
            }
        )
    return described


def _death(story: Story, group: Any) -> Tensor:
    """Return (size,) the step since which each member is dead; -1 if it is alive at the end."""
    death = torch.full((group.size,), -1)
    first, last = story.records[0].mask, story.records[-1].mask
    if group in first.groups:
        death[first.dead(group)] = 0
    for record in story.records:
        if group in record.removed:
            death[record.removed[group]] = record.number
    if group in last.groups:
        death[last.alive(group)] = -1  # regrown
    return death


def _removed(story: Story) -> tuple[list[Document], list[str]]:
    """List removed units in order, and a note if there are too many; synapses are not listed."""
    rows, total = [], 0
    for record in story.records[1:]:
        for position, group in enumerate(story.groups):
            if not isinstance(group, Neurons) or group not in record.removed:
                continue
            units = record.removed[group].tolist()
            total += len(units)
            given = record.scores.get(group)
            for place, unit in enumerate(units):
                if len(rows) < LISTED:
                    rows.append(
                        {
                            "step": record.number,
                            "group": position,
                            "unit": unit,
                            "score": None if given is None else _number(given[place]),
                            "heirs": _heirs(record.mixes, group, place, len(units)),
                        }
                    )
    notes = [f"The table lists the first {LISTED:,} of {total:,} removed units."]
    return rows, notes if total > LISTED else []


def _heirs(mixes: dict[str, Tensor], group: Neurons, place: int, units: int) -> list[Any]:
    """List the units that replace a removed unit with the largest shares: [unit, share].

    The last entry is [-1, constant], the part that is added to the biases. Empty without a repair,
    and where columns of units are fitted, not units.
    """
    for part in group.listeners:
        mix = mixes.get(part.parameter)
        if mix is not None and mix.shape == (units, group.size + 1):
            own = mix[place]
            largest = own[:-1].abs().argsort(descending=True)[:HEIRS].tolist()
            named = [[unit, _number(own[unit])] for unit in largest if own[unit] != 0]
            return [*named, [-1, _number(own[-1])]]
    return []


def _number(value: Tensor) -> float | None:
    return float(f"{float(value):.6g}") if bool(value.isfinite()) else None


def _input(story: Story, *, runs: bool) -> Document | None:
    """Describe the inputs; what only a page that runs the network needs is left out elsewhere."""
    if story.samples is None or not story.samples.inputs.is_floating_point():
        return None
    inputs, names = story.samples.inputs.float(), story.names
    flat = inputs.flatten(1)
    features = list(names.features[: flat.shape[1]]) if flat.shape[1] <= 4096 else []
    if not runs:
        return {"features": features}
    first = next((m for m in story.start.modules() if isinstance(m, Standardise)), nn.Identity())
    read = first(inputs).flatten(1) if standardises(story.start) else flat
    return {
        "shape": list(inputs.shape[1:]),
        "picture": picture(tuple(inputs.shape[1:]), names.features, inputs),
        "features": features,
        "spread": packed(read.std(0, correction=0)),
        "low": packed(flat.amin(0)),
        "high": packed(flat.amax(0)),
        "mean": list(names.mean),
        "std": list(names.std),
        "whole": _whole(flat, story),
    }


def _whole(flat: Tensor, story: Story) -> list[bool]:
    """Return for each value of small inputs whether it is a whole number in all samples."""
    if flat.shape[1] > SLIDERS:
        return []
    names, values = story.names, flat.double()
    if names.std:
        values = values * torch.tensor(names.std).double() + torch.tensor(names.mean).double()
    return ((values - values.round()).abs() < WHOLE).all(0).tolist()


def picture(shape: tuple[int, ...], features: tuple[str, ...], inputs: Tensor) -> list[int] | None:
    """Return channels, height and width of inputs that are pictures; None for other inputs."""
    if len(shape) == 3 and shape[0] in (1, 3):
        return list(shape)
    side = isqrt(shape[0]) if len(shape) == 1 else 0
    named = bool(features) and all(name.startswith("pixel ") for name in features)
    likely = not features and side >= 8 and float(inputs.min()) >= 0 and float(inputs.max()) <= 1
    return [1, side, side] if side and side * side == shape[0] and (named or likely) else None


def _samples(story: Story) -> Document | None:
    """Choose the samples that the page offers; store them as bytes if that is exact."""
    if story.samples is None or not story.samples.inputs.is_floating_point():
        return None
    samples = story.samples
    classes = story.has_classes
    large = samples.inputs[0].numel() > 64
    most = PICTURES if large else ROWS
    if samples.inputs[0].numel() * most > 400_000:
        most = max(400_000 // samples.inputs[0].numel(), 1)
    if classes:
        rows = _balanced(samples.targets, most)
        chosen = samples.at(rows)
    else:
        chosen = evenly(samples, most)
    flat = chosen.inputs.float()
    bytes_ = (flat * 255).round()
    exact = torch.equal(bytes_ / 255, flat) and float(flat.min()) >= 0 and float(flat.max()) <= 1
    return {
        "inputs": packed(bytes_, "u1") if exact else packed(flat, "f4"),
        "over": 255 if exact else 1,
        "targets": chosen.targets.tolist() if classes else [],
        "of": samples.rows,
    }


def _balanced(targets: Tensor, most: int) -> Tensor:
    """Choose at most `most` rows, taking the classes in turn: first the first row of each class."""
    order = targets.argsort(stable=True)
    grouped = targets[order]
    starts = torch.searchsorted(grouped, grouped)
    turn = torch.arange(len(order)) - starts
    return order[torch.argsort(turn * (int(grouped.max()) + 1) + grouped, stable=True)][:most]


def _is_chain(row: list[Operation] | None) -> bool:
    """Return whether a network is a row of linear layers."""
    return row is not None and not any(each.kind in ("conv", "depthwise") for each in row)


def _evidence(story: Story, extent: evidence.Extent) -> tuple[Document, list[str]]:
    """Measure criteria, error surfaces and gains by class; return notes on what is left out."""
    found: Document = {"agreements": {}, "surfaces": {}, "gains": []}
    if story.running:
        return found, ["Criteria are compared, and times measured, when the run has ended."]
    probe = story.probe(extent.rows) if extent.rows else None
    if probe is None:
        return found, list(extent.notes)
    found["baseline"] = probe.loss()
    notes: list[str] = []
    try:
        found["agreements"], notes = evidence.agreements(story, probe, curves=extent.curves)
        if extent.curves:
            found["surfaces"] = evidence.surfaces(story, probe)
        found["gains"] = evidence.gains(story, extent.rows)
    except PruningError as error:
        notes.append(f"Criteria were not compared: {error}")
    return found, [*extent.notes, *notes]
