"""Networks of 1,259 synapses, one for each seed, trained side by side with a teacher."""

from __future__ import annotations

from sentei.jobs.results import Result
from sentei.papers.wsf.lessons import lessons
from sentei.papers.wsf.parts import accuracies, alive, data, structure
from sentei.papers.wsf.stack import Plan, Ricker, begun, networks, readable, trained

ACTIVATIONS = {"ricker": Ricker}  # beside those that have a name in `mlp`
COMPARED = ("ricker", "gelu", "tanh", "sigmoid")


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
    runs = []
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
