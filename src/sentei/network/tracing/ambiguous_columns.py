"""Resolve which candidate rows the ambiguous columns read: choose replays, draw conclusions.

A column is *ambiguous* while several rows are candidates for what it reads. A *class* of columns
are columns that read NaN in the same replays.
"""

from __future__ import annotations

import numpy as np

from sentei.network.tracing.links import Links, agreement


class AmbiguousColumns:
    """Columns that may read one of several rows, in classes that read NaN in the same replays.

    A candidate is a pair (class, row): the columns of the class may read the row. A pair is open
    while these columns are not linked with the row. A replay excludes the hot rows for each column
    that reads no NaN in it. A column is linked with a unit if it must read one of the unit's rows.
    A row that no column is known to read is linked with a unit if only columns of that unit can
    read it.

    Attributes:
        links: joined after each replay.
        start: (nodes,) the first node of the source that a row is in.
        position: (columns,) where each ambiguous column is in the vectors that a replay returns.
        node: (columns,) the node of each ambiguous column.
    """

    def __init__(
        self,
        links: Links,
        start: np.ndarray,
        columns: tuple[np.ndarray, np.ndarray, np.ndarray],
        pairs: tuple[np.ndarray, np.ndarray],
    ):
        """Start with the candidates that the codes did not exclude.

        Args:
            links: joined after each replay.
            start: (nodes,) the first node of the source that a row is in.
            columns: position in a replay's vectors, node and class of each ambiguous column, each
                (columns,).
            pairs: class and row (as a node) of each candidate, each (pairs,).
        """
        self.links, self.start = links, start
        self.position, self.node, self._class = columns
        self._pair_class, self._pair_row = pairs
        self._random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._pair_row)

    def next_rows(self, width: int) -> np.ndarray:
        """Choose the rows to write NaN into next, (nodes,) bool: one block at most for each class.

        Args:
            width: number of rows in a block.
        """
        start = self.start[self._pair_row]
        block = start + (self._pair_row - start) // width
        useful = np.zeros(len(self.links.labels), bool)
        useful[block[self._is_open()]] = True
        eligible = useful[block]
        chosen = _independent(self._pair_class[eligible], block[eligible], self._random)
        hot = np.zeros(len(self.links.labels), bool)
        hot[self._pair_row[eligible][chosen]] = True
        return hot

    def record_answer_(self, hot: np.ndarray, read_nan: np.ndarray) -> None:
        """Split classes and exclude candidates by the NaN that one replay produced.

        Args:
            hot: (nodes,) bool: which rows were hot.
            read_nan: (columns,) bool: which ambiguous columns read NaN, and so a hot row.
        """
        answers = np.zeros((self._class_count, 2), bool)
        answers[self._class, read_nan.astype(int)] = True
        # Each class splits in two: columns that read a hot row (odd numbers), and columns that do
        # not (even numbers), for which the hot rows are no candidates any more.
        self._class = 2 * self._class + read_nan
        reads = answers[self._pair_class, 1]
        reads_not = answers[self._pair_class, 0] & ~hot[self._pair_row]
        self._pair_class = np.concatenate(
            [2 * self._pair_class[reads] + 1, 2 * self._pair_class[reads_not]]
        )
        self._pair_row = np.concatenate([self._pair_row[reads], self._pair_row[reads_not]])
        self._join_readers(hot[self._pair_row] & (self._pair_class % 2 == 1))
        self._renumber()

    def settle_(self) -> None:
        """Link what follows from the candidates without another replay; drop settled columns."""
        before = -1
        while len(self) and before != (before := self.links.count):
            # A column reads at least one row of every source in which it has candidates.
            source = self.start[self._pair_row]
            for first in np.unique(source):
                self._join_readers(source == first)
            self._join_unread_rows()
            self._drop_settled()

    @property
    def _class_count(self) -> int:
        return int(self._class.max(initial=-1)) + 1

    def _units(self) -> np.ndarray:
        """Return the unit that the columns of each class are in, (classes,); -1 if in several."""
        return agreement(self._class, self.links.labels[self.node], self._class_count)

    def _is_open(self) -> np.ndarray:
        """Return which pairs are not linked yet, (pairs,) bool."""
        return self._units()[self._pair_class] != self.links.labels[self._pair_row]

    def _join_readers(self, at: np.ndarray) -> None:
        """Link columns that read at least one of the candidates `at`, if all are of one unit.

        Args:
            at: (pairs,) bool.
        """
        unit = agreement(
            self._pair_class[at], self.links.labels[self._pair_row[at]], self._class_count
        )
        certain = unit[self._class] >= 0
        self.links.join(self.node[certain], unit[self._class[certain]])

    def _join_unread_rows(self) -> None:
        """Link units that no column reads yet with the one unit whose columns may read them."""
        labels = self.links.labels
        unread = ~self.links.has_readers[labels[self._pair_row]]
        unit = self._units()[self._pair_class[unread]]
        only_reader = agreement(labels[self._pair_row[unread]], unit, len(labels))
        rows = np.flatnonzero(only_reader >= 0)
        self.links.join(rows, only_reader[rows])

    def _drop_settled(self) -> None:
        """Drop the classes without an open pair, with their columns and pairs."""
        ambiguous = np.zeros(self._class_count, bool)
        ambiguous[self._pair_class[self._is_open()]] = True
        columns, pairs = ambiguous[self._class], ambiguous[self._pair_class]
        self.position, self.node = self.position[columns], self.node[columns]
        self._class = self._class[columns]
        self._pair_class, self._pair_row = self._pair_class[pairs], self._pair_row[pairs]
        self._renumber()

    def _renumber(self) -> None:
        """Number the classes from 0 without gaps."""
        numbers, self._class = np.unique(self._class, return_inverse=True)
        self._pair_class = np.searchsorted(numbers, self._pair_class)


def _independent(
    pair_class: np.ndarray, block: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Choose blocks so that no class has pairs in two of them; return the pairs in them.

    Blocks with more pairs come first; ties are in random order.

    Args:
        pair_class: (pairs,) the class of each pair.
        block: (pairs,) the block that the row of each pair is in.
        random: draws the order of ties.

    Returns:
        (pairs,) bool: which pairs are in the chosen blocks.
    """
    chosen, free = np.zeros(len(block), bool), np.ones(len(block), bool)
    classes, blocks = int(pair_class.max(initial=-1)) + 1, int(block.max(initial=-1)) + 1
    order = random.permutation(blocks)
    order = order[np.argsort(-np.bincount(block, minlength=blocks)[order], kind="stable")]
    rank = np.empty(blocks, np.int64)
    rank[order] = np.arange(blocks)
    while free.any():
        # A block is chosen if it is the first of the remaining ones for each of its classes.
        best = np.full(classes, blocks)
        np.minimum.at(best, pair_class[free], rank[block[free]])
        loses = np.zeros(blocks, bool)
        loses[block[free & (rank[block] > best[pair_class])]] = True
        wins = free & ~loses[block]
        chosen |= wins
        served, excluded = np.zeros(classes, bool), np.zeros(blocks, bool)
        served[pair_class[wins]] = True
        excluded[block[served[pair_class]]] = True
        free &= ~excluded[block]
    return chosen
