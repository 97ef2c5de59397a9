"""Feature selection with annealing (FSA): find the ten relevant of 1,000 variables during training.

The model is a logistic regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sentei.jobs.results import Job, Result
from sentei.network.units import find_synapses
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import fsa
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training.seeds import seeded

MUS = (0.0, 1.0, 10.0, 100.0, 300.0)
TRUE, VARIABLES, ROWS, UPDATES, LR = 10, 1_000, 500, 500, 0.015


def jobs(seeds: Sequence[int]) -> list[Job]:
    """Return one job for each seed and each mu."""
    return [
        Job(f"fsa-mu-{mu:g}-{seed}", selected, {"mu": mu, "seed": seed})
        for seed in seeds
        for mu in MUS
    ]


def gathered(results: Mapping[str, Result], seeds: Sequence[int]) -> dict[float, list[Result]]:
    """Return the results of `jobs`, grouped by mu."""
    return {mu: [results[f"fsa-mu-{mu:g}-{seed}"] for seed in seeds] for mu in MUS}


def selected(mu: float, seed: int) -> dict[str, Any]:
    """Train a logistic regression on 1,000 variables, ten of them relevant, and prune it to ten.

    Variables share a common part, x_j = z + noise, so that each of them is correlated with the
    target. The model starts at zero and is pruned after every update, as in algorithm 1
    of the paper.

    Returns:
        How many of the ten were found, the accuracy on new samples, and the area under the
        schedule.
    """
    with seeded(seed):
        train, test = _drawn(ROWS), _drawn(10 * ROWS)
    model = nn.Linear(VARIABLES, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, weight_decay=1e-4)
    (links,) = find_synapses(model)
    propose = ranked("magnitude", fsa(TRUE, mu))
    pruner = PruneWhileTraining(model, [links], propose, every=1, total=UPDATES).attach(optimizer)
    area = 0
    inputs, targets = train
    for _ in range(UPDATES):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(inputs), targets).backward()
        optimizer.step()
        area += pruner.mask.count(links)
    found = int(pruner.mask.alive(links)[:TRUE].sum())
    with torch.no_grad():
        accuracy = ((model(test[0]) > 0) == (test[1] > 0.5)).double().mean().item()
    return {"found": found, "accuracy": accuracy, "area": (area - TRUE * UPDATES) / VARIABLES}


def _drawn(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw inputs, (rows, 1000), and targets, (rows, 1), that depend on the first ten variables."""
    inputs = torch.randn(rows, 1) + torch.randn(rows, VARIABLES)
    logits = inputs[:, :TRUE].sum(1, keepdim=True)
    return inputs / 2**0.5, (torch.rand(rows, 1) < torch.sigmoid(logits)).float()
