"""Replace extreme scores of a criterion by the mean or median of the ordinary ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import unknown
from sentei.network.units import Group
from sentei.probe.probe import Probe

log = logging.getLogger(__name__)


def _median(scores: Tensor) -> Tensor:
    # torch.median of two scores is the lower: the higher would be replaced by it and tie with it.
    return scores.quantile(0.5)


MIDDLES = {"mean": torch.mean, "median": _median}


@checked
@dataclass(frozen=True)
class Thresholded:
    """A criterion whose extreme scores are replaced by the mean or median of the ordinary ones.

    The paper specifies neither the threshold nor whether signs count. One-sided, its literal
    reading, large rises are replaced by the mean (or median) of all scores; the lowest score stays
    the lowest, so the member that is removed first never changes. Two-sided, a score whose absolute
    value is extreme is replaced by the mean (or median) of the others, which also replaces extreme
    negative estimates.

    Attributes:
        criterion: the criterion whose scores are replaced.
        middle: the replacement: "mean" or "median".
        two_sided: compare absolute values if True, scores if False.
        quantile: a score is extreme beyond this quantile of the alive members' absolute values
            (two-sided) or scores (one-sided).
        times: if given, in place of the quantile: a score is extreme beyond this multiple of the
            median absolute value.

    Raises:
        ValueError: an unknown middle, a quantile outside 0 to 1, or `times` not above 0.

    Source: "The Incredible Shrinking Neural Network", on thresholds; the two-sided form is ours.
    """

    criterion: Callable[[Probe, Group], Tensor]
    middle: str = "mean"
    two_sided: bool = True
    quantile: float = 0.95
    times: float | None = None

    def __post_init__(self) -> None:
        if self.middle not in MIDDLES:
            raise ValueError(unknown("middle", self.middle, MIDDLES))
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile= must be from 0 to 1, not {self.quantile}")
        if self.times is not None and not self.times > 0:
            raise ValueError(f"times= must be above 0, not {self.times}")

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """Return the (size,) scores of `criterion(**settings)` with extreme ones replaced."""
        scores = self.criterion(probe, group, **settings).clone()
        alive = probe.alive(group)
        if alive.any():
            scores[alive] = self.replaced(scores[alive])
        return scores

    def replaced(self, scores: Tensor) -> Tensor:
        """Replace the extreme ones among the alive members' scores, (k,); logs the threshold."""
        compared = scores.abs() if self.two_sided else scores
        if self.times is not None:
            limit = self.times * _median(scores.abs())
        else:
            limit = compared.quantile(self.quantile)
        extreme = compared > limit
        ordinary = scores[~extreme] if self.two_sided else scores
        if not extreme.any() or not len(ordinary):
            return scores
        middle = MIDDLES[self.middle](ordinary)
        log.info("%d scores beyond %.4g replaced by %.4g", int(extreme.sum()), limit, middle)
        return torch.where(extreme, middle, scores)
