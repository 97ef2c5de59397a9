"""Find sources that all units of a group share, such as a router that weighs whole vectors."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from sentei.network.tracing.decoding import Tracer
from sentei.network.tracing.inputs import Place
from sentei.network.tracing.links import groups_of
from sentei.network.tracing.replay import OUTPUT

SHARED = (
    "they act on all units of what they reach alike, such as a router or the one key of all heads"
)
ROWS = 2  # rows of a source that are tried alone


def shared_sources(tracer: Tracer) -> tuple[list[Place], list[Place]]:
    """Return sources that may be shared by all units of a group.

    The rows of such a source tie all units that it reaches together, although a unit can go without
    it. A source is left out only where other sources reach the same columns row by row: a norm over
    all units ties them too, and there every row of every source reaches them all.

    Returns:
        The sources of which every row reaches all that the source reaches, such as a router; and
        those that reach the same columns in part, one of which may be shared too, such as the one
        value of all heads.
    """
    found: list[Place] = []
    parts: list[Place] = []
    links, random = tracer.links, np.random.default_rng(0)
    listening = tracer.mixes.copy()
    listening[tracer.replay.readers[OUTPUT]] = False
    reached_by = tracer.reached()
    for label, places in _tied(tracer).items():
        columns = listening & (links.labels[tracer.node] == label)
        whole = {place: reached_by[place] & columns for place in places}
        everywhere, in_part = {}, {}
        for place, reached in whole.items():
            if not reached.any():
                continue
            rows = np.flatnonzero(links.labels[links.nodes(place)] == label)
            tried = random.choice(rows, min(ROWS, len(rows)), replace=False)
            if all(_alone(tracer, place, row)[reached].all() for row in tried):
                everywhere[place] = reached
            else:
                in_part[place] = reached
        both = [
            place
            for place, reached in everywhere.items()
            if any((reached & other).any() for other in in_part.values())
        ]
        found += both
        parts += in_part if both else ()
    return list(dict.fromkeys(found)), list(dict.fromkeys(parts))


def _alone(tracer: Tracer, place: Place, row: int) -> np.ndarray:
    """Return which columns read one row of a source."""
    rows = len(tracer.replay.sources[place].codes)
    return tracer.replay.nan_columns({place: np.arange(rows) == row})


def _tied(tracer: Tracer) -> dict[int, list[Place]]:
    """Return the sources of units that have rows of several, of one of them two at least, by label.

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
    several = {label: found[label] for label in sorted(wide) if len(found[label]) > 1}
    if not several:
        return {}
    groups = groups_of(tracer.links, tracer.replay)
    members = Counter(groups[groups >= 0].tolist())
    return {label: places for label, places in several.items() if members[groups[label]] < 2}
