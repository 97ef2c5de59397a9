"""Networks of very few synapses: the best of several, and rules in place of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sentei.datasets import Samples, Split
from sentei.jobs.results import Result
from sentei.network.mask import Mask
from sentei.papers.wsf.lessons import lessons
from sentei.papers.wsf.lists import decision_list, predicted, tree
from sentei.papers.wsf.parts import accuracies, alive, data, edges, structure
from sentei.papers.wsf.stack import Plan, begun, networks, readable, trained
from sentei.training.train import evaluate

RUNGS = (200, 110, 60, 46, 38, 34, 32, 30, 28, 26, 24, 22, 20)
LENGTH = 16  # rules in a decision list, leaves of a decision tree
WIDTH = 8  # hidden units at the start; few synapses leave three to six of them
SHARE = 0.5  # part of the synapses that is exchanged at first on each rung


def few(
    seed: int,
    rungs: list[int],
    epochs: int,
    restarts: int,
    activation: str = "gelu",
    length: int = LENGTH,
    rows: int = 0,
) -> Result:
    """Train several networks to fewer and fewer synapses; return the best one for each number.

    Synapses of both layers are ranked by `flow`. Each network goes through all numbers; which one
    is the best at a number is decided on validation. There is no teacher and no distorted image.

    Args:
        seed: of the order of images; `seed * 1000` and on are those of the initial weights.
        rungs: numbers of synapses to keep, in decreasing order.
        epochs: epochs of training on each rung.
        restarts: number of networks.
        activation: activation of the hidden layer.
        length: number of rules in a decision list that is learnt from the best network's answers.
        rows: number of training samples; all if 0.
    """
    split = data(rows=rows)
    material = lessons(0, 0, rows)
    seeds = range(seed * 1000, seed * 1000 + restarts)
    stack = begun(seeds, WIDTH, readable(material), activation)
    found = []
    for place, keep in enumerate(rungs):
        plan = Plan(keep, epochs, SHARE, whole=False, weight=0.0)
        stack = trained(stack, material, plan, seed * 1000 + place)
        made = list(networks(stack))
        tried = [evaluate(network, split.validation).accuracy or 0.0 for network, _ in made]
        network, mask = made[tried.index(max(tried))]
        found.append(
            {
                **accuracies(network, split),
                "synapses": sum(mask.count(group) for group in mask.groups),
                "structure": structure(mask),
                "tried": tried,
                "edges": edges(network, mask),
                "rules": _in_rules(network, mask, split, length),
            }
        )
    return {"rungs": found}


@torch.no_grad()
def _in_rules(network: nn.Module, mask: Mask, split: Split, length: int) -> dict[str, Any]:
    """Learn a decision list from a network's answers; compare it with others on the same inputs.

    Returns:
        The conditions ("list") and classes ("labels") of its rules, the part of test images on
        which it agrees with the network ("fidelity"), its test accuracy ("of_network"), and those
        of a list and a tree from labels, as in `without`.
    """
    first, _ = alive(mask).values()
    inputs = first.any(0).nonzero().flatten()
    answers, test_answers = (network(part.inputs).argmax(1) for part in (split.train, split.test))
    copied = decision_list(_lit(split.train, inputs), answers, length)
    given = predicted(copied, _lit(split.test, inputs))
    return {
        "list": [[[int(inputs[at]), lit] for at, lit in rule.conditions] for rule in copied],
        "labels": [rule.label for rule in copied],
        "fidelity": _equal(given, test_answers),
        "of_network": _equal(given, split.test.targets),
        **_learnt(split, inputs, length),
    }


def without(length: int = LENGTH, rows: int = 0) -> Result:
    """Learn a decision list and a tree of `length` rules from labels, over all inputs.

    Returns:
        Test accuracy of the list ("of_labels") and of the tree ("tree").
    """
    split = data(rows=rows)
    return _learnt(split, split.train.inputs.any(0).nonzero().flatten(), length)


def _learnt(split: Split, inputs: Tensor, length: int) -> dict[str, float]:
    """Return the test accuracy of a list and of a tree that are learnt from labels."""
    found = {}
    for name, learn in (("of_labels", decision_list), ("tree", tree)):
        rules = learn(_lit(split.train, inputs), split.train.targets, length)
        found[name] = _equal(predicted(rules, _lit(split.test, inputs)), split.test.targets)
    return found


def _lit(samples: Samples, inputs: Tensor) -> Tensor:
    """Return which of the inputs are brighter than one half, (N, inputs) bool."""
    return samples.inputs[:, inputs] > 0.5


def _equal(one: Tensor, other: Tensor) -> float:
    return (one == other).double().mean().item()
