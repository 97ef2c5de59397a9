"""Shared data, teacher network and training loop of the wsf experiments.

Also what criteria are computed from, and the structure that a mask leaves.
"""

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
from sentei.training.distilling import Distillation
from sentei.training.models import mlp
from sentei.training.recipe import Recipe
from sentei.training.train import evaluate, train

EVIDENCE = 4096  # samples that criteria and regrowth are computed from


@lru_cache(maxsize=2)
def data(name: str = "mnist", rows: int = 0) -> Split:
    """Return MNIST or Letter; with `rows`, only that many training samples."""
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
    """Train a larger network to distil from; once per process, with the same result every time."""
    network = mlp(widths, "relu", seed=1000)
    recipe = Recipe(epochs, "adam", 1e-3, batch_size=128, seed=1000, decay="cosine")
    train(network, data(rows=rows).train, recipe)
    return network


@lru_cache(maxsize=1)
def shifted(rows: int = 0) -> Samples:
    """Return MNIST's training images, and each again, shifted by one pixel."""
    inputs, targets = data(rows=rows).train
    images = inputs.view(-1, 28, 28)
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))
    moved = torch.stack([images[i::4].roll(move, (1, 2)) for i, move in enumerate(moves)], 1)
    moved_targets = torch.stack([targets[i::4] for i in range(4)], 1)
    return Samples(
        torch.cat([inputs, moved.view(-1, 784)]), torch.cat([targets, moved_targets.flatten()])
    )


@dataclass(frozen=True, eq=False)
class Contribution:
    """Criterion: |w| times the root mean square of the synapse's input.

    The score of Sun, Liu, Bair and Kolter (2024), A Simple and Effective Pruning Approach for Large
    Language Models. A pixel that is rarely lit contributes little, even with a large weight.

    Attributes:
        inputs: (N, pixels) samples that the root mean square is computed from.
    """

    inputs: Tensor

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """Return the scores of the group's synapses, (size,) float64."""
        assert isinstance(group, Synapses)
        assert isinstance(probe.model, nn.Sequential)
        layer_inputs = self.inputs if group.name == "fc1" else probe.model[:2](self.inputs)
        scale = layer_inputs.double().square().mean(0).sqrt()
        weight = probe.model.get_parameter(group.parameter).detach().double()
        return (weight.abs() * scale).flatten()


def flow(first: Tensor, second: Tensor, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return each synapse's share of the signal at the outputs, for both layers.

    Args:
        first: (..., hidden, pixels) weights of the first layer.
        second: (..., classes, hidden) weights of the second layer.
        inputs: (pixels,) standard deviation of each input.
        hidden: (..., hidden) standard deviation of each hidden unit's output.
    """
    out = second.abs() * hidden[..., None, :]
    into = first.abs() * inputs
    share = into / into.sum(-1, keepdim=True).clamp_min(1e-30)
    return share * out.sum(-2)[..., None], out


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
    """Train a network and prune or regrow its synapses once an epoch; return the final mask.

    Args:
        network: trained in place.
        samples: training samples.
        propose: function from the number of exchanges to the proposal that makes them.
        epochs: epochs of training.
        lr: learning rate of Adam at the start; it falls to zero along half a cosine.
        seed: of the order of samples.
        told: distillation from a teacher; none if None.
        layers: names of the layers whose synapses may be removed.
        mask: which synapses are alive at the start; all if None.
        batch: samples in an update.
        settle: part of the training, at its end, in which nothing is exchanged or removed.
    """
    updates_per_epoch = -(-samples.rows // batch)
    events = max(int(epochs * (1 - settle)), 1)
    chosen = set(layers)
    groups = [group for group in find_synapses(network) if group.name in chosen]
    probe = Probe(network, samples.first(EVIDENCE))
    pruner = PruneWhileTraining(
        network, groups, propose(events), every=updates_per_epoch, probe=probe
    )
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
    """Return distillation from a teacher of these widths, or None if `widths` is None."""
    if widths is None:
        return None
    return Distillation(teacher(widths, epochs, rows), heat, weight)


def accuracies(network: nn.Module, split: Split) -> dict[str, float]:
    """Return the accuracy on the training, validation and test samples."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {name: evaluate(network, part).accuracy or 0.0 for name, part in parts.items()}


def alive(mask: Mask) -> dict[str, Tensor]:
    """Return which synapses of each layer are alive, (out, in) bool."""
    return {
        group.name: mask.alive(group).view(group.shape)
        for group in mask.groups
        if isinstance(group, Synapses)
    }


def structure(mask: Mask) -> list[int]:
    """Return how many [inputs, hidden, outputs] are on a path from an input to an output."""
    first, second = alive(mask).values()
    while True:
        has_input, is_read = first.any(1), second.any(0)
        on_path = has_input & is_read
        if torch.equal(first, first & on_path[:, None]) and torch.equal(second, second & on_path):
            break
        first, second = first & on_path[:, None], second & on_path
    return [int(first.any(0).sum()), int(on_path.sum()), int(second.any(1).sum())]


def edges(network: nn.Module, mask: Mask) -> list[list[list[float]]]:
    """Return the alive synapses of both layers, each as [to, from, weight]."""
    listed = []
    for name, part in alive(mask).items():
        weight = network.get_parameter(f"{name}.weight")
        listed.append([[int(i), int(j), weight[i, j].item()] for i, j in part.nonzero()])
    return listed
