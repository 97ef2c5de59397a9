"""Which rows, columns and norms belong together."""

from __future__ import annotations

import numpy as np

from sentei.network.tracing.inputs import Place
from sentei.network.tracing.replay import OUTPUT, Replay


class Links:
    """A union-find over the positions ("nodes") of all places of a network.

    Attributes:
        offset: where each place's positions begin among all nodes.
        labels: (nodes,) the lowest node that each one is linked to: its unit.
        crowded: (nodes,) bool: columns that hear several rows of one source.
    """

    def __init__(self, replay: Replay):
        """Link only what belongs together whatever is heard: biases, groups of a convolution."""
        sizes = {place: len(source.codes) for place, source in replay.sources.items()}
        for place, part in replay.readers.items():
            sizes.setdefault(place, 1 if place == OUTPUT else part.stop - part.start)
        for (first, second), times in replay.aligned.items():
            sizes.setdefault(second, sizes[first] * times)
        ends = np.cumsum([0, *sizes.values()])
        self.offset: dict[Place, int] = dict(zip(sizes, ends[:-1].tolist(), strict=True))
        self.labels = np.arange(ends[-1])
        self.crowded = np.zeros(ends[-1], bool)
        self._sizes = sizes
        self._listening = np.concatenate(
            [self.nodes(place) for place in (OUTPUT, *replay.listeners)]
        )
        for (first, second), times in replay.aligned.items():
            self.join(np.tile(self.nodes(first), times), self.nodes(second))
        for place, groups in replay.in_step.items():
            nodes = self.nodes(place).reshape(groups, -1)
            self.join(nodes.ravel(), np.tile(nodes[0], groups))

    def nodes(self, place: Place) -> np.ndarray:
        """(size,) the nodes of a place's positions."""
        return self.offset[place] + np.arange(self._sizes[place])

    @property
    def count(self) -> int:
        """How many units there are, positions without any link included."""
        return int((self.labels == np.arange(len(self.labels))).sum())

    @property
    def has_readers(self) -> np.ndarray:
        """(nodes,) bool: for a label, whether the unit has columns that mix what they hear."""
        heard = np.zeros(len(self.labels), bool)
        heard[self.labels[self._listening]] = True
        return heard

    def join(self, some: np.ndarray, others: np.ndarray) -> None:
        """Link each node of one array with the node at the same place in the other."""
        labels = self.labels
        while len(some):
            low = np.minimum(labels[some], labels[others])
            for ends in (some, others):
                np.minimum.at(labels, labels[ends], low)
            while (labels[labels] != labels).any():
                labels[:] = labels[labels]
            apart = labels[some] != labels[others]
            some, others = some[apart], others[apart]


def agreement(key: np.ndarray, value: np.ndarray, keys: int) -> np.ndarray:
    """(keys,) the value that all entries of a key share; -1 where they differ or there are none."""
    low, high = np.full(keys, np.iinfo(np.int64).max), np.full(keys, -1)
    np.minimum.at(low, key, value)
    np.maximum.at(high, key, value)
    return np.where(low == high, low, -1)
