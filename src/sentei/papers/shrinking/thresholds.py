"""The paper's thresholds: extreme second-order estimates are replaced by a mean or median.

The paper tries this without giving results.
"""

from __future__ import annotations

from statistics import fmean

from sentei.criteria import CRITERIA, Thresholded
from sentei.jobs.results import Result
from sentei.papers.claims import Claim, spread
from sentei.papers.shrinking.networks import samples, setting, trained
from sentei.papers.shrinking.reading import G2, mean, verdict
from sentei.papers.shrinking.removal import emptied

READINGS = {
    "as they are": {},
    "literally, by the mean": {"middle": "mean", "two_sided": False},
    "literally, by the median": {"middle": "median", "two_sided": False},
    "by size, by the mean": {"middle": "mean"},
    "by size, by the median": {"middle": "median"},
}
PLAIN, *REPLACED = READINGS
LITERAL, BY_SIZE = REPLACED[:2], REPLACED[2:]


def replaced(name: str, seed: int, quick: bool) -> Result:
    """Remove every unit by the paper's second order, with each reading of its thresholds.

    Args:
        name: name of the setting.
        seed: of data, weights and order of samples.
        quick: use a smaller network and less training.

    Returns:
        Summed error and accuracy after 0, 1, ... removals, for each of `READINGS`.
    """
    how = setting(name, quick)
    learn, held = samples(how.data, seed)
    model, _ = trained(how, how.hidden, learn, seed)
    seen, criterion = learn.first(how.ranked), CRITERIA[G2]
    found = {}
    for words, settings in READINGS.items():
        thresholded = Thresholded(criterion, **settings) if settings else criterion
        found[words] = emptied(model, seen, held, how, thresholded)
    return {words: {kind: c[kind] for kind in ("error", "accuracy")} for words, c in found.items()}


def claim(runs: list[Result]) -> Claim:
    """Return the row of the table: whether replacing extreme estimates helps."""
    same = [run[words]["error"] == run[PLAIN]["error"] for run in runs for words in LITERAL]
    means = {words: [mean(run[words]["accuracy"]) for run in runs] for words in READINGS}
    gain = max(fmean(means[words]) for words in BY_SIZE) - fmean(means[PLAIN])
    shown = "; ".join(f"{words} {spread(values, 3)}" for words, values in means.items())
    return Claim(
        "2x50: replacing estimates above a threshold by their mean or median helps",
        "tried, not reported",
        f"mean accuracy over the curve, G2 {shown}",
        verdict(gain > 0.01),
        f"read literally, the removals stay the same in {sum(same)} of {len(same)} runs: only "
        "the expensive end is replaced, and the least is what goes. By size: a twentieth of a "
        "layer's estimates, those of the largest size, stand at the middle of the others",
    )
