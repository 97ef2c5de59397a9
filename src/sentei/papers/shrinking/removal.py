"""Remove all hidden units one by one, by each criterion, with a single and a repeated ranking."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import sentei
from sentei.criteria import approximations, scores
from sentei.criteria.agreement import spearman
from sentei.datasets import Samples
from sentei.jobs.results import Result
from sentei.network.units import Group
from sentei.papers.shrinking.networks import Setting, samples, setting, trained
from sentei.pruning.rules.schedules import Progress
from sentei.training import evaluate

SURFACED = ("ablation", "taylor1", "taylor2-diagonal")  # the paper's three criteria
GAINS = torch.linspace(0, 10, 101).double()
EVERY = 10  # removals from one error surface to the next


def removed(
    name: str, seed: int, again: list[str], once: list[str], controls: bool, quick: bool
) -> Result:
    """Train a network, remove its units by the given criteria, and measure its controls.

    Args:
        name: name of the setting.
        seed: of data, weights and order of samples.
        again: criteria for the iterative algorithm, which ranks again after every removal.
        once: criteria for a single overall ranking.
        controls: whether to train networks of the pruned widths from scratch, and to truncate the
            first layer's singular values.
        quick: use a smaller network and less training.

    Returns:
        The curves by ranking and criterion (see `emptied`), each criterion's rank correlation with
        exact ablation by layer, the unpruned network's accuracy, and the controls.
    """
    how = setting(name, quick)
    learn, held = samples(how.data, seed)
    model, epochs = trained(how, how.hidden, learn, seed)
    seen = learn.first(how.ranked)
    groups = sentei.find_units(model, learn.inputs[:64])
    probe = sentei.Probe(model, seen, how.loss)
    scores_by_criterion: dict[str, dict[Group, Tensor]] = {
        each: {g: scores(each, probe, g) for g in groups} for each in {*again, *once}
    }
    exact = {g: sentei.criteria.ablation(probe, g) for g in groups}
    agreement = {
        each: [spearman(of[g], exact[g]) for g in groups]
        for each, of in sorted(scores_by_criterion.items())
    }
    draws = seed == 0 and "taylor2-diagonal" in once
    rankings = {f"iterative {each}": each for each in again}
    rankings |= {f"single {each}": sentei.fixed(scores_by_criterion[each]) for each in once}
    curves: dict[str, Any] = {}
    for label, criterion in rankings.items():
        draw = draws and label.startswith("iterative") and criterion in SURFACED
        curves[label] = emptied(model, seen, held, how, criterion, draw)
    found: Result = {"epochs": epochs, "curves": curves, "spearman": agreement}
    start = evaluate(model, held, loss=how.loss)
    found["start"] = {"held": start.accuracy, "held loss": start.loss, "ranked": seen.rows}
    if controls:
        found["controls"] = _controls(model, how, curves["iterative ablation"], learn, held, seed)
    return found


def emptied(
    dense: nn.Module,
    seen: Samples,
    held: Samples,
    how: Setting,
    criterion: Any,
    draw: bool = False,
    repair: str | None = None,
) -> dict[str, Any]:
    """Remove all units of a copy; return error and accuracy after 0, 1, … removals.

    The result also has the layer that each removed unit belonged to. Units that a removal leaves
    without an input or without a reader are removed at the same step.

    Args:
        dense: the trained network; is not changed.
        seen: samples that units are ranked on.
        held: held-out samples, used for neither training nor ranking.
        how: the setting.
        criterion: evaluated again after every removal, unless it is a fixed ranking.
        draw: whether to measure the error surface of every tenth unit that is removed.
        repair: how the remaining units take over the work of a removed one; not at all if None.
    """
    model = copy.deepcopy(dense)
    groups = sentei.find_units(model, seen.inputs[:64])
    probe = sentei.Probe(model, seen, how.loss)
    propose = sentei.ranked(criterion, sentei.one_at_a_time(), repair=repair)
    total = sum(group.size for group in groups)
    rows: list[tuple[float, float, float]] = []
    layers: list[int] = []
    surfaces = []
    for step in sentei.prune(model, groups, probe, propose):
        removed_layers = [i for i, g in enumerate(groups) for _ in step.removed.get(g, ())]
        layers += removed_layers
        measured = step.measured
        numbers = (
            measured.loss * len(seen.targets),
            float(measured.accuracy or 0.0),
            float(evaluate(model, held, loss=how.loss).accuracy or 0.0),
        )
        rows += [numbers] * (len(removed_layers) if step.number else 1)
        if draw and len(layers) % EVERY == 0 and len(layers) < total and len(removed_layers) <= 1:
            progress = Progress(step.number + 1, None, total, total - len(layers), 0)
            cut = propose(probe, groups, step.mask, progress)
            ((group, units),) = cut.doomed.items() if cut else ((groups[0], torch.zeros(1)),)
            surfaces.append(_surface(probe, group, int(units[0]), len(layers), len(seen.targets)))
    error, accuracy, held_accuracy = (list(column) for column in zip(*rows, strict=True))
    found = {"error": error, "accuracy": accuracy, "held": held_accuracy, "layers": layers}
    return {**found, "surfaces": surfaces} if draw else found


def _surface(probe: Any, group: Any, unit: int, at: int, rows: int) -> dict[str, Any]:
    """Return a unit's exact error, tangent and parabola at each gain, summed over samples."""
    exact = sentei.surface(probe, group, unit, GAINS)
    tangent, parabola = approximations(probe, group, unit, GAINS)
    numbers = {"exact": exact, "tangent": tangent, "parabola": parabola}
    lists = {key: [round(v, 5) for v in (of * rows).tolist()] for key, of in numbers.items()}
    return {"removal": at, "group": group.name, "unit": unit, **lists}


