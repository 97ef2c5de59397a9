"""When these techniques hurt, which the paper asks and leaves open: evidence, computed."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

from sentei.papers.claims import Claim, paired, spread
from sentei.papers.jobs import Result
from sentei.papers.sensitivity.plan import MOMENTS
from sentei.papers.sensitivity.reading import Runs, accuracies, verdict
from sentei.papers.sensitivity.watching import RULE, SILENT

ASKED = "asked, not answered"
MISTAKEN = 0.25  # half of what chance gives
EARLY = 7  # checks of ten that lie in the first 70 %


def hurting(runs: Runs) -> list[Claim]:
    """One row for each way in which it may hurt; it "holds" where the runs show the harm."""
    return [
        _often(runs),
        _moment(runs),
        *_mistakes(runs),
        _again(runs),
        _threshold(runs),
        _gradients(runs),
    ]


def _often(runs: Runs) -> Claim:
    told = paired(accuracies(runs["watched-sigmoid"]), accuracies(runs["deep-often"]))
    once = paired(accuracies(runs["deep"]), accuracies(runs["deep-once"]))
    left = spread([sum(run["units"]) for run in runs["deep-often"]], 0)
    return Claim(
        "it hurts to check often",
        ASKED,
        f"{told.words(2, 100, 'points')} lost by seven checks",
        verdict(told),
        f"{left} of 135 units left after 50 epochs; one check in 100 epochs costs "
        f"{once.words(2, 100, 'points')}",
    )


def _moment(runs: Runs) -> Claim:
    by = {epoch: accuracies(runs[f"when-{epoch}"]) for epoch in MOMENTS}
    told = paired(by[MOMENTS[-2]], by[MOMENTS[-1]])
    chance = "; ".join(
        f"{epoch}: "
        + paired(by[epoch], [run["random"]["accuracy"]["test"] for run in runs[f"when-{epoch}"]])
        .words(2, 100, "points")
        for epoch in MOMENTS
    )  # fmt: skip
    words = ", ".join(f"{epoch}: {spread(by[epoch], 1, 100, '%')}" for epoch in MOMENTS)
    return Claim(
        "it hurts to remove late, with few epochs left to mend",
        ASKED,
        f"a quarter of each layer gone at once at epoch {words} of 50",
        verdict(told),
        f"epoch {MOMENTS[-2]} against {MOMENTS[-1]}: {told.words(2, 100, 'points')}; against as "
        f"many random units at {chance}",
    )


def _mistakes(runs: Runs) -> list[Claim]:
    rows = []
    for name, words in (("sigmoid", "sigmoid"), ("relu", "ReLU")):
        watched = runs[f"watched-{name}"]
        dear = [_part(run, "dear", "flagged") for run in watched]
        told = paired(dear, [0.5] * len(dear))
        flagged, silent, caught = (
            spread([_part(run, some, whole) for run in watched], digits, 100, "%")
            for some, whole, digits in (
                ("flagged", "units", 0),
                ("silent", "units", 1),
                ("silent flagged", "silent", 0),
            )
        )
        quiet = f"{silent} say next to nothing (variance under {SILENT:g})"
        if all(_part(run, "silent", "units") for run in watched):
            quiet += f", and {caught} of those are flagged"
        rows.append(
            Claim(
                f"units are flagged by mistake ({words})",
                ASKED,
                f"{spread(dear, 0, 100, '%')} of those flagged are in the half that matters more",
                "holds" if fmean(dear) > MISTAKEN else "does not hold",
                f"half is chance ({told.words(1, 100, 'points')} from it); exact ablation on 2,000 "
                f"training samples, seven checks, nothing removed. {flagged} of all units are "
                f"flagged; {quiet}",
            )
        )
    return rows


def _again(runs: Runs) -> Claim:
    parts = {name: [_next(run) for run in runs[f"watched-{name}"]] for name in ("sigmoid", "relu")}
    return Claim(
        "a unit that did not change in an update has not stopped learning",
        ASKED,
        f"{spread(parts['sigmoid'], 0, 100, '%')} of flagged units are not flagged five epochs "
        f"later with sigmoid, {spread(parts['relu'], 0, 100, '%')} with ReLU",
        "holds" if min(map(fmean, parts.values())) > 0.5 else "holds in part",
        "nothing removed; the signed changes of a unit's weights in one update cancel by chance",
    )


def _threshold(runs: Runs) -> Claim:
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


def _gradients(runs: Runs) -> Claim:
    kinds = runs["watched-sigmoid"][0]["checks"][0]["spearman"]
    rule = " ".join(RULE)
    by = {
        kind: {name: [_rank(run, kind) for run in runs[f"watched-{name}"]]
               for name in ("sigmoid", "relu")}
        for kind in kinds
    }  # fmt: skip
    others = "; ".join(
        f"{kind}: {spread(found['sigmoid'], 2)} and {spread(found['relu'], 2)}"
        for kind, found in by.items()
        if kind != rule
    )
    late = "; ".join(
        f"{kind}: {spread([_rank(run, kind, 2) for run in runs['watched-decay']], 2)}"
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
    return run["checks"][:EARLY]


def _part(run: Result, some: str, whole: str) -> float:
    checks = _early(run)
    return sum(check[some] for check in checks) / max(sum(check[whole] for check in checks), 1)


def _next(run: Result) -> float:
    checks = run["checks"][: EARLY + 1]
    flagged = sum(check["flagged"] for check in checks[:-1])
    return sum(check["learning again"] for check in checks[1:]) / max(flagged, 1)


def _rank(run: Result, kind: str, last: int | None = None) -> float:
    checks = _early(run) if last is None else run["checks"][-last:]
    values = [check["spearman"][kind] for check in checks]
    return fmean([value for value in values if isfinite(value)] or [0.0])
