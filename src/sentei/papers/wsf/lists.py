"""Decision lists and decision trees over inputs that are lit or dark, learnt greedily.

Both are given as rules in an order: the first rule whose conditions hold decides. The leaves of a
tree are such rules, of which exactly one holds.

Sources: the information gain of a rule from Quinlan (1990), Learning Logical Definitions from
Relations; Gini's index from Breiman, Friedman, Olshen and Stone (1984), Classification and
Regression Trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Rule:
    """If all conditions hold, the class is `label`.

    Attributes:
        conditions: pairs (input, whether it has to be lit); none for a rule that always holds.
        label: class number.
    """

    conditions: tuple[tuple[int, bool], ...]
    label: int


def decision_list(lit: Tensor, labels: Tensor, length: int, terms: int = 3) -> list[Rule]:
    """Learn a decision list, one rule after the other.

    Each rule takes one condition after the other, up to `terms`, as long as the gain rises: the
    number of samples of its class that it decides, times log(p / q). Here p is the part of its
    class among the samples that it decides, and q that among all samples that are left. A last rule
    without conditions gives the commonest class of the rest.

    Args:
        lit: (N, inputs) bool.
        labels: (N,) class numbers.
        length: largest number of rules, the last one included.
        terms: largest number of conditions in a rule.
    """
    classes = F.one_hot(labels).float()
    seen, rules = lit.float(), []
    for _ in range(length - 1):
        if not seen.numel():
            break
        rule, decides = _best_rule(seen, classes, terms)
        if not rule.conditions:
            break
        rules.append(rule)
        seen, classes = seen[~decides], classes[~decides]
    return [*rules, Rule((), int(classes.sum(0).argmax()))]


def _best_rule(seen: Tensor, classes: Tensor, terms: int) -> tuple[Rule, Tensor]:
    """Return the next rule and which samples it decides, (N,) bool."""
    usual = classes.sum(0) / len(classes)
    inside, conditions, label, best = torch.ones(len(seen), dtype=torch.bool), (), 0, 0.0
    for _ in range(terms):
        total, bright = classes[inside].sum(0), seen[inside].T @ classes[inside]
        counts = torch.stack([total - bright, bright], 1)  # by input, whether it is lit, class
        share = counts / counts.sum(2, keepdim=True).clamp_min(1)
        gains = counts * (share / usual.clamp_min(1e-9)).clamp_min(1e-9).log()
        at = int(gains.argmax())
        if not gains.flatten()[at] > best * (1 + 1e-6):
            break
        best, label = float(gains.flatten()[at]), at % classes.shape[1]
        place, is_lit = divmod(at // classes.shape[1], 2)
        conditions = (*conditions, (place, bool(is_lit)))
        inside = inside & (seen[:, place] == is_lit)
    return Rule(conditions, label), inside


def tree(lit: Tensor, labels: Tensor, leaves: int) -> list[Rule]:
    """Learn a decision tree by splitting, each time, the leaf whose split purifies most.

    Args:
        lit: (N, inputs) bool.
        labels: (N,) class numbers.
        leaves: largest number of leaves.

    Returns:
        A rule for each leaf, with the conditions on the way to it.
    """
    seen, classes = lit.float(), F.one_hot(labels).float()

    def leaf(conditions: tuple[tuple[int, bool], ...], inside: Tensor):
        total, bright = classes[inside].sum(0), seen[inside].T @ classes[inside]
        if not len(bright):
            return 0.0, 0, conditions, inside
        gains = _purity(bright) + _purity(total - bright) - _purity(total)
        at = int(gains.argmax())
        return float(gains[at]), at, conditions, inside

    grown = [leaf((), torch.ones(len(lit), dtype=torch.bool))]
    while len(grown) < leaves:
        place = max(range(len(grown)), key=lambda n: grown[n][0])
        gain, at, conditions, inside = grown[place]
        if not gain > 1e-6 * len(lit):
            break
        sides = [
            leaf((*conditions, (at, bright)), inside & (lit[:, at] == bright))
            for bright in (True, False)
        ]
        grown[place : place + 1] = sides
    return [
        Rule(conditions, int(classes[inside].sum(0).argmax())) for *_, conditions, inside in grown
    ]


def predicted(rules: Sequence[Rule], lit: Tensor) -> Tensor:
    """Return the class that the rules give each sample, (N,), for (N, inputs) bool.

    Raises:
        ValueError: no rule holds for some sample.
    """
    found = torch.full((len(lit),), -1)
    for rule in reversed(rules):
        holds = torch.ones(len(lit), dtype=torch.bool)
        for at, bright in rule.conditions:
            holds &= lit[:, at] == bright
        found[holds] = rule.label
    if (found < 0).any():
        raise ValueError(
            "a sample that no rule decides: end the list with a rule that always holds"
        )
    return found


def _purity(counts: Tensor) -> Tensor:
    """Return the sum of squared counts of the classes over their sum, (...,) for (..., classes)."""
    return counts.square().sum(-1) / counts.sum(-1).clamp_min(1)
