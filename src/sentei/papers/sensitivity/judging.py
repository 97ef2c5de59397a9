"""What the paper says, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from sentei.papers.claims import Claim, Verdict, paired, spread
from sentei.papers.jobs import Result
from sentei.papers.sensitivity.plan import CONTROLS, WIDTHS

Runs = Mapping[str, Sequence[Result]]
BAND = 0.015  # how far a single run of the paper may lie from our mean


def claims(runs: Runs) -> list[Claim]:
    """The paper's figures, its method against controls, and what it asks for."""
    return [
        *_figures_given(runs),
        *_counts(runs),
        *_better_than_chance(runs),
        *_ways(runs),
        *_sizes(runs),
        *_side_effects(runs),
    ]


def accuracies(runs: Sequence[Result], part: str = "test") -> list[float]:
    """Accuracy of every seed."""
    return [run["accuracy"][part] for run in runs]


def reached(run: Result, accuracy: float) -> float:
    """The first epoch on the validation curve with this accuracy; infinity if there is none."""
    return next((epoch for epoch, right in run["curve"] if right >= accuracy), float("inf"))


def _figures_given(runs: Runs) -> list[Claim]:
    published = (
        ("16-50-26 ReLU, SGD, 1,000 epochs", "relu-sgd", 0.847, ""),
        ("16-50-26 sigmoid, SGD, 1,000 epochs", "sigmoid-sgd", 0.71, ""),
        ("16-50-26 ReLU, RMSprop, 200 epochs", "relu-rmsprop", 0.91, ""),
        ("16-50-26, SGD with pruning", "sgd-pruned", 0.7931, ""),
        ("16-64-26 sigmoid, RMSprop with pruning, 50 epochs", "rmsprop-pruned", 0.8972, ""),
        ("16-60-45-30-26 with pruning", "deep-once", 0.92, "the paper's best run has 93 %"),
    )
    rows = []
    for words, name, value, remark in published:
        measured = accuracies(runs[name])
        left = spread([sum(run["units"]) for run in runs[name]], 0)
        note = f"learning rate and batch are not in the paper; units left: {left}"
        rows.append(
            Claim(words, f"{100 * value:.1f} %", spread(measured, 1, 100, "%"),
                  _near(fmean(measured), value), f"{remark}; {note}" if remark else note)
        )  # fmt: skip
    fast, slow = (
        [reached(run, 0.8) for run in runs[name]] for name in ("sigmoid-rmsprop", "sigmoid-sgd")
    )
    rows.append(
        Claim(
            "RMSprop reaches in 50 epochs what SGD does not in 1,000",
            "said",
            f"80 % validated after {spread(fast, 0)} epochs of RMSprop and {spread(slow, 0)} of "
            "SGD",
            "holds" if max(fast) <= 50 and min(slow) > 1_000 else "holds in part",
            "epochs are not updates: a full-batch epoch of SGD is one update, RMSprop's are 55",
        )
    )
    rows.append(
        Claim(
            "ten points above Holland's classifiers (81.6 %)",
            "91.5 %",
            spread(accuracies(runs["deep-authors"]), 1, 100, "%"),
            "holds" if fmean(accuracies(runs["deep-authors"])) > 0.816 + 0.08 else "does not hold",
            "on the authors' own split, 16,000 to train on and 4,000 to test; 81.6 % is Frey and "
            "Slate's rule set",
        )
    )
    return rows


def _near(measured: float, published: float) -> Verdict:
    if abs(measured - published) <= BAND:
        return "holds"
    return "holds in part" if measured > published else "does not hold"


def _counts(runs: Runs) -> list[Claim]:
    start = (60, 45, 30)
    gone = [
        [before - after for before, after in zip(start, run["units"], strict=True)]
        for run in runs["deep-once"]
    ]
    words = " / ".join(spread([counts[layer] for counts in gone], 1) for layer in range(3))
    alike = all(abs(fmean(c[i] for c in gone) - n) <= 5 for i, n in enumerate((9, 1, 3)))
    return [
        Claim(
            "units pruned of 60, 45 and 30",
            "9 / 1 / 3",
            words,
            "holds" if alike else "holds in part",
            "one check at epoch 50 of 100; threshold 0.001 on the mean signed change of the last "
            "update, at most a quarter of a layer",
        )
    ]


