"""Who hears whom: from a few dozen passes, each with its own rows hot, to the units of a network.

A column that stayed silent in a pass hears none of the rows that were hot in it. Codes make these
exclusions add up: after one pass for each source and two for each bit of a row's number, almost
every column has one candidate left in each source that it hears at all. The few columns that hear
many rows (an attention head, a normalisation group) are asked further questions, all at once, until
no answer could change which rows and columns belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sentei.errors import StructureError
from sentei.network.tracing.ambiguous_columns import AmbiguousColumns
from sentei.network.tracing.inputs import Place, Source
from sentei.network.tracing.links import Links
from sentei.network.tracing.replay import OUTPUT, Replay

CHECKS = 4  # passes of random codes at the end, one bit for each unit


class Tracer:
    """Asks a replay until the links are settled."""

    def __init__(self, replay: Replay):
        self.replay = replay
        self.reads_any = np.zeros(replay.width, bool)
        self.links = Links(replay)
        self.node = np.empty(replay.width, np.int64)
        self.mixes = np.zeros(replay.width, bool)
        for place, part in replay.readers.items():
            self.node[part] = 0 if place == OUTPUT else np.arange(part.stop - part.start)
            self.node[part] += self.links.offset[place]
            self.mixes[part] = place == OUTPUT or place in replay.listeners
        self.start = np.zeros(len(self.links.labels), np.int64)
        for place in replay.sources:
            self.start[self.links.nodes(place)] = self.links.offset[place]

    def trace(self) -> Links:
        """The links, checked.

        Raises:
            StructureError: a pass contradicts them.
        """
        self._refuse(
            self.replay.nan_columns({}), "reads NaN on the example itself; pass another example"
        )
        self._refuse(
            self.replay.changed_columns({}, 0), "reads other numbers each time the model is run"
        )
        doubts = self._decode()
        self._keep_units_added_to_inputs()
        doubts.settle_()
        # Single rows settle most; blocks exclude more where candidates are many and in a row.
        longest = max(len(source.codes) for source in self.replay.sources.values())
        widths = [1, 1, 1, *(1 << bit for bit in range((longest - 1).bit_length() - 1, 0, -1))]
        turn = 0
        while before := len(doubts):
            hot = doubts.next_rows(widths[turn % len(widths)])
            doubts.record_answer_(
                hot, self.replay.nan_columns(self._by_source(hot))[doubts.position]
            )
            doubts.settle_()
            turn = turn + 1 if len(doubts) > before // 2 else 0
        self._check()
        return self.links

    # Codes.

    def _decode(self) -> AmbiguousColumns:
        """Link every column that hears at most one row of each source; the others are in doubt."""
        sources = self.replay.sources
        tape = [
            self._packed_pass({place: np.ones(len(s.codes), bool)}) for place, s in sources.items()
        ]
        tape += [self._packed_pass(hot) for hot in _coded(sources)]
        first, kind = _classes(tape, self.replay.width)
        heard = np.stack([np.unpackbits(played)[first] for played in tape]).astype(bool)
        whole, heard = heard[: len(sources)], heard[len(sources) :]
        ones, zeros = heard[::2], heard[1::2]
        hears_any = np.any(whole, axis=0)
        self.reads_any = hears_any[kind]
        single = (ones != zeros).all(0)
        code = (ones * (1 << np.arange(len(ones)))[:, None]).sum(0)
        for place, hears in zip(sources, whole, strict=True):
            at = np.flatnonzero((single & hears)[kind])
            row = np.searchsorted(sources[place].codes, code[kind[at]])
            self.links.join(self.node[at], self.links.offset[place] + row)
        self.links.crowded[self.node[~single[kind] & self.reads_any]] = True
        unsure = np.flatnonzero(~single & hears_any)
        return self._ambiguous(unsure, kind, whole, heard)

    def _ambiguous(
        self, unsure: np.ndarray, kind: np.ndarray, whole: np.ndarray, heard: np.ndarray
    ) -> AmbiguousColumns:
        """Whatever silence has not excluded, for these classes of columns.

        Args:
            unsure: numbers of the classes.
            kind: (width,) the class of each column.
            whole: (sources, classes) bool: who heard a source with all its rows hot.
            heard: (2 bits, classes) bool: who heard what in the passes of the codes.
        """
        number = np.full(whole.shape[1], -1)
        number[unsure] = np.arange(len(unsure))
        pairs: list[np.ndarray] = [np.empty((2, 0), np.int64)]
        for (place, source), hears in zip(self.replay.sources.items(), whole, strict=True):
            asked = unsure[hears[unsure]]
            bits = (source.codes[None] >> np.arange(len(heard) // 2)[:, None]) & 1
            hot = np.stack([bits, 1 - bits], 1).reshape(len(heard), -1).astype(np.float32)
            for some in np.array_split(asked, 1 + len(asked) // 512):
                silent = (~heard[:, some]).astype(np.float32)
                which, row = np.nonzero(silent.T @ hot == 0)
                pairs.append(np.stack([number[some[which]], self.links.offset[place] + row]))
        position = np.flatnonzero(number[kind] >= 0)
        # One element of each class of output elements speaks for all: outputs are one node.
        columns = np.stack([self.node[position], number[kind[position]]])
        (node, own), first = np.unique(columns, axis=1, return_index=True)
        pair_kind, pair_row = np.concatenate(pairs, 1)
        return AmbiguousColumns(
            self.links, self.start, (position[first], node, own), (pair_kind, pair_row)
        )

    def _keep_units_added_to_inputs(self) -> None:
        """Treat units that are added to single elements of an input as outputs: they have to stay.

        What all columns of a layer read alike (a padding mask, a time) binds no unit to an element.
        """
        for place, source in self.replay.inputs.items():
            if place in self.replay.sources:
                continue
            everything = {place: np.ones(len(source.codes), bool)}
            both = self.replay.nan_columns(everything) & self.reads_any & self.mixes
            both[self.replay.readers[OUTPUT]] = False
            if not both.any():
                continue
            heard = np.stack(
                [self.replay.nan_columns(hot) for hot in _coded({place: source})] or [both]
            )
            for part in self.replay.readers.values():
                here = np.flatnonzero(both[part]) + part.start
                if len(here) and (heard[:, here] != heard[:, here[:1]]).any():
                    output = np.full(len(here), self.links.offset[OUTPUT])
                    self.links.join(self.node[here], output)

    def _packed_pass(self, hot: dict[Place, np.ndarray]) -> np.ndarray:
        return np.packbits(self.replay.nan_columns(hot))

    def _by_source(self, hot: np.ndarray) -> dict[Place, np.ndarray]:
        return {place: hot[self.links.nodes(place)] for place in self.replay.sources}

    # Proof.

    def _check(self) -> None:
        """Make random units hot and compare who hears them with what the links say."""
        labels = self.links.labels
        random = np.random.default_rng(1)
        for seed in range(CHECKS):
            hot = random.random(len(labels)) < 0.5
            expected = hot[labels][self.node] & self.reads_any
            by_source = self._by_source(hot[labels])
            heard = self.replay.nan_columns(by_source)
            changed = self.replay.changed_columns(by_source, seed)
            self._refuse(heard != expected, "hears other units in one pass than in another")
            self._refuse(
                changed & ~expected,
                "hears units through something that swallows NaN (torch.where, nan_to_num, a "
                "comparison), so that nobody can tell which; use torch's own activations there",
            )

    def _refuse(self, wrong: np.ndarray, complaint: str) -> None:
        for place, part in self.replay.readers.items():
            if wrong[part].any():
                who = "the output" if place == OUTPUT else repr(place[0])
                raise StructureError(
                    f"units must be told apart by who hears them; {who} {complaint}"
                )


def _coded(sources: Mapping[Place, Source]) -> list[dict[Place, np.ndarray]]:
    """For each bit of the codes, rows where it is one and then rows where it is zero."""
    bits = max(int(source.codes.max(initial=0)) for source in sources.values()).bit_length()
    return [
        {place: (source.codes >> bit) & 1 == value for place, source in sources.items()}
        for bit in range(bits)
        for value in (1, 0)
    ]


def _classes(tape: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns that answered alike: (classes,) an example of each, (width,) the class of each."""
    random = np.random.default_rng(0).integers(1 << 63, size=len(tape), dtype=np.uint64)
    digest = np.zeros(width, np.uint64)
    for played, number in zip(tape, random, strict=True):
        digest ^= np.unpackbits(played, count=width) * number
    _, first, kind = np.unique(digest, return_index=True, return_inverse=True)
    return first, kind
