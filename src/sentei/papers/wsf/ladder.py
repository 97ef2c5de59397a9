"""Fewer and fewer synapses, one network all the way down: what the last ones know, and rules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.papers.jobs import Result
from sentei.papers.wsf.parts import (
    accuracies,
    alive,
    data,
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
SEEN = 1024  # samples that tell how much runs over a synapse
DRAWN = 100  # networks of so few synapses are kept whole, to be drawn


@dataclass(frozen=True, eq=False)
class Flow:
    """The part of what reaches the outputs that runs over a synapse: two layers on one scale.

    What arrives at the outputs from a hidden unit, the sum of |w| * std(its output), is shared out
    among the synapses that feed the unit by their own |w| * std(their input), so that both layers
    carry the same whole. A synapse on no path from an input to an output carries nothing. Our own;
    a pooled magnitude cuts one of the layers through before few synapses are left.

    Attributes:
        inputs: (N, pixels) what the network reads.
    """

    inputs: Tensor

    @cached_property
    def spread(self) -> Tensor:
        """(pixels,) standard deviation of what the network reads."""
        return self.inputs.double().std(0)

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """(size,) float64."""
        assert isinstance(probe.model, nn.Sequential)
        network = probe.model
        first, second = (network.get_parameter(f"{n}.weight").double() for n in ("fc1", "fc2"))
        hidden = network[:2](self.inputs).double().std(0)
        out = second.abs() * hidden
        if group.name == "fc2":
            return out.flatten()
        into = first.abs() * self.spread
        share = into / into.sum(1, keepdim=True).clamp_min(1e-30)
        return (share * out.sum(0)[:, None]).flatten()


def descended(seed: int, rungs: list[int], epochs: int, rows: int = 0) -> Result:
    """[784,20,10] trained at ever fewer synapses, each time with regrowth; accuracy at every rung.

    Args:
        seed: of weights and order.
        rungs: how many synapses to keep, falling.
        epochs: on each rung.
        rows: of the training data; all if 0.
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
        row |= accuracies(network, split)
        if keep <= DRAWN:
            row["edges"] = edges(network, mask)
        found.append(row)
    return {"rungs": found}


def edges(network: nn.Module, mask: Mask) -> list[list[list[float]]]:
    """Of both layers the alive synapses as [to, from, weight]."""
    listed = []
    for name, part in alive(mask).items():
        weight = network.get_parameter(f"{name}.weight")
        listed.append([[int(i), int(j), weight[i, j].item()] for i, j in part.nonzero()])
    return listed


def rules(seed: int, keep: int, epochs: int, rows: int = 0, within: float = 0.05) -> Result:
    """For each class the fewest inputs that still recognise it, of one small network.

    Inputs are ordered by their feature energy for the class, |P[c, d]| * std(x_d), where the path
    strength P = W2 W1 adds up signed paths over alive synapses; all others are held at their mean
    over the training data. A set recognises a class if balanced accuracy of "is it this one?", on
    validation, is within `within` of what all inputs give.

    Args:
        seed: of weights and order.
        keep: synapses.
        epochs: of training.
        rows: of the training data; all if 0.
        within: of balanced accuracy, as a fraction.
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
        whole = _recognises(network, split, order, label)
        low, high = 1, len(order)
        while low < high:  # the smallest that is good enough, taking more inputs to be no worse
            middle = (low + high) // 2
            good = _recognises(network, split, order[:middle], label) >= whole - within
            low, high = (low, middle) if good else (middle + 1, high)
        chosen = order[:low]
        found.append(
            {
                "all": len(order),
                "inputs": chosen.tolist(),
                "strengths": strength[label][chosen].tolist(),
                "whole": whole,
                "alone": _recognises(network, split, chosen, label),
            }
        )
    return {**accuracies(network, split), "structure": structure(mask), "classes": found,
            "energy": energy.sum(0).tolist()}  # fmt: skip


@torch.no_grad()
def _recognises(network: nn.Module, split, kept: Tensor, label: int) -> float:
    inputs, targets = split.validation
    held = split.train.inputs.mean(0).expand_as(inputs).clone()
    held[:, kept] = inputs[:, kept]
    said = network(held).argmax(1) == label
    real = targets == label
    return float((said[real].double().mean() + (~said)[~real].double().mean()) / 2)
