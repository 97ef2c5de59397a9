"""Attempts to reach the paper's 97 % with 1,259 synapses: one training with a plan of settings."""

from __future__ import annotations

from typing import Any

from sentei.jobs.results import Result
from sentei.papers.wsf.parts import (
    EVIDENCE,
    Contribution,
    accuracies,
    alive,
    data,
    pruned_while_trained,
    shifted,
    structure,
    taught,
)
from sentei.pruning.rules.proposals import Proposal, ranked
from sentei.pruning.rules.regrowth import regrowing
from sentei.pruning.rules.schedules import cubic
from sentei.training.models import mlp

ACTIVATION = "gelu"


def attempt(
    seed: int,
    keep: int = 1259,
    *,
    teacher: str | None = "784-512-10",
    heat: float = 4.0,
    weight: float = 0.9,
    activation: str = ACTIVATION,
    epochs: int = 300,
    lr: float = 0.01,
    batch: int = 512,
    share: float = 0.3,
    regrow: bool = True,
    layers: str = "fc1 fc2",
    moved: bool = False,
    reach: float = 0.5,
    criterion: str = "magnitude",
    rows: int = 0,
) -> Result:
    """Train a [784,20,10] network and prune it to `keep` synapses; return its final accuracies.

    Args:
        seed: of weights and order of samples.
        keep: number of synapses at the end.
        teacher: widths of the network to distil from; None for no teacher.
        heat: temperature of the distillation.
        weight: weight of the teacher in the loss.
        activation: activation of the hidden layer.
        epochs: epochs of training.
        lr: learning rate of Adam at the start.
        batch: samples in an update.
        share: part of the synapses that is exchanged at first.
        regrow: whether dead synapses may come back.
        layers: names of the layers whose synapses may be removed.
        moved: whether to train also on each image shifted by one pixel.
        reach: part of the exchanges after which only `keep` synapses are left.
        criterion: what ranks synapses: "magnitude" or "contribution".
        rows: number of training samples; all if 0.
    """
    split = data(rows=rows)
    distillation = taught(teacher, rows, 2 if rows else 15, heat, weight)
    network = mlp("784-20-10", activation, seed=seed)
    names = layers.split()
    keep_in_layers = keep - (200 if names == ["fc1"] else 0)

    chosen_criterion = (
        Contribution(split.train.inputs[:EVIDENCE]) if criterion == "contribution" else criterion
    )

    def propose(events: int) -> Proposal:
        schedule = cubic(keep_in_layers, max(int(reach * events), 1))
        if not regrow:
            return ranked(chosen_criterion, schedule)
        return regrowing(chosen_criterion, schedule, events, share)

    samples = shifted(rows) if moved else split.train
    mask = pruned_while_trained(
        network, samples, propose, epochs, lr, seed, told=distillation, layers=names, batch=batch
    )
    return {
        **accuracies(network, split),
        "synapses": sum(mask.count(group) for group in mask.groups),
        "structure": structure(mask),
        "layers": {name: int(part.sum()) for name, part in alive(mask).items()},
    }


def plan(quick: bool) -> dict[str, dict[str, Any]]:
    """Return the planned attempts: a name and the settings that differ from the default."""
    rows: dict[str, Any] = {"rows": 4000, "epochs": 12} if quick else {}
    early_pruning = {"layers": "fc1", "reach": 0.1, "share": 0.6, "heat": 1.0}
    contribution = {**early_pruning, "criterion": "contribution"}
    table: dict[str, dict[str, Any]] = {
        "magnitude, both layers, regrowth of 0.3, temperature 4": {},
        "the same without regrowth": {"regrow": False},
        "second layer whole, few from the start, regrowth of 0.6, temperature 1": early_pruning,
        "… and contribution instead of magnitude": contribution,
        "… and no teacher": {**contribution, "teacher": None},
        "… and temperature 2": {**contribution, "heat": 2.0},
        "… and learning rate 0.02": {**contribution, "lr": 0.02},
        "… and images moved by a pixel, 150 epochs": {**contribution, "moved": True, "epochs": 150},
    }
    if quick:
        table = dict(list(table.items())[:2])
    return {name: {**settings, **rows} for name, settings in table.items()}
