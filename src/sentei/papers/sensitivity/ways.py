"""How units are removed, what it costs, and what pruning does besides."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from sentei.papers.claims import Claim, paired, spread
from sentei.papers.jobs import Result
from sentei.papers.sensitivity.checks import FINISH
from sentei.papers.sensitivity.reading import Runs, accuracies, after, reached, verdict
from sentei.papers.sensitivity.timing import WAYS

PAIRS = (  # what was pruned, what was not, in words
    ("rmsprop-pruned", "sigmoid-rmsprop", "16-64-26"),
    ("deep-once", "deep", "16-60-45-30-26, one check"),
)


def ways(runs: Runs) -> list[Claim]:
    """Zeroing, deleting, starting anew; time, epochs, generalisation, noise."""
    return [
        _hack(runs),
        *(_time(runs[f"timed-{name}"], words) for name, words in (
            ("batches", "batches of 256"), ("whole", "all samples in one update"))),
        *_anew(runs),
        *_restarts(runs),
        *_epochs(runs),
        *_side_effects(runs),
    ]  # fmt: skip


def _hack(runs: Runs) -> Claim:
    true, hack, mask = runs["deep-often"], runs["deep-hack"], runs["deep-mask"]
    sizes = [run["relearnt"] for run in hack]
    zeroed = spread([len(values) for values in sizes], 0)
    heard = [fmean(value > 0.1 for value in values) for values in sizes]
    return Claim(
        "zeroing outgoing weights removes a unit",
        "said",
        f"{spread(heard, 0, 100, '%')} of {zeroed} zeroed units are heard again at the end",
        "does not hold" if fmean(heard) > 0 else "holds",
        "outgoing weights above a tenth of the median of units never zeroed; the median of zeroed "
        f"ones is {spread([median(values) for values in sizes], 2)} of it, since they have "
        f"gradients and are learnt anew. Test: hack {spread(accuracies(hack), 1, 100, '%')} with "
        f"all {hack[0]['parameters']:,} parameters, masked "
        f"{spread(accuracies(mask), 1, 100, '%')}, deleted {spread(accuracies(true), 1, 100, '%')} "
        f"with {spread([run['parameters'] for run in true], 0)}",
    )


def _time(runs: Sequence[Result], words: str) -> Claim:
    whole = {way: [sum(run[way]) / sum(run[WAYS[0]]) for run in runs] for way in WAYS[1:]}
    last = [
        median(a / b for a, b in zip(_last(run["delete"]), _last(run[WAYS[0]]), strict=True))
        for run in runs
    ]
    return Claim(
        f"a pruned training takes less time than one that is not ({words})",
        "supposed",
        f"{spread(whole['delete'], 2)} of the time",
        "holds" if max(whole["delete"]) < 1 else "does not hold",
        f"units deleted, {spread([sum(run['units']) for run in runs], 0)} of 135 left; checks and "
        f"surgery included, an epoch of each way in turns in one process; {spread(last, 2)} after "
        f"the last check (median of epochs). Masked: {spread(whole['mask'], 2)}, zeroed once: "
        f"{spread(whole['hack'], 2)}",
    )


def _last(seconds: Sequence[float]) -> Sequence[float]:
    return seconds[int(FINISH * len(seconds)) + 1 :]


def _anew(runs: Runs) -> list[Claim]:
    rows = []
    for name, words in (
        ("deep-once", "16-60-45-30-26, one check"),
        ("deep-often", "16-60-45-30-26, seven checks"),
        ("deep-relu-often", "the same with ReLU"),
        ("rmsprop-pruned", "16-64-26"),
    ):
        afresh = [run["afresh"] for run in runs[name]]
        told = paired(accuracies(runs[name]), accuracies(afresh))
        rows.append(
            Claim(
                f"pruning on the way is better than starting with so few ({words})",
                "not compared",
                told.words(2, 100, "points"),
                verdict(told),
                f"in place {spread(accuracies(runs[name]), 1, 100, '%')}, a new network of the "
                f"sizes left, as many epochs, {spread(accuracies(afresh), 1, 100, '%')}",
            )
        )
    return rows


def _restarts(runs: Runs) -> list[Claim]:
    rows = []
    for step, words in (("one", "one unit fewer each time"), ("counted", "as many as counted")):
        smallest = [run["smallest"] for run in runs[f"restart-{step}"]]
        tried = spread([len(run["tried"]) for run in runs[f"restart-{step}"]], 0)
        rows.append(
            Claim(
                f"version 2, {words}: the smallest single layer",
                "not given",
                f"{spread([row['units'] for row in smallest], 0)} units, "
                f"{spread([row['test'] for row in smallest], 1, 100, '%')}",
                "cannot be judged",
                f"networks trained: {tried}; the last one a point below the best stops it. In "
                f"place, in one training: {_units(runs['rmsprop-pruned'])}",
            )
        )
    return rows


def _units(runs: Sequence[Result]) -> str:
    left = spread([sum(run["units"]) for run in runs], 0)
    return f"{left} units, {spread(accuracies(runs), 1, 100, '%')}"


def _epochs(runs: Runs) -> list[Claim]:
    rows = []
    for name, other, words in PAIRS:
        aims = [run["curve"][-1][1] for run in runs[name]]
        own, plain, afresh = (
            [reached(run, aim) for run, aim in zip(found, aims, strict=True)]
            for found in (runs[name], runs[other], [run["afresh"] for run in runs[name]])
        )
        rows.append(
            Claim(
                f"pruning takes fewer epochs to the same accuracy ({words})",
                "supposed",
                f"epochs: pruned {after(own)}; not pruned {after(plain)}",
                "holds" if fmean(own) < fmean(plain) else "does not hold",
                f"to the validation accuracy the pruned network ends with, "
                f"{spread(aims, 1, 100, '%')}; a new network of its size: {after(afresh)}",
            )
        )
    return rows


def _side_effects(runs: Runs) -> list[Claim]:
    rows = []
    for name, other, sort in PAIRS:
        pruned, plain = runs[name], runs[other]
        for words, one, two in (
            ("generalises better (gap between training and test)", _gap(plain), _gap(pruned)),
            ("is more robust (noise of deviation 0.25 on the inputs)",
             accuracies(pruned, "noise 0.25"), accuracies(plain, "noise 0.25")),
        ):  # fmt: skip
            told = paired(one, two)
            noisy = words.startswith("is more")
            whole, smaller = (two, one) if noisy else (one, two)
            worse = verdict(paired(accuracies(plain), accuracies(pruned))) == "holds"
            rows.append(
                Claim(
                    f"the pruned network {words}, {sort}",
                    "supposed",
                    told.words(2, 100, "points"),
                    verdict(told, "holds in part" if worse else "holds"),
                    f"not pruned {spread(whole, 1, 100, 'points')}, pruned "
                    f"{spread(smaller, 1, 100, 'points')}; test accuracy without noise "
                    f"{spread(accuracies(plain), 1, 100, '%')} and "
                    f"{spread(accuracies(pruned), 1, 100, '%')}",
                )
            )
    return rows


def _gap(runs: Sequence[Result]) -> list[float]:
    return [run["accuracy"]["train"] - run["accuracy"]["test"] for run in runs]
