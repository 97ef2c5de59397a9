"""Which units the rule would flag in a training that is left alone, and what they were worth."""

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
SILENT = 1e-4  # variance of an output that says next to nothing
THRESHOLD, TENTH = 0.001, 0.1


def watched(
    widths: str, seed: int, epochs: int, every: int, decay: str | None = None
) -> dict[str, Any]:
    """Train without removing anything, and look at every unit at every check.

    Args:
        widths: of `training.build`.
        seed: of weights, order and the split.
        epochs: of RMSprop at 0.01 in batches of 256.
        every: epochs from one check to the next, to the end.
        decay: of the recipe.

    Returns:
        For each check: units that are flagged by the threshold of 0.001 and by a tenth of the
        layer's median, those that are silent, those flagged that are in the half that matters more
        by exact ablation, those flagged at the check before and not at this one, likewise silent;
        and the rank correlation of every kind of change with exact ablation.
    """
    data = data_of("default", seed)
    watch = Watch()
    recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=256, seed=seed, decay=decay)
    told = course(widths, data, recipe, Check(every, finish=1.0, way="mask"), watch)
    return {"checks": watch.told, "accuracy": told["accuracy"]}


@dataclass
class Watch:
    """A proposal that proposes nothing and keeps what it saw."""

    told: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> None:
        """Count, over all layers."""
        del mask, progress
        seen: dict[str, int] = dict.fromkeys(COUNTED, 0)
        ranks: dict[str, list[float]] = {" ".join(kind): [] for kind in KINDS}
        for group in groups:
            worth = scores("ablation", probe, group)
            for kind in KINDS:
                moved = scores(WeightChange(*kind), probe, group)
                ranks[" ".join(kind)].append(spearman(moved, worth))
            moved = scores(WeightChange(*RULE), probe, group)
            flagged = moved < THRESHOLD
            silent = scores("variance", probe, group) < SILENT
            none = torch.zeros_like(silent)
            flagged_before, silent_before = self.before.get(group.name, (none, none))
            for name, what in (
                ("units", ~none),
                ("flagged", flagged),
                ("relative", moved < TENTH * moved.median()),
                ("silent", silent),
                ("silent flagged", silent & flagged),
                ("dear", flagged & (worth > worth.median())),
                ("learning again", flagged_before & ~flagged),
                ("woken", silent_before & ~silent),
            ):
                seen[name] += int(what.sum())
            self.before[group.name] = flagged, silent
        self.told.append({**seen, "spearman": {k: sum(v) / len(v) for k, v in ranks.items()}})
