"""How well a network of few synapses can do: attempts at 1,259, and fewer until little is left."""

from __future__ import annotations

from typing import Any

from sentei.papers.jobs import Result
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
BEST = 7  # which attempt was best on validation, by its place in the plan


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
    """[784,20,10] trained down to `keep` synapses: what it knows at the end.

    Args:
        seed: of weights and the order of samples.
        keep: synapses at the end.
        teacher: widths of the network it learns from; None for none.
        heat: temperature.
        weight: of the teacher.
        activation: of the hidden layer.
        epochs: passes through the data.
        lr: of Adam, at the start.
        batch: samples in an update.
        share: part exchanged at first.
        regrow: whether dead synapses come back.
        layers: whose synapses may go.
        moved: also learn from each image moved by a pixel.
        reach: part of the exchanges by which only `keep` are left.
        criterion: what is weak: "magnitude" or "contribution".
        rows: of the training data; all if 0.
    """
    split = data(rows=rows)
    told = taught(teacher, rows, 2 if rows else 15, heat, weight)
    network = mlp("784-20-10", activation, seed=seed)
    names = layers.split()
    within = keep - (200 if names == ["fc1"] else 0)

    weak = Contribution(split.train.inputs[:EVIDENCE]) if criterion == "contribution" else criterion

    def propose(events: int) -> Proposal:
        schedule = cubic(within, max(int(reach * events), 1))
        if not regrow:
            return ranked(weak, schedule)
        return regrowing(weak, schedule, events, share)

    samples = shifted(rows) if moved else split.train
    mask = pruned_while_trained(
        network, samples, propose, epochs, lr, seed, told=told, layers=names, batch=batch
    )
    return {
        **accuracies(network, split),
        "synapses": sum(mask.count(group) for group in mask.groups),
        "structure": structure(mask),
        "layers": {name: int(part.sum()) for name, part in alive(mask).items()},
    }


def plan(quick: bool) -> dict[str, dict[str, Any]]:
    """The budget of attempts: a name for each, and how it differs from the first."""
    rows: dict[str, Any] = {"rows": 4000, "epochs": 12} if quick else {}
    early = {"layers": "fc1", "reach": 0.1, "share": 0.6, "heat": 1.0}
    heard = {**early, "criterion": "contribution"}
    table: dict[str, dict[str, Any]] = {
        "magnitude, both layers, regrowth of 0.3, temperature 4": {},
        "the same without regrowth": {"regrow": False},
        "second layer whole, few from the start, regrowth of 0.6, temperature 1": early,
        "… and contribution instead of magnitude": heard,
        "… and no teacher": {**heard, "teacher": None},
        "… and temperature 2": {**heard, "heat": 2.0},
        "… and learning rate 0.02": {**heard, "lr": 0.02},
        "… and images moved by a pixel, 150 epochs": {**heard, "moved": True, "epochs": 150},
    }
    if quick:
        table = dict(list(table.items())[:2])
    return {name: {**settings, **rows} for name, settings in table.items()}
