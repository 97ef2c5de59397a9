"""Experiments on networks that are trained side by side: 1,259 synapses, and very few of them."""

from __future__ import annotations

from typing import Any

from sentei.jobs.results import Result
from sentei.papers.wsf.lessons import Lessons, lessons
from sentei.papers.wsf.parts import accuracies, alive, data, structure
from sentei.papers.wsf.stack import Plan, Ricker, begun, networks, trained

ACTIVATIONS = {"ricker": Ricker}
LIT = 0.01  # a pixel that fewer of the images light is not read


def sought(
    seeds: list[int],
    keep: int,
    epochs: int,
    activation: str = "ricker",
    lr: float = 0.01,
    share: float = 0.3,
    copies: int = 6,
    taught: int = 6,
    rows: int = 0,
) -> Result:
    """Train one [784,20,10] network for each seed to `keep` synapses; return their accuracies.

    The networks differ in their initial weights, and therefore in what they exchange; the order of
    images, the distorted copies and the teacher are the same for all.

    Args:
        seeds: of the initial weights.
        keep: number of synapses at the end, of which 200 are the whole second layer.
        epochs: epochs of training.
        activation: activation of the hidden layer.
        lr: learning rate of Adam at the start.
        share: part of the synapses that is exchanged at first.
        copies: distorted copies of every training image.
        taught: epochs of the teacher.
        rows: number of training samples; all if 0.
    """
    split = data(rows=rows)
    material = lessons(copies, taught, rows)
    pixels = readable(material)
    stack = begun(seeds, 20, pixels, ACTIVATIONS.get(activation, activation))
    stack = trained(stack, material, Plan(keep, epochs, share, lr=lr), seeds[0])
    runs: list[dict[str, Any]] = []
    for seed, (network, mask) in zip(seeds, networks(stack), strict=True):
        runs.append(
            {
                "seed": seed,
                **accuracies(network, split),
                "synapses": sum(mask.count(group) for group in mask.groups),
                "structure": structure(mask),
                "layers": {name: int(part.sum()) for name, part in alive(mask).items()},
            }
        )
    return {"runs": runs}


def readable(material: Lessons):
    """Return the positions of the pixels that at least one in a hundred original images lights."""
    lit = (material.images[: material.originals] > 0).float().mean(0)
    return (lit >= LIT).nonzero().flatten()
