"""The tables of the study's page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from torch import Tensor

from sentei.papers.claims import spread
from sentei.papers.study.judging import BOTH, PLAIN, REPAIRED, RETRAINED
from sentei.papers.study.ranks import average_ranks
from sentei.papers.study.reading import (
    NEW,
    PRUNED_WHILE_TRAINED,
    REPAIRED_WHILE_TRAINED,
    WAYS,
    Study,
    Way,
)
from sentei.papers.study.tasks import VARIANTS, task
from sentei.papers.study.ways import UNITS

TRAINED = (PRUNED_WHILE_TRAINED, REPAIRED_WHILE_TRAINED)


def _shown(study: Study) -> list[Way]:
    """Return the columns: the iterative ways, and those while training, that were measured."""
    ways = (PLAIN, REPAIRED, RETRAINED, BOTH, *TRAINED)
    return [way for way in ways if study.measured(way)]


def tasks(study: Study) -> str:
    """Return a table of the tasks: networks, sizes, quality whole and at the operating points."""
    counted = "parameters" if study.members == UNITS else study.members
    head = ["task", "units", counted, "whole", *(f"new, {p} %" for p in study.what.points)]
    lines = []
    for name in study.tasks:
        networks = [n for n in study.networks if n.task == name]
        found = [study.networks[n] for n in networks]
        sizes = [f"{parameters:,}" for parameters, _ in found[0]["sizes"]]
        whole = spread([each["whole"][0] for each in found], 1, 100)
        new = [study.paths[NEW, n, ""] for n in networks]
        points = [
            f"{100 * statistics.fmean(p[i][0] for p in new):.1f}"
            for i, _ in enumerate(study.what.points)
        ]
        widths = "-".join(map(str, task(name).widths))
        parameters = f"{sizes[0]} to {sizes[-1]}"
        lines.append([name, widths, parameters, whole, *points])
    return _table(head, lines)


def criteria(study: Study) -> str:
    """Return a table of the criteria: quality in each way, average rank, and what they cost."""
    shown = _shown(study)
    head = ["criterion", *(str(way) for way in shown), "agrees", "seconds"]
    order: dict[str, float] = {}
    ranks: dict[Way, dict[str, str]] = {}
    for way in shown:
        names, _, qualities = study.qualities(way)
        means, places = qualities.mean(0).tolist(), average_ranks(qualities).tolist()
        ranks[way] = {
            name: f"{100 * mean:.1f} ({place:.1f})"
            for name, mean, place in zip(names, means, places, strict=True)
        }
        if way == REPAIRED or not order:
            order = dict(zip(names, means, strict=True))
    lines = []
    for name in sorted(study.criteria, key=lambda each: -order.get(each, 0)):
        cells = [ranks.get(way, {}).get(name, "") for way in shown]
        known = [found for (_, each), found in study.scoring.items() if each == name]
        agrees = statistics.fmean(agreement for _, agreement in known)
        lines.append([name, *cells, f"{agrees:+.2f}", _seconds(study, name)])
    return _table(head, lines)


def _seconds(study: Study, name: str) -> str:
    """Return what a scoring takes, against the reference on the same network: the median."""
    shares = [
        seconds / study.scoring[network, study.what.reference][0]
        for (network, each), (seconds, _) in study.scoring.items()
        if each == name
    ]
    return f"{statistics.median(shares):.2f}"


def ways(study: Study) -> str:
    """Return a table of the ways: means over all criteria, of the best, magnitude and random."""
    wanted = [*dict.fromkeys((study.what.reference, "magnitude", "random"))]
    head = ["way", "networks", "mean of all criteria", "best", *wanted]
    lines = []
    for way in (*WAYS, *TRAINED, NEW):
        if way == NEW:
            found = [study.quality(way, n, "") for n in study.measured(way)]
            lines.append([str(way), str(len(found)), _percent(found), *[""] * (len(wanted) + 1)])
            continue
        names, networks, qualities = study.qualities(way)
        if not networks:
            continue
        means = qualities.mean(0)
        best = int(means.argmax())
        known = dict(zip(names, means.tolist(), strict=True))
        named = [f"{100 * known[name]:.1f}" if name in known else "" for name in wanted]
        middle = f"{100 * means.mean():.1f}"
        counted = str(len(networks))
        lines.append([str(way), counted, middle, f"{100 * means[best]:.1f} {names[best]}", *named])
    return _table(head, lines)


def _percent(found: Sequence[float | None]) -> str:
    known = [quality for quality in found if quality is not None]
    return f"{100 * statistics.fmean(known):.1f}"


def settings(study: Study) -> str:
    """Return a table of changed settings: which criteria are best, and what ablation gains."""
    head = ["setting", "whole", "effective rank", "best", "best, least squares", "spread", "gain"]
    lines = []
    for name in ("mnist mlp", *VARIANTS):
        own = [n for n in study.networks if n.task == name]
        if not own:
            continue
        plain, repaired = (study.qualities(way, [name]) for way in (PLAIN, REPAIRED))
        if not (plain[1] and repaired[1]):
            continue
        rank = statistics.fmean(r for n in own for r in study.networks[n]["ranks"])
        whole = 100 * statistics.fmean(study.networks[n]["whole"][0] for n in own)
        firsts = [_best(each[0], each[2]) for each in (plain, repaired)]
        random = plain[2][:, plain[0].index("random")]
        apart = 100 * float(plain[2].mean(0).max() - random.mean())
        gain = 100 * float(repaired[2].mean() - plain[2].mean())
        cells = [f"{whole:.1f}", f"{100 * rank:.0f} %", *firsts, f"{apart:.1f}", f"{gain:+.1f}"]
        lines.append([name, *cells])
    return _table(head, lines)


def _best(names: Sequence[str], qualities: Tensor) -> str:
    """Return the two criteria of the best average ranks, with these."""
    ranks = average_ranks(qualities)
    order = ranks.argsort(stable=True)[:2].tolist()
    return ", ".join(f"{names[i]} {ranks[i]:.1f}" for i in order)


def by_task(study: Study) -> str:
    """Return a table of each task's best two criteria, without and with repair."""
    shown = _shown(study)
    head = ["task", "seeds", *(str(way) for way in shown)]
    lines = []
    for name in study.tasks:
        cells = []
        for way in shown:
            found = study.qualities(way, [name])
            cells.append(_best(found[0], found[2]) if found[1] else "")
        seeds = len({n.seed for n in study.networks if n.task == name})
        lines.append([name, str(seeds), *cells])
    return _table(head, lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines)) + "\n"
