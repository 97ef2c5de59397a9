"""Judge the claims of the distinctiveness paper by the measured results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sentei.papers.claims import Claim, Verdict, spread
from sentei.papers.distinctiveness.networks import LITERAL
from sentei.training import distinctiveness_cnn, mlp

Run = dict[str, Any]
Runs = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Found:
    """All results of the reproduction, one for each seed.

    Attributes:
        runs: results of the paper's two networks, by name.
        changed: results with one setting changed, by network and setting.
        wide: results of the sigmoid network 784-100-10.
        late: results of trainings during which units are removed, by criterion.
    """

    runs: Runs
    changed: Mapping[str, Runs]
    wide: Sequence[Mapping[str, list[float]]]
    late: Runs


WITHIN = 0.001  # a change of accuracy by at most this counts as unchanged: a tenth of a point


def claims(found: Found) -> list[Claim]:
    """Return the claims of the paper, and those about removal without retraining."""
    cnn, fnn = found.runs["cnn"], found.runs["fnn"]
    return [
        _networks(),
        _same_accuracy(cnn),
        _removal(cnn),
        _connected(fnn),
        *(_no_loss(kind, runs) for kind, runs in found.runs.items()),
        _thirty(cnn),
        _better(cnn),
        _second_table(cnn, fnn),
        _every_reading("cnn", cnn, 15),
        _every_reading("cnn", cnn, 45),
        _every_reading("fnn", fnn, 25),
        *(_control(*case) for case in (("cnn", cnn, 15), ("cnn", cnn, 30), ("fnn", fnn, 25))),
        *(_ours(kind, runs) for kind, runs in found.runs.items()),
        *_hundred(found.wide),
    ]


def readings(run: Run, centre: str, degrees: int) -> Run:
    """Return the result of the paper's procedure with one centre and threshold."""
    (found,) = [r for r in run["readings"] if (r["centre"], r["degrees"]) == (centre, degrees)]
    return found


def ours(run: Run, degrees: int) -> Run:
    """Return the result of `twins` at one threshold."""
    (found,) = [r for r in run["ours"] if r["degrees"] == degrees]
    return found


def change(run: Run, reading: Run, merge: str, on: str = "test") -> float:
    """Return the change of accuracy after merging, on one part of the data."""
    return reading["after"][merge][on] - run["accuracy"][on]


def removable(run: Run, method: str) -> int:
    """Return how many units are removed before validation accuracy falls by more than `WITHIN`."""
    accuracy = run["curves"][method]["validation"]
    fallen = [count for count, value in enumerate(accuracy) if value < accuracy[0] - WITHIN - 1e-9]
    return fallen[0] - 1 if fallen else len(accuracy) - 1


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and the exact two-sided p-value of a sign-flip test."""
    values = np.asarray(differences)
    signs = np.array(np.meshgrid(*[(-1, 1)] * len(values))).reshape(len(values), -1)
    means = np.abs(values @ signs) / len(values)
    p = float((means >= abs(values.mean()) - 1e-12).mean())
    return float(values.mean()), p


def _networks() -> Claim:
    """Claim: the two networks have 26,474 and 50,890 parameters."""
    counted = {
        "cnn": sum(p.numel() for p in distinctiveness_cnn().parameters()),
        "fnn": sum(p.numel() for p in mlp("784-64-10").parameters()),
    }
    same = counted == {"cnn": 26_474, "fnn": 50_890}
    return Claim(
        "the two networks",
        "26,474 and 50,890 parameters",
        f"{counted['cnn']:,} and {counted['fnn']:,}",
        "holds" if same else "does not hold",
        "Adam at 0.005, batches of 100; 10 and 100 passes through 20,000 images",
    )


def _same_accuracy(cnn: Sequence[Run]) -> Claim:
    """Claim: the CNN's accuracy at 15 degrees is the same before and after."""
    after = [readings(run, "half", 15) for run in cnn]
    changes = [change(run, r, "incoming") for run, r in zip(cnn, after, strict=True)]
    dense = spread([run["accuracy"]["paper"] for run in cnn], 2, 100, "%")
    whole = spread([run["accuracy"]["test"] for run in cnn], 2, 100, "%")
    worst = min(changes)
    return Claim(
        "CNN at 15 degrees: accuracy is the same before and after",
        "97.5 % and 97.5 % on 2,000 images, ten runs",
        f"{dense} before on 2,000 images, {whole} on 10,000; change {_points(changes)}",
        "holds" if worst >= -WITHIN else "does not hold",
        "centred at 0.5, incoming weights added; change on all 10,000",
    )


