"""What the paper says beside what came out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sentei.papers.claims import Claim, Verdict, spread

Run = dict[str, Any]
Runs = Mapping[str, Sequence[Run]]
WITHIN = 0.001  # a tenth of a point, what "unchanged" means here
LITERAL = {"cnn": "half", "fnn": "none"}  # the centre that fits the paper's counts


def claims(
    runs: Runs, changed: Mapping[str, Runs], wide: Sequence[Mapping[str, list[float]]]
) -> list[Claim]:
    """The rows of the page."""
    return [
        _same_accuracy(runs["cnn"]),
        _removal(runs["cnn"]),
        _connected(runs["fnn"]),
        *(_no_loss(kind, found) for kind, found in runs.items()),
        _better(runs["cnn"]),
        _control(runs["cnn"]),
        *(_ours(kind, found) for kind, found in runs.items()),
        *_hundred(wide),
        *_influence(changed),
    ]


def readings(run: Run, centre: str, degrees: int) -> Run:
    """What one centre and threshold did."""
    (found,) = [r for r in run["readings"] if (r["centre"], r["degrees"]) == (centre, degrees)]
    return found


def change(run: Run, reading: Run, merge: str, on: str = "test") -> float:
    """How much accuracy rose."""
    return reading["after"][merge][on] - run["accuracy"][on]


def removable(run: Run, method: str) -> int:
    """How many units went before validation accuracy first fell by more than `WITHIN`."""
    held = run["curves"][method]["validation"]
    fallen = [count for count, value in enumerate(held) if value < held[0] - WITHIN - 1e-9]
    return fallen[0] - 1 if fallen else len(held) - 1


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences and the two-sided p-value of a sign-flip test, exact."""
    values = np.asarray(differences)
    signs = np.array(np.meshgrid(*[(-1, 1)] * len(values))).reshape(len(values), -1)
    means = np.abs(values @ signs) / len(values)
    p = float((means >= abs(values.mean()) - 1e-12).mean())
    return float(values.mean()), p


def _same_accuracy(cnn: Sequence[Run]) -> Claim:
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
    found = [readings(run, "half", 15) for run in cnn]
    shares = [r["removed"] / run["size"] for run, r in zip(cnn, found, strict=True)]
    dead = sum(r["removed dead"] for r in found) / max(sum(r["removed"] for r in found), 1)
    mean = statistics.fmean(shares)
    return Claim(
        "CNN at 15 degrees: how many of 64 units go",
        "26.5 to 39 %, mean 32.5 %",
        f"{spread(shares, 1, 100, '%')}, {100 * min(shares):.1f} to {100 * max(shares):.1f} %",
        "holds" if 0.265 <= mean <= 0.39 else "holds in part",
        f"{100 * dead:.1f} % of what goes never fires on the training images",
    )


def _connected(fnn: Sequence[Run]) -> Claim:
    parts, alike = [], []
    for centre in ("none", "half"):
        found = [readings(run, centre, 25) for run in fnn]
        shares = [r["removed"] / run["size"] for run, r in zip(fnn, found, strict=True)]
        changes = [change(run, r, "incoming") for run, r in zip(fnn, found, strict=True)]
        mended = [change(run, r, "affine") for run, r in zip(fnn, found, strict=True)]
        few = 0.05 <= statistics.fmean(shares) <= 0.125
        alike.append(few and statistics.fmean(changes) >= -0.01 and min(changes) >= -0.02)
        parts.append(
            f"centre {centre}: {spread(shares, 1, 100, '%')} go, {_points(changes)} literally, "
            f"{_points(mended)} with affine"
        )
    return Claim(
        "FNN at 25 degrees: little goes, little is lost",
        "9.5 % go, 12.5 % in the worst run; 0.5 points lost, 2 at most",
        "; ".join(parts),
        "holds" if all(alike) else "holds in part" if any(alike) else "does not hold",
        "the paper gives no centre and no scaling of inputs; ours have mean 0 and deviation 1",
    )


def _no_loss(kind: str, found: Sequence[Run]) -> Claim:
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


def _better(cnn: Sequence[Run]) -> Claim:
    differences = [change(run, readings(run, "half", 30), "incoming") for run in cnn]
    mean, p = paired(differences)
    return Claim(
        "CNN at 30 degrees is better after pruning, so pruning helps generalisation",
        "97.40 % after, 97.37 % before: 0.6 of 2,000 images",
        f"{100 * mean:+.3f} points on 10,000 images, p = {p:.2f} (paired, {len(cnn)} seeds)",
        "does not hold" if p > 0.05 or mean <= 0 else "holds",
        "sign-flip test over networks; the paper gives no test",
    )


