"""Prune three networks and write their pages: digits, letters, and digits by convolution.

This takes some minutes on one core. A second run continues from the journals. Pages and journals go
to runs/pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import sentei
from sentei import datasets, training
from sentei.pruning.journal import note
from sentei.reporting.page.story import words_for

FOLDER = Path("runs/pages")


@dataclass(frozen=True)
class Example:
    """Settings of a run: data, network, training, and the accuracy that pruning may cost."""

    data: str
    network: str
    epochs: int
    samples: int
    floor: float


EXAMPLES = {
    "digits": Example("mnist", "784-300-100-10:relu", epochs=3, samples=2_000, floor=0.01),
    "letters": Example("letter", "16-60-26:relu", epochs=12, samples=4_000, floor=0.10),
    "convolution": Example("mnist", "cnn-distinctiveness", epochs=2, samples=1_000, floor=0.01),
}


def page(name: str, example: Example) -> Path:
    """Train a network, prune it unit by unit down to the floor, and write its page."""
    network = training.build(example.network, seed=0)
    flat = training.takes_flat(network)
    data = datasets.load(example.data, flat=flat)
    recipe = sentei.Recipe(epochs=example.epochs, optimizer="adam", lr=0.002)
    sentei.train(network, data.train, recipe)
    journal = FOLDER / name
    run = sentei.prune(
        network,
        sentei.find_units(network, data.train.inputs[:64]),
        sentei.Probe(network, data.train.first(example.samples)),
        sentei.ranked("ablation", sentei.one_at_a_time()),
        keeping=sentei.accuracy_within(example.floor),
        evaluate=data.validation,
        journal=journal,
        resume=(journal / "run.json").exists(),
    )
    note(journal, words_for(data, "python examples/pages.py", seed=0))
    for step in run:
        if step.number % 20 == 0:
            print(name, step.measured, flush=True)
    return sentei.report(journal, FOLDER / f"{name}.html")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in EXAMPLES.items():
        print(page(*each))