def _removal(cnn: Sequence[Run]) -> Claim:
    """Claim: the share of units that are removed from the CNN at 15 degrees."""
    found = [readings(run, "half", 15) for run in cnn]
    shares = [r["removed"] / run["size"] for run, r in zip(cnn, found, strict=True)]
    mean = statistics.fmean(shares)
    return Claim(
        "CNN at 15 degrees: how many of 64 units go",
        "26.5 to 39 %, mean 32.5 %",
        f"{spread(shares, 1, 100, '%')}, {100 * min(shares):.1f} to {100 * max(shares):.1f} %",
        _within(shares, mean, 0.265, 0.39),
        f"{_dead(found)} of what goes never fires on the training images",
    )


def _connected(fnn: Sequence[Run]) -> Claim:
    """Claim: at 25 degrees few units of the FNN are removed, and little accuracy is lost."""
    parts, as_published = [], []
    for centre in ("none", "half"):
        found = [readings(run, centre, 25) for run in fnn]
        shares = [r["removed"] / run["size"] for run, r in zip(fnn, found, strict=True)]
        changes = [change(run, r, "incoming") for run, r in zip(fnn, found, strict=True)]
        repaired = [change(run, r, "affine") for run, r in zip(fnn, found, strict=True)]
        few_removed = 0.05 <= statistics.fmean(shares) <= 0.125
        as_published.append(
            few_removed and statistics.fmean(changes) >= -0.01 and min(changes) >= -0.02
        )
        parts.append(
            f"centre {centre}: {spread(shares, 1, 100, '%')} go, {_points(changes)} literally, "
            f"{_points(repaired)} with affine"
        )
    return Claim(
        "FNN at 25 degrees: little goes, little is lost",
        "9.5 % go, 12.5 % in the worst run; 0.5 points lost, 2 at most",
        "; ".join(parts),
        "holds" if all(as_published) else "holds in part" if any(as_published) else "does not hold",
        "the paper gives no centre and no scaling of inputs; ours have mean 0 and deviation 1",
    )


def _no_loss(kind: str, found: Sequence[Run]) -> Claim:
    """Claim: no accuracy is lost up to 30 degrees."""
    centre = LITERAL[kind]
    by_degree = {}
    for degrees in range(15, 65, 5):
        each = [change(run, readings(run, centre, degrees), "incoming") for run in found]
        by_degree[degrees] = statistics.fmean(each)
    at_30 = [change(run, readings(run, centre, 30), "incoming") for run in found]
    lost = [degrees for degrees, mean in by_degree.items() if mean < -WITHIN]
    verdict: Verdict = "holds" if by_degree[30] >= -WITHIN else "does not hold"
    return Claim(
        f"{kind.upper()}: no loss up to 30 degrees",
        "no loss up to 30 degrees",
        f"{_points(at_30)} at 30 degrees; first loss of 0.1 points at "
        + (f"{lost[0]} degrees" if lost else "none of the thresholds"),
        verdict,
        f"centre {centre}, incoming weights added",
    )


def _thirty(cnn: Sequence[Run]) -> Claim:
    """Claim: the share of units that are removed from the CNN at 30 degrees."""
    found = [readings(run, "half", 30) for run in cnn]
    shares = [r["removed"] / run["size"] for run, r in zip(cnn, found, strict=True)]
    before = spread([run["accuracy"]["paper"] for run in cnn], 2, 100, "%")
    after = spread([r["after"]["incoming"]["paper"] for r in found], 2, 100, "%")
    mean = statistics.fmean(shares)
    return Claim(
        "CNN at 30 degrees: how many of 64 units go",
        "about 40 %; 97.37 % before, 97.40 % after",
        f"{spread(shares, 1, 100, '%')}; {before} before, {after} after",
        "holds" if 0.35 <= mean <= 0.45 else "holds in part",
        f"{_dead(found)} of what goes never fires on the training images; accuracy on 2,000 images",
    )