def _control(cnn: Sequence[Run]) -> Claim:
    found = [readings(run, "half", 15) for run in cnn]
    lost = [
        statistics.fmean(draw["test"] for draw in r["random"]) - run["accuracy"]["test"]
        for run, r in zip(cnn, found, strict=True)
    ]
    return Claim(
        "the same number of random units, as a control",
        "not given",
        f"{_points(lost)} on 10,000 images",
        "cannot be judged",
        "five draws a network; nobody takes over",
    )


def _ours(kind: str, found: Sequence[Run]) -> Claim:
    best = "ablation + least squares"
    counts = [removable(run, best) for run in found]
    shares = [count / run["size"] for count, run in zip(counts, found, strict=True)]
    tests = [run["curves"][best]["test"] for run in found]
    changes = [curve[count] - curve[0] for count, curve in zip(counts, tests, strict=True)]
    most = [math.ceil(0.6 * run["size"]) for run in found]
    at_most = [curve[count] - curve[0] for count, curve in zip(most, tests, strict=True)]
    fallen = {name: _mean_at(found, name, most) for name in ("ablation", "obs + least squares")}
    others = ", ".join(f"{name} {100 * mean:+.2f}" for name, mean in fallen.items())
    return Claim(
        f"{kind.upper()}: 60 % of the units go within 0.1 points, by exact ablation after a "
        "least-squares fold",
        "our aim, for the CNN",
        f"{_points(at_most)} with {most[0]} of {found[0]['size']} gone; {others}",
        "holds" if statistics.fmean(at_most) >= -WITHIN else "does not hold",
        "no retraining; stopped by 5,000 validation images instead, "
        f"{spread(shares, 1, 100, '%')} go and test accuracy changes by {_points(changes)}",
    )


def _mean_at(found: Sequence[Run], method: str, counts: Sequence[int]) -> float:
    """How much test accuracy rises once so many units are gone, on average."""
    curves = [run["curves"][method]["test"] for run in found]
    return statistics.fmean(curve[n] - curve[0] for curve, n in zip(curves, counts, strict=True))


def _hundred(wide: Sequence[Mapping[str, list[float]]]) -> list[Claim]:
    rows = []
    aims = {
        "ablation": "about 96.7 / 94.0 / 85.2 %",
        "obs + least squares": "about 96.8 / 95.8 / 91.6 %",
        "ablation + least squares": "97.2 / 96.7 / 93.5 % aimed at",
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
        judged = method == "ablation + least squares"
        rows.append(
            Claim(
                f"sigmoid 784-100-10: {method}, 40 / 60 / 80 of 100 units gone",
                f"not the paper's; {aim}",
                f"{shown} %, from {dense}",
                ("holds" if reached else "holds in part") if judged else "cannot be judged",
                "no retraining, all decided on 55,000 training images, 10,000 test images",
            )
        )
    return rows


def _influence(changed: Mapping[str, Runs]) -> list[Claim]:
    rows = []
    for kind, settings in changed.items():
        shown = []
        for name, found in settings.items():
            shares = [readings(r, LITERAL[kind], 30)["removed"] / r["size"] for r in found]
            ranks = [r["effective rank"] for r in found]
            tests = [r["accuracy"]["test"] for r in found]
            shown.append(
                f"{name}: {100 * statistics.fmean(tests):.1f} % right, effective rank "
                f"{statistics.fmean(ranks):.1f}, {100 * statistics.fmean(shares):.0f} % go"
            )
        every = [run for found in settings.values() for run in found]
        fill = [run["effective rank"] / run["size"] for run in every]
        gaps = [run["accuracy"]["train"] - run["accuracy"]["test"] for run in every]
        gone = [readings(run, LITERAL[kind], 30)["removed"] / run["size"] for run in every]
        rows.append(
            Claim(
                f"{kind.upper()}: which settings matter, and how redundancy, removal and "
                "generalisation go together",
                "named as future work",
                "; ".join(shown),
                "cannot be judged",
                f"removal at 30 degrees; over {len(every)} networks on fewer images, rank "
                f"correlation of effective rank per unit with removal {_correlated(fill, gone)}, "
                f"of removal with the train-test gap {_correlated(gone, gaps)}",
            )
        )
    return rows


def _points(changes: Sequence[float]) -> str:
    mean, worst = 100 * statistics.fmean(changes), 100 * min(changes)
    return f"{mean:+.2f} points ({worst:+.2f} at worst)"


def _correlated(a: Sequence[float], b: Sequence[float]) -> str:
    """Spearman's; a dash where one of the two is the same for all."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return "-"
    return f"{np.corrcoef(_ranks(a), _ranks(b))[0, 1]:+.2f}"


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]
