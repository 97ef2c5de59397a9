"""Brute force with a repair: the units that stay take over the work of each removed one.

The paper removes units and leaves the others as they are. Nothing is retrained here either: a
repair is a fit of removed units by the remaining ones, on the images that units are ranked on.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from sentei.jobs.results import Result
from sentei.papers.claims import Claim, paired, spread
from sentei.papers.shrinking.networks import samples, setting, trained
from sentei.papers.shrinking.reading import DROPS, Runs, removable, verdict
from sentei.papers.shrinking.removal import emptied
from sentei.training import evaluate

WAYS: dict[str, tuple[str, str | None]] = {  # criterion and repair
    "brute force": ("ablation", None),
    "brute force, then least squares": ("ablation", "least_squares"),
    "brute force, then least loss": ("ablation", "least_loss"),
    "optimal brain surgeon": ("obs", "least_squares"),
    "brute force after least squares": ("ablation-least-squares", "least_squares"),
    "brute force after least squares, then least loss": ("ablation-least-squares", "least_loss"),
}
ALONE, *REPAIRED = WAYS
COMPARED = "brute force after least squares"  # with new networks of the same widths
AIMS = {"1x100": 70, "2x50": 55}  # units of a hundred that go for one point of accuracy
LEFT = 3  # ... when a third of the units is left


def handed_over(name: str, seed: int, quick: bool) -> Result:
    """Remove every unit of a network of the paper in each of `WAYS`.

    Args:
        name: name of the setting.
        seed: of data, weights and order of samples.
        quick: use a smaller network and less training.

    Returns:
        For each way accuracy on ranked and on held-out samples after 0, 1, ... removals. With a
        third of the units left also `scratch`, the held-out accuracy of a new network of the same
        widths.
    """
    how = setting(name, quick)
    learn, held = samples(how.data, seed)
    model, _ = trained(how, how.hidden, learn, seed)
    seen, found = learn.first(how.ranked), {}
    for words, (criterion, repair) in WAYS.items():
        curve: dict[str, Any] = emptied(model, seen, held, how, criterion, repair=repair)
        found[words] = {kind: curve[kind] for kind in ("accuracy", "held")}
        if words == COMPARED:
            gone = curve["layers"][: how.units - how.units // LEFT]
            hidden = [width - gone.count(layer) for layer, width in enumerate(how.hidden)]
            fresh, _ = trained(how, hidden, learn, seed + 1000)
            scratch = float(evaluate(fresh, held, loss=how.loss).accuracy or 0.0)
            found[words] |= {"hidden": hidden, "scratch": scratch}
    return found


def claims(runs: Runs) -> list[Claim]:
    """Return the rows of the table: how many units go, and how good the small networks are."""
    return [*(_aim(name, runs[f"handover-{name}"]) for name in AIMS), _beside_new(runs)]


def _aim(name: str, runs: list[Result]) -> Claim:
    """Judge our aim: how many units go for one point of accuracy, each way."""
    parts, best, held = [], 0.0, ""
    for words in WAYS:
        counts = [[removable(run[words]["accuracy"], drop) for run in runs] for drop in DROPS]
        parts.append(f"{words} {', '.join(spread(count, 1) for count in counts)}")
        if fmean(counts[0]) > best:
            best = fmean(counts[0])
            after = [run[words]["held"][n] for run, n in zip(runs, counts[0], strict=True)]
            held = f"{words} {spread(after, 3)}"
    start = spread([run[ALONE]["held"][0] for run in runs], 3)
    share = 100 * best / (len(runs[0][ALONE]["accuracy"]) - 1)
    return Claim(
        f"ours: {name}, without retraining: units that go within 1, 2, 5 points of accuracy, when "
        "the others take over the work of what goes",
        f"{AIMS[name]} of 100 within 1 (our aim)",
        "; ".join(parts),
        verdict(share >= AIMS[name]),
        f"on the ranked images, each unit's work handed over when it goes. Held-out accuracy with "
        f"the most units gone within 1 point: {held}, {start} before",
    )


def _beside_new(runs: Runs) -> Claim:
    """Compare repaired networks with new ones of the same widths, on held-out samples."""
    parts, holds = [], []
    for name in AIMS:
        of_seeds = [run[COMPARED] for run in runs[f"handover-{name}"]]
        units = len(of_seeds[0]["held"]) - 1
        ours = [curve["held"][units - units // LEFT] for curve in of_seeds]
        new = [curve["scratch"] for curve in of_seeds]
        told = paired(ours, new)
        holds.append(told.mean >= 0)
        parts.append(
            f"{name}, {units // LEFT} units left: repaired {spread(ours, 3)}, scratch "
            f"{spread(new, 3)}; {told.words(1, 100, 'points')}"
        )
    return Claim(
        "control: pruned without retraining, the work handed over, no worse on held-out images "
        "than the same widths trained from scratch",
        "-",
        ". ".join(parts),
        verdict(all(holds), any(holds)),
        f"{COMPARED}: each unit's score is the rise in error after the least-squares repair",
    )
