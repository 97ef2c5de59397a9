"""Claims: how units are removed, what it costs, and the side effects of pruning."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from sentei.jobs.results import Result
from sentei.papers.claims import Claim, paired, spread
from sentei.papers.sensitivity.checks import FINISH
from sentei.papers.sensitivity.reading import Runs, accuracies, after, reached, verdict
from sentei.papers.sensitivity.timing import WAYS

PAIRS = (  # pruned run, run without pruning, label
    ("rmsprop-pruned", "sigmoid-rmsprop", "16-64-26"),
    ("deep-once", "deep", "16-60-45-30-26, one check"),
)


def ways(runs: Runs) -> list[Claim]:
    """Return rows on ways of removal, time, epochs, generalisation and robustness to noise."""
    return [
        _hack(runs),
        *(_time(runs[f"timed-{name}"], words) for name, words in (
            ("batches", "batches of 256"), ("whole", "all samples in one update"))),
        *_from_scratch(runs),
        *_restarts(runs),
        *_epochs(runs),
        *_side_effects(runs),
    ]  # fmt: skip


def _hack(runs: Runs) -> Claim:
    """Claim: setting the outgoing weights to zero once removes a unit."""
    delete, hack, mask = runs["deep-often"], runs["deep-hack"], runs["deep-mask"]
    ratios = [run["relearnt"] for run in hack]
    zeroed = spread([len(values) for values in ratios], 0)
    regrown = [fmean(value > 0.1 for value in values) for values in ratios]
    return Claim(
        "zeroing outgoing weights removes a unit",
        "said",
        f"{spread(regrown, 0, 100, '%')} of {zeroed} zeroed units are heard again at the end",
        "does not hold" if fmean(regrown) > 0 else "holds",
        "outgoing weights above a tenth of the median of units never zeroed; the median of zeroed "
        f"ones is {spread([median(values) for values in ratios], 2)} of it, since they have "
        f"gradients and are learnt anew. Test: hack {spread(accuracies(hack), 1, 100, '%')} with "
        f"all {hack[0]['parameters']:,} parameters, masked "
        f"{spread(accuracies(mask), 1, 100, '%')}, "
        f"deleted {spread(accuracies(delete), 1, 100, '%')} "
        f"with {spread([run['parameters'] for run in delete], 0)}",
    )


def _time(runs: Sequence[Result], words: str) -> Claim:
    """Claim: a pruned training takes less time than one without pruning."""
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
    """Return the epochs after the last check."""
    return seconds[int(FINISH * len(seconds)) + 1 :]


def _from_scratch(runs: Runs) -> list[Claim]:
    """Claims: pruning during training is better than training the smaller network from scratch."""
    rows = []
    for name, words in (
        ("deep-once", "16-60-45-30-26, one check"),
        ("deep-often", "16-60-45-30-26, seven checks"),
        ("deep-relu-often", "the same with ReLU"),
        ("rmsprop-pruned", "16-64-26"),
    ):
        afresh = [run["afresh"] for run in runs[name]]
        difference = paired(accuracies(runs[name]), accuracies(afresh))
        rows.append(
            Claim(
                f"pruning on the way is better than starting with so few ({words})",
                "not compared",
                difference.words(2, 100, "points"),
                verdict(difference),
                f"in place {spread(accuracies(runs[name]), 1, 100, '%')}, a new network of the "
                f"sizes left, as many epochs, {spread(accuracies(afresh), 1, 100, '%')}",
            )
        )
    return rows


def _restarts(runs: Runs) -> list[Claim]:
    """Claims: the smallest single hidden layer that version 2 finds."""
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
    """Format units left and test accuracy."""
    left = spread([sum(run["units"]) for run in runs], 0)
    return f"{left} units, {spread(accuracies(runs), 1, 100, '%')}"


def _epochs(runs: Runs) -> list[Claim]:
    """Claims: pruning takes fewer epochs to reach the same accuracy."""
    rows = []
    for name, other, words in PAIRS:
        aims = [run["curve"][-1][1] for run in runs[name]]
        pruned, not_pruned, afresh = (
            [reached(run, aim) for run, aim in zip(found, aims, strict=True)]
            for found in (runs[name], runs[other], [run["afresh"] for run in runs[name]])
        )
        rows.append(
            Claim(
                f"pruning takes fewer epochs to the same accuracy ({words})",
                "supposed",
                f"epochs: pruned {after(pruned)}; not pruned {after(not_pruned)}",
                "holds" if fmean(pruned) < fmean(not_pruned) else "does not hold",
                f"to the validation accuracy the pruned network ends with, "
                f"{spread(aims, 1, 100, '%')}; a new network of its size: {after(afresh)}",
            )
        )
    return rows


def _side_effects(runs: Runs) -> list[Claim]:
    """Claims: the pruned network generalises better, and is more robust to noise."""
    rows = []
    for name, other, network in PAIRS:
        pruned, plain = runs[name], runs[other]
        for words, one, two in (
            ("generalises better (gap between training and test)", _gap(plain), _gap(pruned)),
            ("is more robust (noise of deviation 0.25 on the inputs)",
             accuracies(pruned, "noise 0.25"), accuracies(plain, "noise 0.25")),
        ):  # fmt: skip
            difference = paired(one, two)
            noisy = words.startswith("is more")
            whole, smaller = (two, one) if noisy else (one, two)
            worse = verdict(paired(accuracies(plain), accuracies(pruned))) == "holds"
            rows.append(
                Claim(
                    f"the pruned network {words}, {network}",
                    "supposed",
                    difference.words(2, 100, "points"),
                    verdict(difference, "holds in part" if worse else "holds"),
                    f"not pruned {spread(whole, 1, 100, 'points')}, pruned "
                    f"{spread(smaller, 1, 100, 'points')}; test accuracy without noise "
                    f"{spread(accuracies(plain), 1, 100, '%')} and "
                    f"{spread(accuracies(pruned), 1, 100, '%')}",
                )
            )
    return rows


def _gap(runs: Sequence[Result]) -> list[float]:
    """Return training minus test accuracy of every run."""
    return [run["accuracy"]["train"] - run["accuracy"]["test"] for run in runs]