def _controls(
    model: nn.Sequential, how: Setting, curve: Any, learn: Samples, held: Samples, seed: int
) -> list[dict[str, Any]]:
    """Measure controls at a half, a third and a sixth of the units.

    Each is compared with the pruned network: one of the same widths, trained from scratch, and one
    with a truncated first layer and as many parameters.
    """
    found = []
    for sixths in (3, 2, 1):
        count = how.units - sixths * how.units // 6
        layers = curve["layers"][:count]
        hidden = [width - layers.count(i) for i, width in enumerate(how.hidden)]
        if min(hidden) == 0:
            continue
        fresh, epochs = trained(how, hidden, learn, seed + 1000)
        cut = _truncated(model, sum(p.numel() for p in fresh.parameters()))
        row: dict[str, Any] = {
            "removed": count,
            "hidden": hidden,
            "epochs": epochs,
            "pruned": [curve["accuracy"][count], curve["held"][count]],
            "scratch": _accuracies(fresh, how, learn, held),
        }
        row["svd"] = None if cut is None else _accuracies(cut, how, learn, held)
        found.append(row)
    return found


def _accuracies(model: nn.Module, how: Setting, *data: Samples) -> list[float]:
    """Return the model's accuracy on each data set."""
    return [float(evaluate(model, part, loss=how.loss).accuracy or 0.0) for part in data]


def _truncated(model: nn.Sequential, budget: int) -> nn.Sequential | None:
    """Return a copy whose first layer keeps only its largest singular values.

    It keeps as many as fit `budget` parameters, with the layer stored as two factors. Return None
    if the other layers leave no room for a single one.
    """
    low = copy.deepcopy(model)
    first = low[0]
    assert isinstance(first, nn.Linear)
    others = sum(p.numel() for p in low.parameters()) - first.weight.numel()
    rank = (budget - others) // sum(first.weight.shape)
    if rank < 1:
        return None
    u, s, v = torch.linalg.svd(first.weight.detach(), full_matrices=False)
    kept: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    first.weight.data.copy_(kept)
    return low
