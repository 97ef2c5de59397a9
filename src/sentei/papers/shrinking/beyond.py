"""Claims beyond the paper: questions that it leaves open, and comparisons with controls."""

from __future__ import annotations

from statistics import fmean, stdev

from sentei.papers.claims import Claim, spread
from sentei.papers.shrinking.reading import (
    BF,
    DROPS,
    FULL,
    G1,
    G2,
    ORDERS,
    Runs,
    curve,
    each,
    mean,
    removable,
    verdict,
)


def claims(runs: Runs) -> list[Claim]:
    """Return the rows that are not claims of the paper itself."""
    return [
        _curvature(runs),
        *_agreement(runs),
        *_others(runs),
        *_controls(runs),
        _grown(runs),
    ]


def _curvature(runs: Runs) -> Claim:
    """Compare accuracy under both forms of the second order with that under exact ablation."""
    differences = {c: [] for c in (FULL, G2)}
    for run in runs["2x50"]:
        for criterion, values in differences.items():
            approximate, exact = (mean(curve(run, c)["accuracy"]) for c in (criterion, BF))
            values.append(approximate - exact)
    return Claim(
        "ours: 2x50, mean accuracy over the curve, second order less exact ablation",
        "exact within 0.01; the recursion about 0.05 worse (expected)",
        f"exact {spread(differences[FULL], 3)}; the paper's recursion {spread(differences[G2], 3)}",
        verdict(abs(fmean(differences[FULL])) <= 0.01 and fmean(differences[G2]) < -0.02,
                 abs(fmean(differences[FULL])) <= 0.02),
    )  # fmt: skip


def _agreement(runs: Runs) -> list[Claim]:
    """Compare each criterion's ranking of the untouched network's units with exact ablation."""
    rows = []
    for name in ("1x100", "2x50"):
        parts, means = [], {}
        for criterion in sorted(runs[name][0]["spearman"], key=lambda each: each != FULL):
            if criterion in (BF, "random"):
                continue
            correlations = [number for run in runs[name] for number in run["spearman"][criterion]]
            means[criterion] = fmean(correlations)
            layers = zip(*(run["spearman"][criterion] for run in runs[name]), strict=True)
            shown = " / ".join(_pair(list(of_layer)) for of_layer in layers)
            parts.append(f"{criterion} {shown}")
        rows.append(
            Claim(
                f"ours: {name}, the exact second order ranks most like exact ablation"
                + (", first / last layer" if name == "2x50" else ""),
                "-",
                "; ".join(parts),
                verdict(max(means, key=lambda each: means[each]) == FULL),
                "Spearman, untouched network; what `sentei rank --against ablation` prints",
            )
        )
    return rows


def _pair(values: list[float]) -> str:
    """Format mean and standard deviation; one value has no deviation."""
    return f"{fmean(values):+.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _others(runs: Runs) -> list[Claim]:
    """Judge the exact second order on deeper networks, another loss, and other data sets."""
    labels = {
        "three-layers": "deeper: 3x30, sigmoid, squared error",
        "relu": "1x100, ReLU and cross-entropy",
        "letter": "Letter Recognition, 16-64-26, cross-entropy",
        "mnist": "full MNIST, 784-100-10, cross-entropy",
        "diamond": "a shape in the plane, 2-50-2, cross-entropy",
    }
    rows = []
    for name, label in labels.items():
        text = each(runs[name], 3, kind="accuracy")
        means = {c: fmean(mean(curve(r, c)["accuracy"]) for r in runs[name]) for c in ORDERS}
        close = means[BF] - means[FULL] < 0.02
        rows.append(
            Claim(
                f"next: {label}; does the exact second order do for brute force?",
                "asked for",
                f"mean accuracy over the curve: {text}",
                verdict(close, means[FULL] > means[G1]),
                "holds: within 0.02 of exact ablation",
            )
        )
    return rows


def _controls(runs: Runs) -> list[Claim]:
    """Compare pruned networks with ones trained from scratch, and with truncated ones."""
    rows = []
    for name in ("1x100", "2x50"):
        parts, wins = [], []
        for place in range(len(runs[name][0]["controls"])):
            rows_at_size = [r["controls"][place] for r in runs[name] if place < len(r["controls"])]
            left = len(curve(runs[name][0], BF)["layers"]) - rows_at_size[0]["removed"]
            cells = []
            for kind in ("pruned", "scratch", "svd"):
                values = [row[kind][1] for row in rows_at_size if row[kind]]
                cells.append(f"{kind} {spread(values, 3) if values else 'not possible'}")
            wins.append(
                fmean(r["pruned"][1] for r in rows_at_size)
                >= fmean(r["scratch"][1] for r in rows_at_size)
            )
            parts.append(f"{left} units left: {', '.join(cells)}")
        rows.append(
            Claim(
                f"control: {name} pruned without retraining is no worse on held-out images than "
                "the same widths trained from scratch",
                "-",
                ". ".join(parts),
                verdict(all(wins), any(wins)),
                "svd: the first layer truncated to as many parameters as the pruned network has",
            )
        )
    return rows  # fmt: skip


def _grown(runs: Runs) -> Claim:
    """Compare the size of pruned networks with that of networks grown to the same accuracy."""
    parts, agrees = [], []
    for drop in DROPS:
        pruned, grown = [], []
        for one, other in zip(runs["1x100"], runs["cascade"], strict=True):
            accuracy = curve(one, BF)["accuracy"]
            kept = removable(accuracy, drop)
            pruned.append(len(accuracy) - 1 - kept)
            sizes = (n for n, a in enumerate(other["accuracy"]) if a >= accuracy[0] - drop)
            grown.append(next(sizes, len(other["accuracy"])))
        all_reached = all(
            n < len(run["error"]) for n, run in zip(grown, runs["cascade"], strict=True)
        )
        agrees.append(all_reached and abs(fmean(grown) - fmean(pruned)) <= max(pruned) / 4)
        parts.append(
            f"-{100 * drop:.0f} points: pruned to {spread(pruned, 1)}, grown to {spread(grown, 1)}"
        )
    last = [run["error"][-1] for run in runs["cascade"]]
    held = [run["held"][-1] for run in runs["cascade"]]
    count = [len(run["error"]) - 1.0 for run in runs["cascade"]]
    return Claim(
        "next: does cascade-correlation stop at the number of units pruning arrives at?",
        "asked for",
        f"units for the accuracy 1x100 has, less some: {'; '.join(parts)}. After "
        f"{spread(count, 0)} units: error {spread(last, 0)}, held-out accuracy {spread(held, 3)}",
        verdict(all(agrees), any(agrees)),
        "a grown network's outputs also read the 400 inputs, and its units each other; a run that "
        "does not get there counts as one unit more than it grew",
    )  # fmt: skip