def _better(cnn: Sequence[Run]) -> Claim:
    """Claim: the CNN at 30 degrees is better after pruning."""
    differences = [change(run, readings(run, "half", 30), "incoming") for run in cnn]
    mean, p = paired(differences)
    small = [change(run, readings(run, "half", 30), "incoming", "paper") for run in cnn]
    small_mean, small_p = paired(small)
    return Claim(
        "CNN at 30 degrees is better after pruning, so pruning helps generalisation",
        "97.40 % after, 97.37 % before: 0.6 of 2,000 images",
        f"{100 * mean:+.3f} points on 10,000 images, p = {p:.2f}; {100 * small_mean:+.3f} on the "
        f"paper's 2,000, p = {small_p:.2f} (paired, {len(cnn)} seeds)",
        "does not hold" if p > 0.05 or mean <= 0 else "holds",
        "exact sign-flip test over networks; the paper gives no test",
    )


def _second_table(cnn: Sequence[Run], fnn: Sequence[Run]) -> Claim:
    """Claim: the accuracies of the paper's table 2."""
    before = [run["accuracy"]["paper"] for run in cnn]
    after = [readings(run, "half", 15)["after"]["incoming"]["paper"] for run in cnn]
    plain = [run["accuracy"]["paper"] for run in fnn]
    reaching = sum(value >= 0.978 for value in after)
    return Claim(
        "table 2: 97.8 % before and after pruning",
        "99 / 97 / 97.8 / 97.8 %",
        f"CNN {spread(before, 2, 100, '%')} before and {spread(after, 2, 100, '%')} after, "
        f"{100 * max(after):.2f} % at best; FNN {spread(plain, 2, 100, '%')}",
        "holds"
        if statistics.fmean(after) >= 0.978
        else "holds in part"
        if reaching
        else "does not hold",
        f"on 2,000 images; {reaching} of {len(after)} networks reach 97.8 % after pruning. The "
        "paper's own means are 97.4 to 97.5 %; what else the table holds is not judged",
    )


def _every_reading(kind: str, found: Sequence[Run], degrees: int) -> Claim:
    """Claim: the loss of accuracy for every way to merge, and for `twins`."""
    centre = LITERAL[kind]
    each = [readings(run, centre, degrees) for run in found]
    lost = {
        merge: [change(run, r, merge) for run, r in zip(found, each, strict=True)]
        for merge in each[0]["after"]
    }
    shown = "; ".join(f"{merge.replace('_', ' ')} {_points(v)}" for merge, v in lost.items())
    own = [ours(run, degrees) for run in found]
    change_own = [r["test"] - run["accuracy"]["test"] for run, r in zip(found, own, strict=True)]
    share = statistics.fmean(r["removed"] / run["size"] for run, r in zip(found, own, strict=True))
    return Claim(
        f"{kind.upper()} at {degrees} degrees: every way to merge",
        "one, in words that allow several",
        f"{shown}; `twins({degrees})` {_points(change_own)} with {100 * share:.0f} % gone",
        "cannot be judged",
        f"centre {centre}; affine and least squares keep one of an opposite pair, the others "
        "neither; `twins` centres at 0.5 and tells constant units apart",
    )


def _control(kind: str, found: Sequence[Run], degrees: int) -> Claim:
    """Claim: the loss of accuracy if as many random units are removed."""
    each = [readings(run, LITERAL[kind], degrees) for run in found]
    lost = [
        statistics.fmean(draw["test"] for draw in r["random"]) - run["accuracy"]["test"]
        for run, r in zip(found, each, strict=True)
    ]
    merged = [change(run, r, "nobody") for run, r in zip(found, each, strict=True)]
    mean, p = paired([a - b for a, b in zip(merged, lost, strict=True)])
    return Claim(
        f"{kind.upper()} at {degrees} degrees: as many random units, as a control",
        "not given",
        f"{_points(lost)}; the paper's choice, also with nobody to take over, is better by "
        f"{100 * mean:.2f} points (p = {p:.3f})",
        "cannot be judged",
        f"centre {LITERAL[kind]}, five draws a network, 10,000 images",
    )


