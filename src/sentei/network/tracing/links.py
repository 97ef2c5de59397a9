"""Collect which rows, columns, biases and norm entries belong to the same unit."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from sentei.network.tracing.inputs import INPUT, Place
from sentei.network.tracing.replay import OUTPUT, Replay

Signature = tuple[tuple[str, Place, int], ...]  # (role, place, positions of a unit there)


class Links:
    """A union-find over all rows, columns and entries of a network's tensors: which form one unit.

    A place is one dimension of one parameter, buffer or input; its positions are the nodes of the
    union-find. All output elements share one node.

    Attributes:
        offset: the first node of each place.
        labels: (nodes,) the lowest node that each node is linked with: the label of its unit.
        crowded: (nodes,) bool: columns that read NaN in more of the coded replays than a single row
            explains, as when they read several rows of one source.
        barred: why nodes were linked with the outputs without reaching one, by node.
    """

    def __init__(self, replay: Replay):
        """Link what belongs together without any replay: biases and groups of a convolution."""
        sizes = {place: len(source.codes) for place, source in replay.sources.items()}
        for place, part in replay.readers.items():
            sizes.setdefault(place, 1 if place == OUTPUT else part.stop - part.start)
        for (first, second), times in replay.aligned.items():
            sizes.setdefault(second, sizes[first] * times)
        for place, size in replay.slices.items():
            sizes.setdefault(place, size)
        ends = np.cumsum([0, *sizes.values()])
        self.offset: dict[Place, int] = dict(zip(sizes, ends[:-1].tolist(), strict=True))
        self.labels = np.arange(ends[-1])
        self.crowded = np.zeros(ends[-1], bool)
        self.barred: dict[int, str] = {}
        self._sizes = sizes
        self._reading_nodes = np.concatenate(
            [self.nodes(place) for place in (OUTPUT, *replay.listeners)]
        )
        for (first, second), times in replay.aligned.items():
            self.join(np.tile(self.nodes(first), times), self.nodes(second))
        for places in replay.of_one_size.values():
            for place in places[1:]:
                self.join(self.nodes(places[0]), self.nodes(place))
        for place, groups in replay.in_step.items():
            nodes = self.nodes(place).reshape(groups, -1)
            self.join(nodes.ravel(), np.tile(nodes[0], groups))

    def nodes(self, place: Place) -> np.ndarray:
        """Return the nodes of a place's positions, (size,) int64."""
        return self.offset[place] + np.arange(self._sizes[place])

    @property
    def count(self) -> int:
        """Number of units so far; a node without any link counts as one."""
        return int((self.labels == np.arange(len(self.labels))).sum())

    @property
    def has_readers(self) -> np.ndarray:
        """(nodes,) bool: for a unit's label, whether a listener or an output reads the unit."""
        read = np.zeros(len(self.labels), bool)
        read[self.labels[self._reading_nodes]] = True
        return read

    def join(self, some: np.ndarray, others: np.ndarray) -> None:
        """Link each node of `some` with the node at the same position of `others`."""
        labels = self.labels
        while len(some):
            low = np.minimum(labels[some], labels[others])
            for ends in (some, others):
                np.minimum.at(labels, labels[ends], low)
            while (labels[labels] != labels).any():
                labels[:] = labels[labels]
            apart = labels[some] != labels[others]
            some, others = some[apart], others[apart]

    def bar_(self, nodes: np.ndarray, why: str) -> None:
        """Link nodes with the outputs, so that their units are not offered; note the reason."""
        output = self.labels[self.offset[OUTPUT]]
        barred = np.isin(self.labels, np.setdiff1d(self.labels[nodes], output))
        self.barred.update(dict.fromkeys(np.flatnonzero(barred).tolist(), why))
        self.join(nodes, np.full(len(nodes), output))


def agreement(key: np.ndarray, value: np.ndarray, keys: int) -> np.ndarray:
    """Return for each key the value that all its entries share, (keys,) int64.

    -1 where the entries of a key differ, and where a key has none.
    """
    low, high = np.full(keys, np.iinfo(np.int64).max), np.full(keys, -1)
    np.minimum.at(low, key, value)
    np.maximum.at(high, key, value)
    return np.where(low == high, low, -1)


def roles(replay: Replay) -> list[tuple[str, Place]]:
    """Return every place with its role ("input", "producer", "follower", "listener").

    Producers and inputs come first. The biases of a producer are producers too.
    """
    aligned_with = defaultdict(list)
    for first, second in replay.aligned:
        aligned_with[first].append(second)
    found = []
    for place in replay.sources:
        role = "input" if place[1] == INPUT else "producer"
        found += [(role, place), *((role, other) for other in aligned_with[place])]
    for place in replay.readers:
        if place in replay.listeners:
            found.append(("listener", place))
        elif place != OUTPUT:
            found += [("follower", place), *(("follower", other) for other in aligned_with[place])]
    return list(dict.fromkeys(found))


def alike(having: list[tuple[str, Place]], links: Links) -> list[tuple[Signature, np.ndarray]]:
    """Return the units by signature, by their labels; those that are part of an output left out.

    A signature holds each place where a unit has positions, with its role and how many. Signatures
    and units are in the order of the units' first positions.

    Args:
        having: the places with their roles.
        links: the units.
    """
    entries: list[tuple[str, Place, int]] = []
    at, held = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for role, place in having:
        units, first, count = np.unique(
            links.labels[links.nodes(place)], return_index=True, return_counts=True
        )
        order = np.argsort(first)
        counts, number = np.unique(count, return_inverse=True)
        at.append(units[order])
        held.append(len(entries) + number[order])
        entries += [(role, place, each) for each in counts.tolist()]
    every, numbers = np.concatenate(at), np.concatenate(held)
    inner = every != links.labels[links.offset[OUTPUT]]
    units, first, unit = np.unique(every[inner], return_index=True, return_inverse=True)
    order = np.argsort(unit, kind="stable")
    ends = np.cumsum(np.bincount(unit, minlength=len(units)))
    numbers = numbers[inner][order]
    found: dict[bytes, list[int]] = defaultdict(list)
    for each in np.argsort(first).tolist():
        found[numbers[ends[each - 1] if each else 0 : ends[each]].tobytes()].append(each)
    return [
        (tuple(entries[number] for number in np.frombuffer(key, numbers.dtype)), units[some])
        for key, some in found.items()
    ]


def groups_of(links: Links, replay: Replay) -> np.ndarray:
    """Return the number of the group of each unit by its label, (nodes,); -1 for what is no unit.

    Units of one group have the same signature.
    """
    found = np.full(len(links.labels), -1)
    for number, (signature, units) in enumerate(alike(roles(replay), links)):
        if {"producer", "input"} & {role for role, _, _ in signature}:
            found[units] = number
    return found
