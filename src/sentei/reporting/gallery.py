"""Draw all figures of a pruning run or of one network from its `Story`."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sentei.criteria import approximations, scores, surface
from sentei.metrics import R2
from sentei.network.units import Neurons, tensor_of
from sentei.reporting import figures
from sentei.reporting.floors import levels
from sentei.reporting.page.document import picture
from sentei.reporting.page.story import Story
from sentei.reporting.page.wording import EXACT, criterion, measured_on

UNITS = 10  # units whose error surfaces are drawn
ROWS = 500  # samples that surfaces and scores are measured on
AGAINST = ("magnitude", "taylor1", "taylor2")
GAINS = torch.linspace(0, 4, 41).double()


def gallery(story: Story) -> dict[str, Figure]:
    """Draw every figure that the story has data for, by name.

    "sizes" is drawn for every run; "tradeoff" where accuracy or R² is measured, "classes" where
    targets are classes; "order",
    "stayed", "removed", "surfaces" and "agreement" where there are groups of units, some of them
    only for inputs that are pictures.
    """
    found: dict[str, Figure] = {}
    if len(story.records) > 1:
        found |= _of_steps(story)
    units = _most_cut(story)
    if units is not None:
        found |= _of_units(story, units) | _of_fields(story, units)
    return found


def _of_steps(story: Story) -> dict[str, Figure]:
    first, last = (record.measured for record in (story.records[0], story.records[-1]))
    found: dict[str, Figure] = {}
    if first.accuracy is not None or all(R2 in r.measured.metrics for r in story.records):
        found["tradeoff"], axes = figures.canvas()
        limits = levels(story.card.get("keeping"), first)
        figures.tradeoff(axes, story.records, limits, measured_on(story))
    found["sizes"], axes = figures.canvas(8, 2.6)
    names = [n for n in ("units", "synapses", "parameters", "bytes") if getattr(first, n)]
    figures.sizes(axes, *({name: getattr(m, name) for name in names} for m in (first, last)))
    counted = [story.records[at].measured.by_class for at in (0, -1)]
    if counted[0] is not None and counted[1] is not None:
        names = list(story.names.classes) or [str(n) for n in range(len(counted[0]))]
        found["classes"], axes = figures.canvas(7, 0.22 * len(names) + 1.5)
        figures.by_class(axes, names, _accuracies(counted[0]), _accuracies(counted[1]))
    return found


def _of_units(story: Story, group: Neurons) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    removed = [int(u) for r in story.records[1:] for u in r.removed.get(group, torch.empty(0))]
    values = story.records[1].all_scores.get(group) if len(story.records) > 1 else None
    if values is not None:
        found["order"], axes = figures.canvas()
        figures.order_of_removal(axes, values, removed, _score(story))
    probe = story.probe(ROWS)
    if probe is None:
        return found
    exact = scores("ablation", probe, group)
    given = {name: scores(name, probe, group) for name in AGAINST}
    found["agreement"] = figures.blank(10, 3.4)
    figures.agreement(found["agreement"], exact, given, removed)
    places = torch.linspace(0, group.size - 1, min(UNITS, group.size)).round().long()
    units = exact.argsort(stable=True)[places].tolist()
    curves = surface(probe, group, units, GAINS)
    found["surfaces"] = figures.blank(10, 2.1 * -(-len(units) // 5) + 0.4)
    labels = [f"unit {unit}" for unit in units]
    approximated = approximations(probe, group, units, GAINS)
    figures.approximated(found["surfaces"], GAINS, curves, *approximated, labels)
    return found


def _of_fields(story: Story, group: Neurons) -> dict[str, Figure]:
    """Draw the incoming weights of units as pictures, if the units read pixels directly."""
    if story.samples is None:
        return {}
    inputs = story.samples.inputs
    form = picture(tuple(inputs.shape[1:]), story.names.features, inputs)
    weights = tensor_of(story.start, group.producers[0].parameter).detach()
    if form is None or form[0] != 1 or weights.ndim != 2 or weights.shape[1] != form[1] * form[2]:
        return {}
    stayed = story.records[-1].mask.alive(group).nonzero().flatten().tolist()
    removed = [int(u) for r in story.records[1:] for u in r.removed.get(group, torch.empty(0))]
    panels = {
        "stayed": (stayed, f"{group.name}: incoming weights of the units that stayed"),
        "removed": (removed, f"{group.name}: incoming weights of the removed units, in order"),
    }
    found = {}
    for name, (units, title) in panels.items():
        if units:
            found[name] = figures.blank(7, 0.75 * -(-len(units) // 10) + 0.5)
            figures.receptive_fields(found[name], weights, (form[1], form[2]), units, title)
    return found


def _most_cut(story: Story) -> Neurons | None:
    """Return the group of hidden units with the most dead units; None if there are no groups."""
    mask = story.records[-1].mask
    units = [g for g in story.groups if isinstance(g, Neurons) and g.kind != "input"]
    return max(units, key=lambda group: len(mask.dead(group)), default=None)


def _score(story: Story) -> str:
    """Return what the run's scores are."""
    named = criterion(story.card.get("propose"))
    if named is None:
        return "score by the run's criterion"
    return "rise in loss if removed" if named in EXACT else f"score by {named}"


def _accuracies(counted: Tensor) -> Tensor:
    """Convert (classes, 2) counts of correct and of all samples to accuracies."""
    return counted[:, 0] / counted[:, 1].clamp(min=1)
