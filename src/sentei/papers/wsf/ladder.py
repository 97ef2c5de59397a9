"""Experiments with fewer and fewer synapses: accuracy at each number, and rules for each digit.

Also `Flow`, the criterion that they prune by.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from sentei.jobs.results import Result
from sentei.network.units import Group
from sentei.papers.wsf.parts import (
    accuracies,
    data,
    flow,
    pruned_while_trained,
    structure,
)
from sentei.probe.probe import Probe
from sentei.pruning.rules.regrowth import regrowing
from sentei.pruning.rules.schedules import one_shot
from sentei.training.models import mlp

RUNGS = (
    *(6000, 4200, 3000, 2200, 1600, 1259, 900, 650, 470, 340, 250, 180, 130, 100, 76, 58, 46),
    *(38, 32, 27, 23, 19, 15),
)
SEEN = 1024  # samples that `Flow` is computed from


@dataclass(frozen=True, eq=False)
class Flow:
    """Criterion: the share of the signal at the outputs that passes through a synapse.

    A synapse of the second layer scores |w| * std(output of its hidden unit). The sum of these
    scores over a unit's outgoing synapses is divided among its incoming synapses, in proportion to
    their |w| * std(their input). So both layers have the same total, and a synapse that is on no
    path from an input to an output scores 0. The criterion is our own. Magnitude, pooled over both
    layers, disconnects one of the layers before few synapses are left.

    Attributes:
        inputs: (N, pixels) samples that the deviations are computed from.
    """

    inputs: Tensor

    @cached_property
    def spread(self) -> Tensor:
        """Standard deviation of each input over the samples, (pixels,) float64."""
        return self.inputs.double().std(0)

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """Return the scores of the group's synapses, (size,) float64."""
        assert isinstance(probe.model, nn.Sequential)
        network = probe.model
        first, second = (network.get_parameter(f"{n}.weight").double() for n in ("fc1", "fc2"))
        hidden = network[:2](self.inputs).double().std(0)
        layers = flow(first, second, self.spread, hidden)
        return layers[group.name == "fc2"].flatten()


def descended(seed: int, rungs: list[int], epochs: int, rows: int = 0) -> Result:
    """Train a [784,20,10] network with fewer and fewer synapses, with regrowth at each number.

    Args:
        seed: of weights and order of samples.
        rungs: numbers of synapses to keep, in decreasing order.
        epochs: epochs of training on each rung.
        rows: number of training samples; all if 0.

    Returns:
        For each rung the number of synapses, the structure and the accuracies.
    """
    split = data(rows=rows)
    network, mask = mlp("784-20-10", "gelu", seed=seed), None
    weak = Flow(split.train.inputs[:SEEN])
    found = []
    for keep in rungs:
        mask = pruned_while_trained(
            *(network, split.train),
            lambda events, keep=keep: regrowing(weak, one_shot(keep), events, 0.5),
            *(epochs, 0.01, seed),
            mask=mask,
        )
        row = {"synapses": sum(mask.count(g) for g in mask.groups), "structure": structure(mask)}
        found.append(row | accuracies(network, split))
    return {"rungs": found}


def rules(seed: int, keep: int, epochs: int, rows: int = 0, within: float = 0.05) -> Result:
    """Find, for each class, the fewest inputs of one small network that suffice to recognise it.

    Inputs are taken in the order of their feature energy for the class, |P[c, d]| * std(x_d). The
    path strength P = W2 W1 is the sum over alive paths of the product of their weights. All other
    inputs are held at their mean over the training data. The inputs suffice if the balanced
    accuracy of this class against the rest, on validation, is at most `within` below that with all
    inputs.

    Args:
        seed: of weights and order of samples.
        keep: number of synapses.
        epochs: epochs of training.
        rows: number of training samples; all if 0.
        within: largest loss of balanced accuracy, as a fraction.
    """
    split = data(rows=rows)
    network = mlp("784-20-10", "gelu", seed=seed)
    weak = Flow(split.train.inputs[:SEEN])
    mask = pruned_while_trained(
        *(network, split.train),
        lambda events: regrowing(weak, one_shot(keep), events, 0.5),
        *(epochs, 0.01, seed),
    )
    first, second = (network.get_parameter(f"{n}.weight").detach() for n in ("fc1", "fc2"))
    strength = second @ first
    energy = strength.abs() * split.train.inputs.std(0)
    found = []
    for label in range(len(split.classes)):
        order = energy[label].argsort(descending=True, stable=True)
        order = order[energy[label][order] > 0]
        whole = _balanced_accuracy(network, split, order, label)
        low, high = 1, len(order)
        # Bisect for the fewest inputs; this assumes that more inputs are never worse.
        while low < high:
            middle = (low + high) // 2
            good = _balanced_accuracy(network, split, order[:middle], label) >= whole - within
            low, high = (low, middle) if good else (middle + 1, high)
        chosen = order[:low]
        found.append(
            {
                "all": len(order),
                "inputs": chosen.tolist(),
                "strengths": strength[label][chosen].tolist(),
                "whole": whole,
                "alone": _balanced_accuracy(network, split, chosen, label),
            }
        )
    return {**accuracies(network, split), "structure": structure(mask), "classes": found,
            "energy": energy.sum(0).tolist()}  # fmt: skip


@torch.no_grad()
def _balanced_accuracy(network: nn.Module, split, kept: Tensor, label: int) -> float:
    """Return the balanced accuracy of one class; inputs not in `kept` are held at their mean."""
    inputs, targets = split.validation
    masked_inputs = split.train.inputs.mean(0).expand_as(inputs).clone()
    masked_inputs[:, kept] = inputs[:, kept]
    predicted = network(masked_inputs).argmax(1) == label
    actual = targets == label
    return float((predicted[actual].double().mean() + (~predicted)[~actual].double().mean()) / 2)
