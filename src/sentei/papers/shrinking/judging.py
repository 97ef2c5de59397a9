"""Judge the claims of the shrinking paper by the measured results."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

from sentei.jobs.results import Result
from sentei.papers.claims import Claim, Verdict, spread
from sentei.papers.shrinking import beyond, handover, thresholds
from sentei.papers.shrinking.reading import (
    BF,
    DROPS,
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
    """Return all rows: the claims in the paper's order, then what goes beyond the paper."""
    rows = [_start(runs), *_ends(runs)]
    rows += [_single(runs), *_iterative(runs), _second_beats_first(runs), _two_single(runs)]
    rows += [_two_iterative(runs), _except_first(runs), _outer_first(runs), _falling(runs)]
    rows += [_flat(runs), _less_trained(runs), _synthetic(runs)]
    rows += [thresholds.claim(runs["thresholds"])]
    return [*rows, *beyond.claims(runs), *handover.claims(runs)]


def _start(runs: Runs) -> Claim:
    """Claim: test accuracy of the unpruned networks."""
    seen = [curve(r, BF)["accuracy"][0] for r in runs["1x100"]]
    held = [r["start"]["held"] for r in runs["1x100"]]
    two = [r["start"]["held"] for r in runs["2x50"]]
    return Claim(
        "test accuracy of the unpruned networks",
        "0.998 (1x100), 1.000 (2x50)",
        f"trained-on images {spread(seen, 3)}; held-out images {spread(held, 3)} and "
        f"{spread(two, 3)}",
        "does not hold",
        "499 and 500 of 500 images: images that were trained on. Held-out ones never get there.",
    )


def _ends(runs: Runs) -> list[Claim]:
    """Claims: summed error before the first and after the last removal."""
    published = {"1x100": ("38.02", "4690.7"), "2x50": ("20.48", "3243.0")}
    rows = []
    for name, (start, end) in published.items():
        first = [curve(r, BF)["error"][0] for r in runs[name]]
        last = [curve(r, BF)["error"][-1] for r in runs[name]]
        rows.append(
            Claim(
                f"{name}: summed error before and after all removals",
                f"{start}; {end}",
                f"{spread(first, 2)}; {spread(last, 0)}",
                "cannot be judged",
                "training stops at the paper's starting error; what is left at the end is the "
                "output biases, which depend on training",
            )
        )
    return rows


def _single(runs: Runs) -> Claim:
    """Claim: with a single ranking no criterion has the lowest error for all seeds."""
    best = [min(ORDERS, key=lambda c: mean(curve(r, c, "single")["error"])) for r in runs["1x100"]]
    return Claim(
        "1x100, single ranking (figure 3): no clear winner; mean error over the curve",
        "BF 2111, G1 2431, G2 2159",
        each(runs["1x100"], 0, way="single") + f"; lowest by seed: {_names(best)}",
        verdict(len(set(best)) > 1),
    )


def _names(criteria: list[str]) -> str:
    """Return the criteria's short names, separated by commas."""
    return ", ".join(ORDERS[c] for c in criteria)


