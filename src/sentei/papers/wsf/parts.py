"""What the experiments have in common: data, the teacher, and training that prunes and regrows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from sentei.datasets import Samples, Split, letter, mnist
from sentei.network.mask import Mask
from sentei.network.units import Group, Synapses, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Proposal
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training.models import mlp
from sentei.training.recipe import Distillation, Recipe
from sentei.training.train import evaluate, train

EVIDENCE = 4096  # samples that regrowth looks at


@lru_cache(maxsize=2)
def data(name: str = "mnist", rows: int = 0) -> Split:
    """MNIST or Letter; with `rows`, only that many to train on."""
    split = mnist() if name == "mnist" else letter()
    if rows:
        split = Split(
            split.name,
            split.train.first(rows),
            split.validation.first(max(rows // 4, 1)),
            split.test.first(max(rows // 4, 1)),
            split.features,
            split.classes,
            split.scaling,
        )
    return split


@lru_cache(maxsize=1)
def teacher(widths: str, epochs: int, rows: int = 0) -> nn.Module:
    """A larger network to learn from; trained once in each process, the same every time."""
    network = mlp(widths, "relu", seed=1000)
    recipe = Recipe(epochs, "adam", 1e-3, batch_size=128, seed=1000, decay="cosine")
    train(network, data(rows=rows).train, recipe)
    return network


@lru_cache(maxsize=1)
def shifted(rows: int = 0) -> Samples:
    """MNIST's training images, and each moved one pixel up, down, left or right in turn."""
    inputs, targets = data(rows=rows).train
    images = inputs.view(-1, 28, 28)
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))
    moved = torch.stack([images[i::4].roll(move, (1, 2)) for i, move in enumerate(moves)], 1)
    again = torch.stack([targets[i::4] for i in range(4)], 1)
    return Samples(torch.cat([inputs, moved.view(-1, 784)]), torch.cat([targets, again.flatten()]))


@dataclass(frozen=True, eq=False)
class Contribution:
    """Size of what a synapse passes on: |w| times the root mean square of what it reads.

    The score of Sun, Liu, Bair and Kolter (2024), A Simple and Effective Pruning Approach for Large
    Language Models. A pixel that is rarely lit needs a large weight to say little.

    Attributes:
        inputs: (N, pixels) what the network reads.
    """

    inputs: Tensor

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """(size,) float64."""
        assert isinstance(group, Synapses)
        assert isinstance(probe.model, nn.Sequential)
        read = self.inputs if group.name == "fc1" else probe.model[:2](self.inputs)
        scale = read.double().square().mean(0).sqrt()
        weight = probe.model.get_parameter(group.parameter).detach().double()
        return (weight.abs() * scale).flatten()


def pruned_while_trained(
    network: nn.Module,
    samples: Samples,
    propose: Callable[[int], Proposal],
    epochs: int,
    lr: float,
    seed: int,
    *,
    told: Distillation | None = None,
    layers: Iterable[str] = ("fc1", "fc2"),
    mask: Mask | None = None,
    batch: int = 512,
    settle: float = 0.25,
) -> Mask:
    """Train a network, once an epoch exchanging or removing synapses; the mask that it ends with.

    Args:
        network: trained in place.
        samples: to learn from.
        propose: from the number of exchanges to the proposal that makes them.
        epochs: how long.
        lr: of Adam at the start; it falls to zero along half a cosine.
        seed: of the order of samples.
        told: a teacher.
        layers: whose synapses may go.
        mask: what is alive at the start.
        batch: samples in an update.
        settle: part of the training, at its end, in which nothing is exchanged.
    """
    each = -(-samples.rows // batch)
    events = max(int(epochs * (1 - settle)), 1)
    chosen = set(layers)
    groups = [group for group in find_synapses(network) if group.name in chosen]
    probe = Probe(network, samples.first(EVIDENCE))
    pruner = PruneWhileTraining(network, groups, propose(events), every=each, probe=probe)
    if mask is not None:
        dead = {group: mask.dead(group) for group in groups}
        pruner.mask = pruner.mask.without(dead)
        pruner.mask.apply_(network)

    def attached(parameters: Iterable[nn.Parameter]) -> Optimizer:
        optimizer = Adam(parameters, lr=lr, fused=True)
        pruner.attach(optimizer)
        return optimizer

    recipe = Recipe(
        *(epochs, attached), batch_size=batch, seed=seed, distillation=told, decay="cosine"
    )
    train(network, samples, recipe)
    pruner.detach()
    return Mask.full(find_synapses(network)).without(
        {group: pruner.mask.dead(group) for group in groups}
    )


def taught(widths: str | None, rows: int, epochs: int, heat: float, weight: float):
    """Distillation from a teacher of these widths, or none."""
    if widths is None:
        return None
    return Distillation(teacher(widths, epochs, rows), heat, weight)


def accuracies(network: nn.Module, split: Split) -> dict[str, float]:
    """Part classified correctly of train, validation and test."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {name: evaluate(network, part).accuracy or 0.0 for name, part in parts.items()}


def alive(mask: Mask) -> dict[str, Tensor]:
    """The alive synapses of each layer, (out, in) bool."""
    return {
        group.name: mask.alive(group).view(group.shape)
        for group in mask.groups
        if isinstance(group, Synapses)
    }


def structure(mask: Mask) -> list[int]:
    """What is left of [inputs, hidden, outputs] on a path from an input to an output."""
    first, second = alive(mask).values()
    while True:
        heard, read = first.any(1), second.any(0)
        live = heard & read
        if torch.equal(first, first & live[:, None]) and torch.equal(second, second & live):
            break
        first, second = first & live[:, None], second & live
    return [int(first.any(0).sum()), int(live.sum()), int(second.any(1).sum())]
