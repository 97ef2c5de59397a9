"""Units removed one after another until none is left, by each criterion and both algorithms."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import sentei
from sentei.criteria import approximations, scores
from sentei.criteria.agreement import spearman
from sentei.datasets import Samples
from sentei.network.units import Group
from sentei.papers.jobs import Result
from sentei.papers.shrinking.networks import Setting, samples, setting, trained
from sentei.pruning.rules.schedules import Progress
from sentei.training import evaluate

SURFACED = ("ablation", "taylor1", "taylor2-diagonal")  # the paper's three
GAINS = torch.linspace(0, 10, 101).double()
EVERY = 10  # a surface for every so many removals


def removed(
    name: str, seed: int, again: list[str], once: list[str], controls: bool, quick: bool
) -> Result:
    """Train a network of a setting, remove its units in every way asked for, and its controls.

    Args:
        name: of the setting.
        seed: of data, weights and order of samples.
        again: criteria for the iterative algorithm, which ranks anew after every removal.
        once: criteria for a single overall ranking.
        controls: whether to train the same sizes from scratch and to truncate singular values.
        quick: smaller.
    """
    how = setting(name, quick)
    learn, held = samples(how.data, seed)
    model, epochs = trained(how, how.hidden, learn, seed)
    seen = learn.first(how.ranked)
    groups = sentei.find_units(model, learn.inputs[:64])
    probe = sentei.Probe(model, seen, how.loss)
    judged: dict[str, dict[Group, Tensor]] = {
        each: {g: scores(each, probe, g) for g in groups} for each in {*again, *once}
    }
    truth = {g: sentei.criteria.ablation(probe, g) for g in groups}
    agreement = {
        each: [spearman(of[g], truth[g]) for g in groups] for each, of in sorted(judged.items())
    }
    draws = seed == 0 and "taylor2-diagonal" in once
    runs = {f"iterative {each}": each for each in again}
    runs |= {f"single {each}": sentei.fixed(judged[each]) for each in once}
    curves: dict[str, Any] = {}
    for label, criterion in runs.items():
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
) -> dict[str, Any]:
    """Accuracy and summed error after 0, 1, … removals, and which layer each unit was of.

    Units that a removal leaves deaf or unheard go with it, at the same step.

    Args:
        dense: the trained network; stays as it is.
        seen: what is ranked on.
        held: what neither training nor ranking sees.
        how: the setting.
        criterion: asked anew after every removal; or a ranking that is fixed.
        draw: whether to measure the error surface of every tenth unit that goes.
    """
    model = copy.deepcopy(dense)
    groups = sentei.find_units(model, seen.inputs[:64])
    probe = sentei.Probe(model, seen, how.loss)
    propose = sentei.ranked(criterion, sentei.one_at_a_time())
    total = sum(group.size for group in groups)
    rows: list[tuple[float, float, float]] = []
    layers: list[int] = []
    surfaces = []
    for step in sentei.prune(model, groups, probe, propose):
        gone = [i for i, g in enumerate(groups) for _ in step.removed.get(g, ())]
        layers += gone
        measured = step.measured
        numbers = (
            measured.loss * len(seen.targets),
            float(measured.accuracy or 0.0),
            float(evaluate(model, held, loss=how.loss).accuracy or 0.0),
        )
        rows += [numbers] * (len(gone) if step.number else 1)
        if draw and len(layers) % EVERY == 0 and len(layers) < total and len(gone) <= 1:
            progress = Progress(step.number + 1, None, total, total - len(layers), 0)
            cut = propose(probe, groups, step.mask, progress)
            ((group, units),) = cut.doomed.items() if cut else ((groups[0], torch.zeros(1)),)
            surfaces.append(_surface(probe, group, int(units[0]), len(layers), len(seen.targets)))
    error, accuracy, kept = (list(column) for column in zip(*rows, strict=True))
    found = {"error": error, "accuracy": accuracy, "held": kept, "layers": layers}
    return {**found, "surfaces": surfaces} if draw else found


def _surface(probe: Any, group: Any, unit: int, at: int, rows: int) -> dict[str, Any]:
    exact = sentei.surface(probe, group, unit, GAINS)
    tangent, parabola = approximations(probe, group, unit, GAINS)
    numbers = {"exact": exact, "tangent": tangent, "parabola": parabola}
    lists = {key: [round(v, 5) for v in (of * rows).tolist()] for key, of in numbers.items()}
    return {"removal": at, "group": group.name, "unit": unit, **lists}


def _controls(
    model: nn.Sequential, how: Setting, curve: Any, learn: Samples, held: Samples, seed: int
) -> list[dict[str, Any]]:
    """At some sizes: the same trained from scratch, and singular values at as many parameters."""
    found = []
    for part in (3, 2, 1):
        gone = how.units - part * how.units // 6
        layers = curve["layers"][:gone]
        hidden = [width - layers.count(i) for i, width in enumerate(how.hidden)]
        if min(hidden) == 0:
            continue
        fresh, epochs = trained(how, hidden, learn, seed + 1000)
        cut = _truncated(model, sum(p.numel() for p in fresh.parameters()))
        row: dict[str, Any] = {
            "removed": gone,
            "hidden": hidden,
            "epochs": epochs,
            "pruned": [curve["accuracy"][gone], curve["held"][gone]],
            "scratch": _accuracies(fresh, how, learn, held),
        }
        row["svd"] = None if cut is None else _accuracies(cut, how, learn, held)
        found.append(row)
    return found


def _accuracies(model: nn.Module, how: Setting, *data: Samples) -> list[float]:
    return [float(evaluate(model, part, loss=how.loss).accuracy or 0.0) for part in data]


def _truncated(model: nn.Sequential, budget: int) -> nn.Sequential | None:
    """The network with its first layer's smallest singular values gone, so as to hold `budget`.

    None if not even one singular value fits beside the other layers.
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
