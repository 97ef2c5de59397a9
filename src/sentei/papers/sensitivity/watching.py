"""Watch units without removing any: which ones the rule flags, and their exact ablation scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sentei.criteria import scores
from sentei.criteria.agreement import spearman
from sentei.criteria.change import WeightChange
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.papers.sensitivity.checks import Check
from sentei.papers.sensitivity.runs import course, data_of
from sentei.probe.probe import Probe
from sentei.pruning.rules.schedules import Progress
from sentei.training import Recipe

RULE = ("mean_signed", "update")
KINDS = (RULE, ("mean_signed", "check"), ("mean_abs", "check"), ("l2", "check"), ("angle", "check"),
         ("angle", "update"))  # fmt: skip
COUNTED = ("units", "flagged", "relative", "silent", "silent flagged", "dear", "learning again",
           "woken")  # fmt: skip
SILENT = 1e-4  # a unit is silent if the variance of its output is below this
THRESHOLD, TENTH = 0.001, 0.1


def watched(
    widths: str, seed: int, epochs: int, every: int, decay: str | None = None
) -> dict[str, Any]:
    """Train without removing anything, and count flagged and silent units at every check.

    Args:
        widths: argument of `training.build`, such as "16-64-26:sigmoid".
        seed: of weights, order of samples, and the split.
        epochs: epochs of RMSprop with a learning rate of 0.01 and batches of 256.
        every: epochs from one check to the next, until the end of training.
        decay: of the recipe.

    Returns:
        For each check the counts, over all layers, and the rank correlation of every kind of change
        with exact ablation. The counts are: all units ("units"); units flagged by the threshold of
        0.001 ("flagged") and by a tenth of the layer's median ("relative"); silent units; units
        both silent and flagged; flagged units in the half with the higher ablation scores ("dear");
        units flagged at the check before but not at this one ("learning again"), and units silent
        then but not now ("woken").
    """
    data = data_of("default", seed)
    watch = Watch()
    recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=256, seed=seed, decay=decay)
    result = course(widths, data, recipe, Check(every, finish=1.0, way="mask"), watch)
    return {"checks": watch.told, "accuracy": result["accuracy"]}


@dataclass
class Watch:
    """A proposal that removes nothing and records counts at every check.

    Attributes:
        told: the record of each check.
        before: the flagged and the silent units of the last check, by group.
    """

    told: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> None:
        """Count units over all layers, and correlate weight change with exact ablation."""
        del mask, progress
        seen: dict[str, int] = dict.fromkeys(COUNTED, 0)
        ranks: dict[str, list[float]] = {" ".join(kind): [] for kind in KINDS}
        for group in groups:
            exact = scores("ablation", probe, group)
            for kind in KINDS:
                moved = scores(WeightChange(*kind), probe, group)
                ranks[" ".join(kind)].append(spearman(moved, exact))
            moved = scores(WeightChange(*RULE), probe, group)
            flagged = moved < THRESHOLD
            silent = scores("variance", probe, group) < SILENT
            no_units = torch.zeros_like(silent)
            flagged_before, silent_before = self.before.get(group.name, (no_units, no_units))
            for name, units in (
                ("units", ~no_units),
                ("flagged", flagged),
                ("relative", moved < TENTH * moved.median()),
                ("silent", silent),
                ("silent flagged", silent & flagged),
                ("dear", flagged & (exact > exact.median())),
                ("learning again", flagged_before & ~flagged),
                ("woken", silent_before & ~silent),
            ):
                seen[name] += int(units.sum())
            self.before[group.name] = flagged, silent
        self.told.append({**seen, "spearman": {k: sum(v) / len(v) for k, v in ranks.items()}})