def _better_than_chance(runs: Runs) -> list[Claim]:
    rows = []
    for name, words in (
        ("deep-once", "one check"),
        ("deep-often", "seven checks"),
        ("deep-relu-often", "seven checks, ReLU"),
    ):
        ours = accuracies(runs[name])
        apart = {
            control: paired(ours, [run[control]["accuracy"]["test"] for run in runs[name]])
            for control in CONTROLS
        }
        chance = apart["random"]
        rows.append(
            Claim(
                f"the criterion finds units that do not matter ({words})",
                "supposed",
                f"against random: {chance.words(2, 100, 'points')}",
                "holds" if chance.mean > 0 and chance.p < 0.05 else "does not hold",
                "as many units at the same moments; against "
                + "; ".join(f"{k}: {v.words(2, 100, 'points')}" for k, v in apart.items()
                            if k != "random"),
            )
        )  # fmt: skip
    return rows


def _ways(runs: Runs) -> list[Claim]:
    true, hack, mask = runs["deep-often"], runs["deep-hack"], runs["deep-mask"]
    zeroed = spread([sum(run["zeroed"].values()) for run in hack], 0)
    time = [a["seconds"] / b["seconds"] for a, b in zip(true, runs["deep-mask"], strict=True)]
    return [
        Claim(
            "zeroing outgoing weights removes a unit",
            "said",
            f"hack: {spread(accuracies(hack), 1, 100, '%')}; removed: "
            f"{spread(accuracies(true), 1, 100, '%')}",
            "does not hold",
            f"{zeroed} units were zeroed and none was gone at the end: their outgoing weights have "
            f"gradients, and were learnt anew. All {hack[0]['parameters']:,} parameters are still "
            f"there; true removal leaves {spread([run['parameters'] for run in true], 0)}",
        ),
        Claim(
            "a pruned training takes less time",
            "supposed",
            f"deleted units: {spread(time, 2)} of the time with masked ones",
            "holds" if fmean(time) < 1 else "does not hold",
            f"masked and deleted end alike: {spread(accuracies(mask), 1, 100, '%')} and "
            f"{spread(accuracies(true), 1, 100, '%')}; layers this small are bound by calls, "
            "not by arithmetic",
        ),
    ]


def _sizes(runs: Runs) -> list[Claim]:
    good = [n for n in WIDTHS if fmean(accuracies(runs[f"width-{n}"])) >= 0.897]
    least = min(good, default=None)
    best = runs["best"]
    left = spread([sum(run["units"]) for run in best], 0)
    rows = [
        Claim(
            "64 hidden units are needed for 89.7 %",
            "64 units",
            "not reached" if least is None
            else f"{least} units: {spread(accuracies(runs[f'width-{least}']), 1, 100, '%')}",
            "does not hold" if least is not None and least < 64 else "holds",
            "plain training for 100 epochs; tried: " + ", ".join(
                f"{n}: {spread(accuracies(runs[f'width-{n}']), 1, 100, '%')}" for n in WIDTHS
            ),
        ),
        Claim(
            "the best that 122 of 135 units give",
            "93 %",
            f"{spread(accuracies(best), 1, 100, '%')} with {left} units",
            "holds in part",
            "learnt from a 16-512-512-26 network, units going by exact ablation; the authors' "
            "split",
        ),
    ]  # fmt: skip
    for step, words in (("one", "one unit fewer each time"), ("counted", "as many as counted")):
        smallest = [run["smallest"] for run in runs[f"restart-{step}"]]
        rows.append(
            Claim(
                f"version 2, {words}: the smallest single layer",
                "not given",
                f"{spread([row['units'] for row in smallest], 0)} units, "
                f"{spread([row['test'] for row in smallest], 1, 100, '%')}",
                "cannot be judged",
                "networks tried: "
                + spread([len(run["tried"]) for run in runs[f"restart-{step}"]], 0),
            )
        )
    return rows


def _side_effects(runs: Runs) -> list[Claim]:
    pruned, plain = runs["rmsprop-pruned"], runs["sigmoid-rmsprop"]
    rows = []
    for words, one, other in (
        ("generalises better (gap between training and test)", _gap(plain), _gap(pruned)),
        ("is more robust (noise of deviation 0.25 on the inputs)",
         accuracies(pruned, "noise 0.25"), accuracies(plain, "noise 0.25")),
    ):  # fmt: skip
        told = paired(one, other)
        rows.append(
            Claim(
                f"the pruned network {words}",
                "supposed",
                told.words(2, 100, "points"),
                "holds" if told.mean > 0 and told.p < 0.05 else "does not hold",
                "16-64-26 sigmoid, pruned against not",
            )
        )
    return rows


def _gap(runs: Sequence[Result]) -> list[float]:
    return [run["accuracy"]["train"] - run["accuracy"]["test"] for run in runs]
