"""Find rows that all units of a group share, such as a router that weighs whole vectors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from sentei.network.tracing.decoding import Tracer
from sentei.network.tracing.inputs import Place
from sentei.network.tracing.links import groups_of
from sentei.network.tracing.replay import OUTPUT

ROWS = 2  # rows of a source that are tried alone
SAMPLES = 65  # rows of a source that are tried to find where one kind of rows ends

Rows = dict[Place, np.ndarray]  # rows of sources, (rows,) bool


@dataclass(frozen=True, eq=False)
class Run:
    """Rows of one source, one after another.

    Attributes:
        place: the source.
        rows: their numbers, ascending.
        everywhere: whether each reaches all that the source reaches of these units.
    """

    place: Place
    rows: np.ndarray
    everywhere: bool


def shared_rows(tracer: Tracer) -> list[Rows]:
    """Return ways to take some rows for shared by all units that they reach, the plainest first.

    Such rows tie all units that they reach together, although a unit can go without them: a router,
    the one key of all heads, the part of a packed weight that computes it. Rows are left out only
    where others reach the same columns row by row: a norm over all units ties them too, and there
    every row of every source reaches them all.

    Returns:
        First the rows that reach all that their source reaches. Where what remains still divides
        the same columns in two ways, as queries by head and values by their position in a head,
        then these with one of the two.
    """
    whole: Rows = {}
    divided: list[list[Run]] = []
    listening = tracer.mixes.copy()
    listening[tracer.replay.readers[OUTPUT]] = False
    reached_by = tracer.reached()
    for label, places in _tied(tracer).items():
        columns = listening & (tracer.links.labels[tracer.node] == label)
        reached = {place: reached_by[place] & columns for place in places}
        runs = _runs(tracer, label, {p: some for p, some in reached.items() if some.any()})
        shared = [run for run in runs if run.everywhere and _is_divided(run, runs, reached)]
        for run in shared:
            _add_(whole, tracer, run)
        if shared:
            divided.append(_dividing_otherwise(tracer, columns, runs))
    ways = [whole] if whole else []
    for number in range(max(map(len, divided), default=0)):
        ways.append({place: rows.copy() for place, rows in whole.items()})
        for runs in divided:
            _add_(ways[-1], tracer, *runs[number : number + 1])
    return ways


def _add_(found: Rows, tracer: Tracer, *runs: Run) -> None:
    for run in runs:
        count = len(tracer.replay.sources[run.place].codes)
        found.setdefault(run.place, np.zeros(count, bool))[run.rows] = True


def _runs(tracer: Tracer, label: int, reached: Rows) -> list[Run]:
    """Return the runs of rows of a unit, of each of its sources, alike in what they reach.

    A source is searched for where runs end only if some of its rows reach a part of what it
    reaches: most tied units are tied by a norm, and all their rows reach everything.
    """
    links, random = tracer.links, np.random.default_rng(0)
    found: list[Run] = []
    for place, columns in reached.items():
        rows = np.flatnonzero(links.labels[links.nodes(place)] == label)

        def is_everywhere(at: int, place: Place = place, rows=rows, columns=columns) -> bool:
            return bool(_alone(tracer, place, rows[at])[columns].all())

        tried = random.choice(len(rows), min(ROWS, len(rows)), replace=False)
        if all(map(is_everywhere, tried)):
            found.append(Run(place, rows, everywhere=True))
        else:
            found += _runs_of(place, rows, is_everywhere)
    return found


def _runs_of(place: Place, rows: np.ndarray, is_everywhere: Callable[[int], bool]) -> list[Run]:
    """Return the runs of one source: rows are sampled, and the ends of runs found by bisection."""
    at = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).round().astype(int))
    kinds = {int(each): is_everywhere(int(each)) for each in at}
    ends = []
    for low, high in pairwise(kinds):
        first, last = low, high
        while kinds[low] != kinds[high] and last - first > 1:
            middle = (first + last) // 2
            first, last = (middle, last) if is_everywhere(middle) == kinds[low] else (first, middle)
        ends += [last] if kinds[low] != kinds[high] else []
    bounds = [0, *ends, len(rows)]
    first = kinds[0]
    return [
        Run(place, rows[low:high], everywhere=first == (number % 2 == 0))
        for number, (low, high) in enumerate(pairwise(bounds))
    ]


def _is_divided(run: Run, runs: Sequence[Run], reached: Rows) -> bool:
    """Return whether other rows reach what a run reaches row by row."""
    others = (other.place for other in runs if not other.everywhere)
    return any((reached[run.place] & reached[place]).any() for place in others)


def _dividing_otherwise(tracer: Tracer, columns: np.ndarray, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that divide columns in another way than a run before or behind them does."""
    in_part = [run for run in runs if not run.everywhere]
    reach = [[_alone(tracer, r.place, r.rows[at]) & columns for at in (0, -1)] for r in in_part]
    found: dict[int, None] = {}
    for one, other in combinations(range(len(in_part)), 2):
        pairs = zip(reach[one], reach[other], strict=True)
        if any((a & b).any() and (a != b).any() for a, b in pairs):
            found |= {one: None, other: None}
    return [in_part[number] for number in found]


def _alone(tracer: Tracer, place: Place, row: int) -> np.ndarray:
    """Return which columns read one row of a source."""
    rows = len(tracer.replay.sources[place].codes)
    return tracer.replay.nan_columns({place: np.arange(rows) == row})


def _tied(tracer: Tracer) -> dict[int, list[Place]]:
    """Return the sources of units that have several rows of one, by label.

    Units that have others like them (attention heads) are left out: they are not tied together.
    """
    found: dict[int, list[Place]] = defaultdict(list)
    wide: set[int] = set()
    for place in tracer.replay.sources:
        own = tracer.links.labels[tracer.links.nodes(place)]
        labels, count = np.unique(own, return_counts=True)
        wide.update(labels[count > 1].tolist())
        for label in labels.tolist():
            found[label].append(place)
    if not wide:
        return {}
    groups = groups_of(tracer.links, tracer.replay)
    members = Counter(groups[groups >= 0].tolist())
    return {label: found[label] for label in sorted(wide) if members[groups[label]] < 2}
