"""Claims: when pruning during training hurts, a question that the paper asks and leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

from sentei.jobs.results import Result
from sentei.papers.claims import Claim, paired, spread
from sentei.papers.sensitivity.plan import MOMENTS
from sentei.papers.sensitivity.reading import Runs, accuracies, verdict
from sentei.papers.sensitivity.watching import RULE, SILENT

ASKED = "asked, not answered"
MISTAKEN = 0.25  # share of mistakes above which the claim holds; chance gives 0.5
EARLY = 7  # number of the ten checks that are in the first 70 % of training


def hurting(runs: Runs) -> list[Claim]:
    """Return a row for each way in which pruning may hurt; "holds" means that it does."""
    return [
        _frequent_checks(runs),
        _late_removal(runs),
        *_mistakes(runs),
        _still_learning(runs),
        _threshold(runs),
        _change_and_ablation(runs),
    ]


def _frequent_checks(runs: Runs) -> Claim:
    """Claim: it hurts to check often."""
    lost = paired(accuracies(runs["watched-sigmoid"]), accuracies(runs["deep-often"]))
    lost_once = paired(accuracies(runs["deep"]), accuracies(runs["deep-once"]))
    units_left = spread([sum(run["units"]) for run in runs["deep-often"]], 0)
    return Claim(
        "it hurts to check often",
        ASKED,
        f"{lost.words(2, 100, 'points')} lost by seven checks",
        verdict(lost),
        f"{units_left} of 135 units left after 50 epochs; one check in 100 epochs costs "
        f"{lost_once.words(2, 100, 'points')}",
    )


def _late_removal(runs: Runs) -> Claim:
    """Claim: it hurts to remove units late in training."""
    tests = {epoch: accuracies(runs[f"when-{epoch}"]) for epoch in MOMENTS}
    lost = paired(tests[MOMENTS[-2]], tests[MOMENTS[-1]])
    chance = "; ".join(
        f"{epoch}: "
        + paired(tests[epoch], [run["random"]["accuracy"]["test"] for run in runs[f"when-{epoch}"]])
        .words(2, 100, "points")
        for epoch in MOMENTS
    )  # fmt: skip
    words = ", ".join(f"{epoch}: {spread(tests[epoch], 1, 100, '%')}" for epoch in MOMENTS)
    return Claim(
        "it hurts to remove late, with few epochs left to mend",
        ASKED,
        f"a quarter of each layer gone at once at epoch {words} of 50",
        verdict(lost),
        f"epoch {MOMENTS[-2]} against {MOMENTS[-1]}: {lost.words(2, 100, 'points')}; against as "
        f"many random units at {chance}",
    )


def _mistakes(runs: Runs) -> list[Claim]:
    """Claims: the rule flags units that matter, by exact ablation."""
    rows = []
    for name, words in (("sigmoid", "sigmoid"), ("relu", "ReLU")):
        watched = runs[f"watched-{name}"]
        wrong = [_share(run, "dear", "flagged") for run in watched]
        gap = paired(wrong, [0.5] * len(wrong))
        flagged, silent, caught_share = (
            spread([_share(run, some, whole) for run in watched], digits, 100, "%")
            for some, whole, digits in (
                ("flagged", "units", 0),
                ("silent", "units", 1),
                ("silent flagged", "silent", 0),
            )
        )
        silent_text = f"{silent} say next to nothing (variance under {SILENT:g})"
        if all(_share(run, "silent", "units") for run in watched):
            silent_text += f", and {caught_share} of those are flagged"
        rows.append(
            Claim(
                f"units are flagged by mistake ({words})",
                ASKED,
                f"{spread(wrong, 0, 100, '%')} of those flagged are in the half that matters more",
                "holds" if fmean(wrong) > MISTAKEN else "does not hold",
                f"half is chance ({gap.words(1, 100, 'points')} from it); exact ablation on 2,000 "
                f"training samples, seven checks, nothing removed. {flagged} of all units are "
                f"flagged; {silent_text}",
            )
        )
    return rows


def _still_learning(runs: Runs) -> Claim:
    """Claim: a flagged unit has not stopped learning; it is not flagged at the next check."""
    shares = {
        name: [_not_flagged_again(run) for run in runs[f"watched-{name}"]]
        for name in ("sigmoid", "relu")
    }
    return Claim(
        "a unit that did not change in an update has not stopped learning",
        ASKED,
        f"{spread(shares['sigmoid'], 0, 100, '%')} of flagged units are not flagged five epochs "
        f"later with sigmoid, {spread(shares['relu'], 0, 100, '%')} with ReLU",
        "holds" if min(map(fmean, shares.values())) > 0.5 else "holds in part",
        "nothing removed; the signed changes of a unit's weights in one update cancel by chance",
    )


def _threshold(runs: Runs) -> Claim:
    """Claim: the effect of the threshold of 0.001 depends on the learning rate."""
    decay = [run["checks"] for run in runs["watched-decay"]]
    first, last = (
        [checks[at]["flagged"] / checks[at]["units"] for checks in decay] for at in (0, -2)
    )
    relative = [checks[-2]["relative"] / checks[-2]["units"] for checks in decay]
    full = [fmean(sum(check.values()) for check in run["removed"]) for run in runs["sgd-pruned"]]
    return Claim(
        "a threshold of 0.001 means another thing at every learning rate",
        ASKED,
        f"with a learning rate that falls to zero {spread(first, 0, 100, '%')} of the units are "
        f"under it at the first check and {spread(last, 0, 100, '%')} at epoch 45 of 50",
        "holds" if fmean(last) > fmean(first) + 0.1 else "does not hold",
        f"a tenth of the layer's median flags {spread(relative, 0, 100, '%')} there. Full-batch "
        f"SGD loses {spread(full, 1)} of 50 units at each check, where the cap is 5",
    )


def _change_and_ablation(runs: Runs) -> Claim:
    """Claim: how much a unit's weights change tells how much the unit matters."""
    kinds = runs["watched-sigmoid"][0]["checks"][0]["spearman"]
    rule = " ".join(RULE)
    by = {
        kind: {name: [_correlation(run, kind) for run in runs[f"watched-{name}"]]
               for name in ("sigmoid", "relu")}
        for kind in kinds
    }  # fmt: skip
    others = "; ".join(
        f"{kind}: {spread(found['sigmoid'], 2)} and {spread(found['relu'], 2)}"
        for kind, found in by.items()
        if kind != rule
    )
    late = "; ".join(
        f"{kind}: {spread([_correlation(run, kind, 2) for run in runs['watched-decay']], 2)}"
        for kind in ("angle check", "angle update")
    )
    return Claim(
        "how much a unit changes says how much it matters",
        "the idea of the method",
        f"rank correlation with exact ablation {spread(by[rule]['sigmoid'], 2)} with sigmoid, "
        f"{spread(by[rule]['relu'], 2)} with ReLU",
        "holds" if min(fmean(part) for part in by[rule].values()) > 0.5
        else "does not hold" if max(fmean(part) for part in by[rule].values()) < 0.2
        else "holds in part",
        f"mean over layers and seven checks. {others}. At the end of a training whose learning "
        f"rate falls to zero (last two of ten checks, sigmoid): {late}",
    )  # fmt: skip


def _early(run: Result) -> Sequence[Result]:
    """Return the checks in the first 70 % of training."""
    return run["checks"][:EARLY]


def _share(run: Result, some: str, whole: str) -> float:
    """Return the count `some` as a share of the count `whole`, summed over the early checks."""
    checks = _early(run)
    return sum(check[some] for check in checks) / max(sum(check[whole] for check in checks), 1)


def _not_flagged_again(run: Result) -> float:
    """Return the share of flagged units that are not flagged at the next check."""
    checks = run["checks"][: EARLY + 1]
    flagged = sum(check["flagged"] for check in checks[:-1])
    return sum(check["learning again"] for check in checks[1:]) / max(flagged, 1)


def _correlation(run: Result, kind: str, last: int | None = None) -> float:
    """Return the mean rank correlation of a kind of change with exact ablation, over checks."""
    checks = _early(run) if last is None else run["checks"][-last:]
    values = [check["spearman"][kind] for check in checks]
    return fmean([value for value in values if isfinite(value)] or [0.0])
