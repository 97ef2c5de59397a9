"""Columns that may hear several rows: what to ask about them next, and what an answer settles."""

from __future__ import annotations

import numpy as np

from sentei.network.tracing.links import Links, agreement


class AmbiguousColumns:
    """Columns whose rows are not settled, in kinds that have answered every pass alike.

    A pair (kind, row) is open while columns of this kind may hear the row and are not linked with
    it. Rows are only ever excluded by silence; a column is linked only with what it has heard, or
    with what nobody else can have.
    """

    def __init__(
        self,
        links: Links,
        start: np.ndarray,
        columns: tuple[np.ndarray, np.ndarray, np.ndarray],
        pairs: tuple[np.ndarray, np.ndarray],
    ):
        """Begin with what the codes have left open.

        Args:
            links: joined as answers come in.
            start: (nodes,) the first node of the source that a row is in.
            columns: for each column in doubt its position in a replay's vectors, node and kind.
            pairs: the kinds and the rows (as nodes) of all candidates.
        """
        self.links, self.start = links, start
        self.position, self.node, self._kind = columns
        self._pair_kind, self._pair_row = pairs
        self._random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._pair_row)

    def next_rows(self, width: int) -> np.ndarray:
        """(nodes,) bool: rows to make hot, at most one block of `width` rows for each kind."""
        start = self.start[self._pair_row]
        block = start + (self._pair_row - start) // width
        useful = np.zeros(len(self.links.labels), bool)
        useful[block[self._is_open()]] = True
        asked = useful[block]
        chosen = _independent(self._pair_kind[asked], block[asked], self._random)
        hot = np.zeros(len(self.links.labels), bool)
        hot[self._pair_row[asked][chosen]] = True
        return hot

    def record_answer_(self, hot: np.ndarray, heard: np.ndarray) -> None:
        """Conclude from one pass.

        Args:
            hot: (nodes,) bool: the rows that were.
            heard: (columns,) bool: which columns in doubt heard any of them.
        """
        answers = np.zeros((self._kinds, 2), bool)
        answers[self._kind, heard.astype(int)] = True
        # Each kind becomes two: those who heard, and those who did not and so lose candidates.
        self._kind = 2 * self._kind + heard
        loud = answers[self._pair_kind, 1]
        quiet = answers[self._pair_kind, 0] & ~hot[self._pair_row]
        self._pair_kind = np.concatenate(
            [2 * self._pair_kind[loud] + 1, 2 * self._pair_kind[quiet]]
        )
        self._pair_row = np.concatenate([self._pair_row[loud], self._pair_row[quiet]])
        self._join_readers(hot[self._pair_row] & (self._pair_kind % 2 == 1))
        self._renumber()

    def settle_(self) -> None:
        """Conclude what follows without another pass, until nothing more does."""
        before = -1
        while len(self) and before != (before := self.links.count):
            # A column hears every source that it has candidates in.
            source = self.start[self._pair_row]
            for first in np.unique(source):
                self._join_readers(source == first)
            self._join_unread_rows()
            self._drop_settled()

    @property
    def _kinds(self) -> int:
        return int(self._kind.max(initial=-1)) + 1

    def _units(self) -> np.ndarray:
        """(kinds,) the unit that all columns of a kind belong to; -1 where there are several."""
        return agreement(self._kind, self.links.labels[self.node], self._kinds)

    def _is_open(self) -> np.ndarray:
        return self._units()[self._pair_kind] != self.links.labels[self._pair_row]

    def _join_readers(self, at: np.ndarray) -> None:
        """Link columns that hear at least one of these candidates, if those are all of one unit."""
        unit = agreement(self._pair_kind[at], self.links.labels[self._pair_row[at]], self._kinds)
        known = unit[self._kind] >= 0
        self.links.join(self.node[known], unit[self._kind[known]])

    def _join_unread_rows(self) -> None:
        """Link rows that have no hearers yet with the unit whose columns alone may hear them."""
        labels = self.links.labels
        loose = ~self.links.has_readers[labels[self._pair_row]]
        unit = self._units()[self._pair_kind[loose]]
        adopter = agreement(labels[self._pair_row[loose]], unit, len(labels))
        rows = np.flatnonzero(adopter >= 0)
        self.links.join(rows, adopter[rows])

    def _drop_settled(self) -> None:
        doubtful = np.zeros(self._kinds, bool)
        doubtful[self._pair_kind[self._is_open()]] = True
        columns, pairs = doubtful[self._kind], doubtful[self._pair_kind]
        self.position, self.node = self.position[columns], self.node[columns]
        self._kind = self._kind[columns]
        self._pair_kind, self._pair_row = self._pair_kind[pairs], self._pair_row[pairs]
        self._renumber()

    def _renumber(self) -> None:
        kinds, self._kind = np.unique(self._kind, return_inverse=True)
        self._pair_kind = np.searchsorted(kinds, self._pair_kind)


def _independent(kind: np.ndarray, block: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(pairs,) bool: blocks of which no kind has two; those that most pairs are about go first."""
    chosen, free = np.zeros(len(kind), bool), np.ones(len(kind), bool)
    kinds, blocks = int(kind.max(initial=-1)) + 1, int(block.max(initial=-1)) + 1
    order = random.permutation(blocks)
    order = order[np.argsort(-np.bincount(block, minlength=blocks)[order], kind="stable")]
    rank = np.empty(blocks, np.int64)
    rank[order] = np.arange(blocks)
    while free.any():
        best = np.full(kinds, blocks)
        np.minimum.at(best, kind[free], rank[block[free]])
        loses = np.zeros(blocks, bool)
        loses[block[free & (rank[block] > best[kind])]] = True
        wins = free & ~loses[block]
        chosen |= wins
        taken, gone = np.zeros(kinds, bool), np.zeros(blocks, bool)
        taken[kind[wins]] = True
        gone[block[taken[kind]]] = True
        free &= ~gone[block]
    return chosen
