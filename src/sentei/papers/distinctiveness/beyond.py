"""Claims beyond the paper: its future work, and comparisons of every criterion and repair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import torch

from sentei.criteria.agreement import spearman
from sentei.experiments.comparing import Curve, Row, Way, rows
from sentei.papers.claims import Claim, paired, spread
from sentei.papers.distinctiveness.judging import Found, Run, Runs, readings
from sentei.papers.distinctiveness.networks import LITERAL

KNOBS = {"epochs": "how long it was trained", "width": "hidden units", "filters": "filters"}
USUAL = "as it is"
LATER = "named as future work"


def claims(found: Found) -> list[Claim]:
    """Return the rows that are not claims of the paper itself."""
    return [
        *_influence(found.changed),
        *(_redundancy(kind, settings) for kind, settings in found.changed.items()),
        _late(found.late),
        *(_compared(kind, runs) for kind, runs in found.runs.items()),
        *(_retraining(kind, runs) for kind, runs in found.runs.items()),
    ]


def curves(runs: Sequence[Run]) -> list[Curve]:
    """Return the accuracy curves of all ways to prune the hidden layer, over all networks."""
    found = []
    for seed, run in enumerate(runs):
        for way in run.get("ways", ()):
            which = Way(way["criterion"], way["repair"], way["retrain"])
            left, accuracy = tuple(way["left"]), tuple(way["accuracy"])
            found.append(Curve(which, seed, left, accuracy, way["agreement"]))
    return found


def table(runs: Runs) -> str:
    """Return a Markdown table of areas under accuracy against units left, by criterion."""
    lines = []
    for kind, found in runs.items():
        by_way = {row.way: row for row in rows(curves(found))}
        names = list(dict.fromkeys(way.criterion for way in by_way))
        lines += [
            f"| {kind.upper()} | alone | least squares | retrained | both | agrees |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name in names:
            four = [
                by_way[Way(name, repair, epochs)]
                for epochs in (0, 1)
                for repair in (None, "least_squares")
            ]
            cells = [f"{100 * row.area:.2f} ± {100 * row.deviation:.2f}" for row in four]
            lines.append(f"| {name} | {' | '.join(cells)} | {_sign(four[0].agreement)} |")
        lines.append("")
    return "\n".join(lines)


def _influence(changed: Mapping[str, Runs]) -> list[Claim]:
    """Claims: what each changed setting does to accuracy, removal and effective rank."""
    found = []
    for kind, settings in changed.items():
        for knob, words in {**KNOBS, "pixels": "the scaling of pixels"}.items():
            names = [name for name in settings if name.split()[0] == knob]
            if not names:
                continue
            shown = [_in_words(kind, name, settings[name]) for name in (USUAL, *names)]
            found.append(
                Claim(
                    f"{kind.upper()}: does it matter, {words}?",
                    LATER,
                    "; ".join(shown),
                    "cannot be judged",
                    f"removal at 30 degrees, centre {LITERAL[kind]}; 5,000 images, "
                    f"{'5' if kind == 'cnn' else '20'} epochs, 64 units unless said otherwise",
                )
            )
    return found


def _in_words(kind: str, name: str, found: Sequence[Run]) -> str:
    """Describe the networks of one setting: accuracy, units removed, their cost, effective rank."""
    shares = [readings(run, LITERAL[kind], 30)["removed"] / run["size"] for run in found]
    change = [
        readings(run, LITERAL[kind], 30)["after"]["incoming"]["test"] - run["accuracy"]["test"]
        for run in found
    ]
    ranks = [run["effective rank"] for run in found]
    return (
        f"{name}: {spread([run['accuracy']['test'] for run in found], 1, 100, '%')} right, "
        f"{100 * statistics.fmean(shares):.0f} % go and cost {-100 * statistics.fmean(change):.1f} "
        f"points, effective rank {statistics.fmean(ranks):.1f}"
    )


def _redundancy(kind: str, settings: Runs) -> Claim:
    """Claim: redundancy, removal and generalisation go together."""
    every = [run for found in settings.values() for run in found]
    rank = [run["effective rank"] / run["size"] for run in every]
    gaps = [run["accuracy"]["train"] - run["accuracy"]["test"] for run in every]
    share = [readings(run, LITERAL[kind], 30)["removed"] / run["size"] for run in every]
    return Claim(
        f"{kind.upper()}: do redundancy, removal and generalisation go together?",
        LATER,
        f"rank correlation of effective rank per unit with removal {_agree(rank, share)}, with the "
        f"train-test gap {_agree(rank, gaps)}; of removal with that gap {_agree(share, gaps)}",
        "cannot be judged",
        f"over {len(every)} networks, {len(settings)} settings; effective rank is e to the entropy "
        "of the covariance's spectrum (Roy and Vetterli, 2007)",
    )


def _late(late: Runs) -> Claim:
    """Claim: removing the unit with the largest badness whenever training stalls."""
    tests = {name: [run["accuracy"]["test"] for run in found] for name, found in late.items()}
    counts = {name: [len(run["gone"]) for run in found] for name, found in late.items()}
    difference = paired(tests["badness"], tests["random"])
    shown = "; ".join(
        f"{name}: {statistics.fmean(counts[name]):.1f} units go, {spread(values, 2, 100, '%')}"
        for name, values in tests.items()
    )
    return Claim(
        "badness: while the FNN trains, the worst unit goes once the error has stalled",
        "used when the error falls by less than 1 to 5 % (Hagiwara, as told by Gedeon and Harris)",
        f"{shown}; badness less random {difference.words(2, 100, 'points')}",
        "cannot be judged",
        "asked after each of the first 48 of 60 epochs over 5,000 images, at 5 %; an epoch is 50 "
        "updates",
    )


def _compared(kind: str, runs: Sequence[Run]) -> Claim:
    """Claim: pruning by every criterion, with and without a least-squares repair."""
    areas = rows(curves(runs))
    plain, repaired = (
        [row for row in areas if not row.way.retrain and bool(row.way.repair) == with_it]
        for with_it in (False, True)
    )
    by_way = {row.way: row for row in repaired}
    better = sum(by_way[Way(r.way.criterion, "least_squares", 0)].area > r.area for r in plain)
    agreeing = sorted(plain, key=lambda row: -row.agreement)
    closest = [row for row in agreeing if row.way.criterion != "ablation"][:3]
    return Claim(
        f"{kind.upper()}: every criterion, with and without least squares",
        "not the paper's",
        f"area under accuracy: {_best(plain)} alone, {_best(repaired)} with least squares; least "
        f"squares is better for {better} of {len(plain)} criteria",
        "cannot be judged",
        f"64 to 6 units in 9 cuts, no retraining, {areas[0].seeds} networks; nearest to exact "
        "ablation at the start are "
        + ", ".join(f"{r.way.criterion} ({_sign(r.agreement)})" for r in closest),
    )


def _retraining(kind: str, runs: Sequence[Run]) -> Claim:
    """Claim: the accuracy that one epoch of retraining after each cut adds."""
    areas = rows(curves(runs))
    retrained = [row for row in areas if row.way.retrain]
    not_retrained = {row.way: row for row in areas if not row.way.retrain}
    gains = [
        row.area - not_retrained[Way(row.way.criterion, row.way.repair, 0)].area
        for row in retrained
    ]
    best = max(not_retrained.values(), key=lambda row: row.area)
    return Claim(
        f"{kind.upper()}: what a little retraining adds",
        "not the paper's: it does without",
        f"one epoch over 5,000 images after each cut adds {100 * min(gains):+.2f} to "
        f"{100 * max(gains):+.2f} points of area; {_best(retrained)} with it, {_best([best])} "
        "without",
        "cannot be judged",
        "of the hidden layer and the classifier; over the whole way from 64 to 6 units",
    )


def _best(areas: Sequence[Row]) -> str:
    """Format the row with the largest area."""
    best = max(areas, key=lambda row: row.area)
    return f"{best.way} {100 * best.area:.2f} ± {100 * best.deviation:.2f} %"


def _agree(a: Sequence[float], b: Sequence[float]) -> str:
    """Format Spearman's rank correlation; a dash if one of the sequences is constant."""
    found = spearman(torch.tensor(a), torch.tensor(b))
    return "-" if math.isnan(found) else f"{found:+.2f}"


def _sign(agreement: float) -> str:
    """Format a correlation with its sign; a dash for NaN."""
    return "-" if math.isnan(agreement) else f"{agreement:+.2f}"