def _ours(kind: str, found: Sequence[Run]) -> Claim:
    """Claim: 60 % of the units can be removed within 0.1 points, with a least-squares fold."""
    best = "ablation + least squares"
    counts = [removable(run, best) for run in found]
    shares = [count / run["size"] for count, run in zip(counts, found, strict=True)]
    tests = [run["curves"][best]["test"] for run in found]
    changes = [curve[count] - curve[0] for count, curve in zip(counts, tests, strict=True)]
    sixty_percent = [math.ceil(0.6 * run["size"]) for run in found]
    changes_at_sixty = [
        curve[count] - curve[0] for count, curve in zip(sixty_percent, tests, strict=True)
    ]
    other_changes = {
        name: _mean_at(found, name, sixty_percent) for name in ("ablation", "obs + least squares")
    }
    others = ", ".join(f"{name} {100 * mean:+.2f}" for name, mean in other_changes.items())
    return Claim(
        f"{kind.upper()}: 60 % of the units go within 0.1 points, by exact ablation after a "
        "least-squares fold",
        "our aim, for the CNN",
        f"{_points(changes_at_sixty)} with {sixty_percent[0]} of {found[0]['size']} gone; {others}",
        "holds" if statistics.fmean(changes_at_sixty) >= -WITHIN else "does not hold",
        "no retraining; stopped by 5,000 validation images instead, "
        f"{spread(shares, 1, 100, '%')} go and test accuracy changes by {_points(changes)}",
    )


def _mean_at(found: Sequence[Run], method: str, counts: Sequence[int]) -> float:
    """Return the mean change of test accuracy after removing so many units of each network."""
    curves = [run["curves"][method]["test"] for run in found]
    return statistics.fmean(curve[n] - curve[0] for curve, n in zip(curves, counts, strict=True))


def _hundred(wide: Sequence[Mapping[str, list[float]]]) -> list[Claim]:
    """Claims: accuracy of the sigmoid network 784-100-10 after 40, 60 and 80 removals."""
    rows = []
    aims = {
        "ablation": "about 96.7 / 94.0 / 85.2 %",
        "obs + least squares": "about 96.8 / 95.8 / 91.6 %",
        "ablation + least squares": "97.2 / 96.7 / 93.5 % aimed at",
        "ablation + least loss": "97.2 / 96.7 / 93.5 % aimed at",
    }
    for method, aim in aims.items():
        dense = spread([run[method][0] for run in wide], 2, 100, "%")
        after = [[run[method][count] for run in wide] for count in (40, 60, 80)]
        means = [statistics.fmean(values) for values in after]
        deviations = [statistics.stdev(v) if len(v) > 1 else math.nan for v in after]
        shown = " / ".join(
            f"{100 * mean:.2f} ± {100 * deviation:.2f}"
            for mean, deviation in zip(means, deviations, strict=True)
        )
        wanted = (0.972, 0.967, 0.935)
        reached = all(m >= w - 5e-4 for m, w in zip(means, wanted, strict=True))
        judged = method.startswith("ablation +")
        rows.append(
            Claim(
                f"sigmoid 784-100-10: {method}, 40 / 60 / 80 of 100 units gone",
                f"not the paper's; {aim}",
                f"{shown} %, from {dense}",
                ("holds" if reached else "holds in part") if judged else "cannot be judged",
                "all decided on 55,000 training images, 10,000 test images; no retraining"
                + (", but the fold is fitted to the targets" if "loss" in method else ""),
            )
        )
    return rows


def _dead(found: Sequence[Run]) -> str:
    """Format the share of removed units that never fire on the training images."""
    dead = sum(r["removed dead"] for r in found) / max(sum(r["removed"] for r in found), 1)
    return f"{100 * dead:.1f} %"


def _points(changes: Sequence[float]) -> str:
    """Format mean, deviation and worst of accuracy changes, in points."""
    mean, worst = 100 * statistics.fmean(changes), 100 * min(changes)
    deviation = 100 * statistics.stdev(changes) if len(changes) > 1 else math.nan
    return f"{mean:+.2f} ± {deviation:.2f} points ({worst:+.2f} at worst, {len(changes)} seeds)"


def _within(values: Sequence[float], mean: float, low: float, high: float) -> Verdict:
    """Return the verdict on whether all values, or at least their mean, are within a range."""
    if low <= min(values) and max(values) <= high:
        return "holds"
    return "holds in part" if low <= mean <= high else "does not hold"