def _iterative(runs: Runs) -> list[Claim]:
    """Claims: the share of units that brute force can remove."""
    published_values = {"1x100": "60 % (acc. 0.964)", "2x50": "40 % (acc. 0.962)"}
    at = {"1x100": 60, "2x50": 40}
    rows = []
    for name, published in published_values.items():
        parts = []
        for which in (name, f"{name}-large"):
            total = len(curve(runs[which][0], BF)["accuracy"]) - 1
            place = at[name] * total // 100
            accuracy = [curve(r, BF)["accuracy"][place] for r in runs[which]]
            counts = [
                spread([removable(curve(r, BF)["accuracy"], d) for r in runs[which]], 1)
                for d in DROPS
            ]
            parts.append(
                f"{which}: {spread(accuracy, 3)}; within 1, 2, 5 points: {', '.join(counts)}"
            )
        accuracy_at_share = fmean(
            curve(r, BF)["accuracy"][at[name] * (len(curve(r, BF)["accuracy"]) - 1) // 100]
            for r in runs[name]
        )
        figure = "figure 4" if name == "1x100" else "figure 9"
        more = "; -1, -2, -5 points at 35, 53, 63" if name == "1x100" else ""
        rows.append(
            Claim(
                f"{name}, iterative ({figure}): share of units brute force can remove",
                published + more,
                ". ".join(parts),
                verdict(accuracy_at_share >= 0.95),
                "accuracy on the ranked images after that share; -large starts from N(0, 1)",
            )
        )
    return rows


def _lower(run: Result, one: str, other: str) -> list[bool]:
    """Return for each removal but the last whether `one` has a lower error than `other`."""
    a, b = (curve(run, c)["error"][1:-1] for c in (one, other))
    return [x < y for x, y in zip(a, b, strict=True)]


def _second_beats_first(runs: Runs) -> Claim:
    """Claim: in one hidden layer, the second order is consistently better than the first."""
    parts, shares = [], []
    for name in ("1x100", "1x100-large"):
        lower = [fmean(_lower(r, G2, G1)) for r in runs[name]]
        shares += lower
        parts.append(f"{name} {spread(lower, 0, 100, '% of removals')}")
    return Claim(
        "1x100, iterative (figure 4): second order consistently better than first",
        "lower error at 83 of 99 removals",
        "; ".join(parts) + ". Mean error: " + each(runs["1x100"], 0),
        verdict(min(shares) > 0.75, fmean(shares) > 0.5),
    )


def _two_single(runs: Runs) -> Claim:
    """Claim: in two hidden layers, a single ranking is much worse than ranking again."""
    once = [mean(curve(r, BF, "single")["accuracy"]) for r in runs["2x50"]]
    again = [mean(curve(r, BF)["accuracy"]) for r in runs["2x50"]]
    return Claim(
        "2x50: a single ranking (figure 8) is much worse than ranking again",
        "figure 8 against figure 9",
        f"mean accuracy over the curve, brute force: single {spread(once, 3)}, iterative "
        f"{spread(again, 3)}",
        verdict(fmean(again) - fmean(once) > 0.05, fmean(again) > fmean(once)),
    )


def _two_iterative(runs: Runs) -> Claim:
    """Claim: in two hidden layers, BF is best, then G2, then G1."""
    return Claim(
        "2x50, iterative (figure 9): mean accuracy over the curve",
        "BF best, then G2, then G1",
        "2x50: " + each(runs["2x50"], 3, kind="accuracy") + ". 2x50-large: "
        + each(runs["2x50-large"], 3, kind="accuracy"),
        _ordered(runs),
        "G2 is the paper's recursion; it is not the second order of the first hidden layer",
    )  # fmt: skip


def _ordered(runs: Runs) -> Verdict:
    """Return whether BF beats G2 and G2 beats G1, for both initialisations."""
    in_order = []
    for name in ("2x50", "2x50-large"):
        means = {c: fmean(mean(curve(r, c)["accuracy"]) for r in runs[name]) for c in (BF, G1, G2)}
        in_order.append(means[BF] > means[G2] > means[G1])
    return verdict(all(in_order), any(in_order))


def _except_first(runs: Runs) -> Claim:
    """Claim: in two hidden layers, G2 beats G1 except for the first 20 % of removals."""
    parts, holds = [], []
    for name in ("2x50", "2x50-large"):
        early = [1 - fmean(_lower(r, G2, G1)[: len(_lower(r, G2, G1)) // 5]) for r in runs[name]]
        late = [fmean(_lower(r, G2, G1)[len(_lower(r, G2, G1)) // 5 :]) for r in runs[name]]
        holds.append(fmean(early) > 0.5 and fmean(late) > 0.5)
        parts.append(
            f"{name}: G1 lower in {spread(early, 0, 100, '%')} of the first fifth, G2 lower in "
            f"{spread(late, 0, 100, '%')} of the rest"
        )
    return Claim(
        "2x50, iterative: G2 better than G1 except for the first 20 %",
        "G1 lower at removals 1 to 22",
        "; ".join(parts),
        verdict(all(holds), any(holds)),
    )


def _outer_first(runs: Runs) -> Claim:
    """Claim: brute force removes units of the last hidden layer first."""
    parts, shares = [], []
    for name in ("2x50", "2x50-large", "three-layers"):
        total = len(curve(runs[name][0], BF)["layers"])
        first = [curve(r, BF)["layers"][: total // 5] for r in runs[name]]
        last = max(max(curve(r, BF)["layers"]) for r in runs[name])
        counts = [sum(layer == last for layer in layers) for layers in first]
        shares += [
            count / len(layers) * (last + 1) for count, layers in zip(counts, first, strict=True)
        ]
        parts.append(f"{name} {spread(counts, 1)} of {total // 5}")
    return Claim(
        "brute force prunes the layer next to the output first",
        "said of 2x50, without a figure",
        "of the first fifth that goes, from the last hidden layer: " + "; ".join(parts),
        verdict(min(shares) > 1, fmean(shares) > 1),
    )  # fmt: skip


def _falling(runs: Runs) -> Claim:
    """Claim: under G1 and G2 the error falls after more removals than under brute force."""
    parts = []
    for criterion in ORDERS:
        counts = []
        for run in runs["1x100"]:
            error = curve(run, criterion)["error"]
            counts.append(sum(b < a for a, b in pairwise(error[1:])))
        parts.append((criterion, counts))
    means = {criterion: fmean(counts) for criterion, counts in parts}
    return Claim(
        "1x100: errors of G1 and G2 do not rise steadily; removals after which the error fell",
        "BF 9 to 11 of 99; G1 and G2 31 to 34",
        "; ".join(f"{ORDERS[c]} {spread(n, 1)}" for c, n in parts),
        verdict(means[G1] > means[BF] and means[G2] > means[BF], means[G1] > means[BF]),
        "the verdict is on whether G1 and G2 fall more often than BF, not on the counts",
    )


def _flat(runs: Runs) -> Claim:
    """Claim: error surfaces of the units that brute force removes are flat."""
    run = runs["1x100"][0]
    rows = curve(run, BF)["surfaces"]
    rise = [max(one["exact"][:21]) / one["exact"][10] for one in rows]
    shown = ", ".join(f"{one['removal']}: {r:.2f}" for one, r in zip(rows, rise, strict=True))
    return Claim(
        "figure 5: surfaces of the units brute force removes are flat until about the 90th",
        "read off the figure",
        f"largest error for gains 0 to 2, as a multiple of that at gain 1, by removal: {shown}",
        verdict(max(rise[: max(1, len(rise) * 8 // 10)]) < 1.5),
        "one seed; flat is taken as: below 1.5 up to the 80th",
    )


def _less_trained(runs: Runs) -> Claim:
    """Claim: less-trained networks prune worse, but their error falls at first."""
    low, place = _lowest(runs["less-trained"])
    less_trained, fully_trained = (_mean_accuracy(runs[name]) for name in ("less-trained", "1x100"))
    falls = fmean(low) < -0.001
    return Claim(
        "less-trained networks prune worse, but their error falls over the first removals",
        "falls over the first 5 to 10 %",
        f"lowest error {spread(low, 1, 100, '%')} against the start, after "
        f"{spread(place, 0, 100, '% of removals')}; mean accuracy over the curve "
        f"{spread(less_trained, 3)} against {spread(fully_trained, 3)}",
        verdict(
            falls and fmean(less_trained) < fmean(fully_trained),
            falls or fmean(less_trained) < fmean(fully_trained),
        ),
        "1x100 stopped at an error of 450 in place of 38; exact ablation",
    )


def _synthetic(runs: Runs) -> Claim:
    """Claim: on a small synthetic data set the error falls at first, too."""
    low, place = _lowest(runs["diamond"])
    return Claim(
        "so does the error of networks that learnt a small synthetic set",
        "falls over the first 5 to 10 %",
        f"lowest error {spread(low, 1, 100, '%')} against the start, after "
        f"{spread(place, 0, 100, '% of removals')}",
        verdict(fmean(low) < -0.001 and fmean(place) >= 0.05, fmean(low) < -0.001),
        "a diamond in the plane, 2-50-2, cross-entropy on the 1,500 points that were learnt",
    )


def _lowest(runs: list[Result]) -> tuple[list[float], list[float]]:
    """Return how far the error falls below its start, and after which part of the removals."""
    errors = [curve(run, BF)["error"] for run in runs]
    low = [min(error) / error[0] - 1 for error in errors]
    return low, [error.index(min(error)) / (len(error) - 1) for error in errors]


def _mean_accuracy(runs: list[Result]) -> list[float]:
    """Return the mean accuracy over each run's curve of exact ablation."""
    return [mean(curve(run, BF)["accuracy"]) for run in runs]
