"""Scores too large to be believed, replaced by something ordinary."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sentei.errors import unknown
from sentei.network.units import Group
from sentei.probe.probe import Probe

log = logging.getLogger(__name__)


def _median(scores: Tensor) -> Tensor:
    # torch.median of two scores is the lower: the higher would be replaced by it, and tie with it.
    return scores.quantile(0.5)


MIDDLES = {"mean": torch.mean, "median": _median}


@dataclass(frozen=True)
class Thresholded:
    """A criterion whose extreme scores are replaced by the mean or median of ordinary ones.

    The paper does not say what it compares with, nor with which sign. One-sided, as its words have
    it, large rises are replaced by the mean of all, and the lowest score stays the lowest: which
    member goes first never changes. Two-sided, a score whose *size* is extreme is replaced by the
    mean of the others, so that a wildly negative estimate is not believed either.

    Attributes:
        criterion: whose scores.
        middle: "mean" or "median".
        two_sided: whether sizes are compared, or scores.
        quantile: of the alive members' sizes (or scores) beyond which one is extreme.
        times: in place of the quantile, how many medians of the sizes are extreme.

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
            raise ValueError(f"a quantile is from 0 to 1, not {self.quantile}")
        if self.times is not None and not self.times > 0:
            raise ValueError(f"times= is above 0, not {self.times}")

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """(size,) scores of `criterion`, which is given `settings`, with extreme ones replaced."""
        scores = self.criterion(probe, group, **settings).clone()
        alive = probe.alive(group)
        if alive.any():
            scores[alive] = self.replaced(scores[alive])
        return scores

    def replaced(self, scores: Tensor) -> Tensor:
        """(k,) the same scores, all alive, with extreme ones replaced; logs the threshold."""
        sizes = scores.abs() if self.two_sided else scores
        if self.times is not None:
            limit = self.times * _median(scores.abs())
        else:
            limit = sizes.quantile(self.quantile)
        extreme = sizes > limit
        ordinary = scores[~extreme] if self.two_sided else scores
        if not extreme.any() or not len(ordinary):
            return scores
        middle = MIDDLES[self.middle](ordinary)
        log.info("%d scores beyond %.4g stand at %.4g", int(extreme.sum()), limit, middle)
        return torch.where(extreme, middle, scores)
