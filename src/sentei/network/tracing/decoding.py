"""Decode which weight columns read which rows, from a few dozen replays with NaN in chosen rows.

A column that reads no NaN in a replay reads none of the rows that were hot in it. The rows of each
replay are chosen by a code, so that these exclusions add up: after one replay for each source and
two for each bit of a row's number, almost every column has one candidate row left in each source
that it reads at all. The few columns that read many rows (an attention head, a normalisation group)
stay ambiguous. Further replays test them, many columns at once, until no replay could change which
rows and columns belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sentei.errors import StructureError
from sentei.network.tracing.ambiguous_columns import AmbiguousColumns
from sentei.network.tracing.binding import Codes, Computed, Tensors, bind_followers
from sentei.network.tracing.inputs import Place, Source
from sentei.network.tracing.links import Links, groups_of
from sentei.network.tracing.replay import OUTPUT, Replay, is_computed

_ADDED = "they are added to single elements of the network's input, which keeps them"
_SHARED = (
    "they act alike on all units that they reach, as a router does, or the one key of all heads"
)
_HIDDEN = (
    "an operation that does not propagate NaN reads them (torch.where, nan_to_num, a comparison, a "
    "choice of indices), so it cannot be determined which layers depend on which of them; if you "
    "know, make a group of them with sentei.declare"
)
MIXED = (
    "a weight is computed from all entries of another at once, as spectral norm, weight norm and "
    "standardisation do, so none of its slices can go alone; store the computed weight instead "
    "(torch.nn.utils.parametrize.remove_parametrizations(layer, name) does, for parametrizations)"
)
TRIED = 8  # noises in a source, of which one has to change what depends on its values
CHECKS = 4  # replays at the end that check the result, each with a random half of the units hot


class Tracer:
    """Decodes which columns read which rows by running replays until no column is ambiguous.

    Attributes:
        replay: the recorded pass.
        links: the rows and columns found to belong to the same unit so far.
        reads_any: (width,) bool: which columns read any row of any source.
        node: (width,) the node in `links` of each column.
        mixes: (width,) bool: which columns are those of listeners or outputs, not of followers.
        linked: (width,) bool: which columns are linked with what they read.
        hidden: sources whose values reach columns where their NaN does not.
        start: (nodes,) the first node of the source that a row is in; 0 for all other nodes.
    """

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
        self.linked = self.mixes
        self._single: list[tuple[np.ndarray, np.ndarray]] = []  # columns of followers, rows
        self._several = np.zeros(replay.width, bool)
        self.hidden: list[Place] = []
        self.start = np.zeros(len(self.links.labels), np.int64)
        for place in replay.sources:
            self.start[self.links.nodes(place)] = self.links.offset[place]

    def trace(self) -> Links:
        """Run the replays, link the rows and columns of each unit, check the links and return them.

        Raises:
            StructureError: columns read NaN or changing numbers on the unmodified example, or a
                replay contradicts the links.
        """
        self._refuse_changing()
        self.computed = Computed(self.replay, self.links)
        ambiguous = self._decode()
        self._keep_units_added_to_inputs()
        ambiguous.settle_()
        # Single hot rows settle most columns. Blocks of rows exclude more at once where a column
        # has many adjacent candidates.
        longest = max(len(source.codes) for source in self.replay.sources.values())
        widths = [1, 1, 1, *(1 << bit for bit in range((longest - 1).bit_length() - 1, 0, -1))]
        turn = 0
        while before := len(ambiguous):
            hot = ambiguous.next_rows(widths[turn % len(widths)])
            ambiguous.record_answer_(
                hot, self.replay.nan_columns(self._by_source(hot))[ambiguous.position]
            )
            ambiguous.settle_()
            turn = turn + 1 if len(ambiguous) > before // 2 else 0
        for place, rows in self.replay.cold.items():
            self.links.bar_(self.links.nodes(place)[rows], _SHARED)
        self._bind()
        self._check()
        return self.links

    def own(self, place: Place) -> Sequence[Place]:
        """Return the place itself; of a weight that the network computes, what it is computed from.

        Of the latter, only the dimensions whose slices are linked with its positions.
        """
        return self.computed.parts.get(place, ()) if is_computed(place) else (place,)

    def reached(self) -> dict[Place, np.ndarray]:
        """Return for each source which columns read any of its rows, (width,) bool."""
        width = self.replay.width
        return {
            place: np.unpackbits(packed, count=width).astype(bool)
            for place, packed in self._reached.items()
        }

    def _bind(self) -> None:
        """Link everything else that belongs to a unit; see `binding.py`."""
        self.computed.settle_()
        unit = np.full(self.replay.width, -1)
        for at, rows in self._single:
            label = self.links.labels[rows]
            unit[at] = np.where((unit[at] == -1) | (unit[at] == label), label, -2)
        bound = bind_followers(self.replay, self.links, self.node, unit, self._several)
        self.linked = bound | self.mixes
        self.tensors = Tensors(self.replay, self.links, self.node, self.mixes, bound)
        if self.replay.slices:
            self.tensors.bind(groups_of(self.links, self.replay))
        for place in self.computed.mixed:
            self.links.bar_(self.links.nodes(place), MIXED)

    # Codes.

    def _decode(self) -> AmbiguousColumns:
        """Link each column that reads one row of each source it reads at all; return the others.

        The first replays make all rows of one source hot. Then there are two replays for each bit
        of the codes, with all sources at once: the rows whose code has the bit set are hot in one,
        the rows without it in the other. A column that reads a single row reads NaN in exactly one
        of the two. So the replays in which it reads NaN give the bits of the code of its row.
        """
        sources = self.replay.sources
        answers = [
            self._packed_replay({place: np.ones(len(s.codes), bool)})
            for place, s in sources.items()
        ]
        self._reached = dict(zip(sources, answers, strict=True))
        answers += [self._packed_replay(hot) for hot in _coded(sources)]
        first, class_of = _classes(answers, self.replay.width)
        reads = np.stack([np.unpackbits(answer)[first] for answer in answers]).astype(bool)
        reads_source, reads_coded = reads[: len(sources)], reads[len(sources) :]
        ones, zeros = reads_coded[::2], reads_coded[1::2]
        reads_any = np.any(reads_source, axis=0)
        self.reads_any = reads_any[class_of]
        single = (ones != zeros).all(0)
        code = (ones * (1 << np.arange(len(ones)))[:, None]).sum(0)
        for place, reads_this in zip(sources, reads_source, strict=True):
            at = np.flatnonzero((single & reads_this)[class_of])
            row = self.links.offset[place]
            row = row + np.searchsorted(sources[place].codes, code[class_of[at]])
            mixes = self.mixes[at]
            self.links.join(self.node[at[mixes]], row[mixes])
            self._single.append((at[~mixes], row[~mixes]))
        several = ~single[class_of] & self.reads_any
        self.links.crowded[self.node[several]] = True
        self._several = several & ~self.mixes
        ambiguous = np.unique(class_of[several & self.mixes])
        return self._ambiguous(ambiguous, class_of, reads_source, reads_coded)

    def _ambiguous(
        self,
        ambiguous: np.ndarray,
        class_of: np.ndarray,
        reads_source: np.ndarray,
        reads_coded: np.ndarray,
    ) -> AmbiguousColumns:
        """Collect the ambiguous columns with the candidate rows that no replay has excluded.

        Args:
            ambiguous: numbers of the classes whose columns are ambiguous.
            class_of: (width,) the class of each column.
            reads_source: (sources, classes) bool: which classes read a source's rows at all.
            reads_coded: (2 bits, classes) bool: which classes read NaN in the replays of the codes.
        """
        number = np.full(reads_source.shape[1], -1)
        number[ambiguous] = np.arange(len(ambiguous))
        pairs: list[np.ndarray] = [np.empty((2, 0), np.int64)]
        for (place, source), reads_this in zip(
            self.replay.sources.items(), reads_source, strict=True
        ):
            readers = ambiguous[reads_this[ambiguous]]
            bits = (source.codes[None] >> np.arange(len(reads_coded) // 2)[:, None]) & 1
            hot = np.stack([bits, 1 - bits], 1).reshape(len(reads_coded), -1).astype(np.float32)
            for some in np.array_split(readers, 1 + len(readers) // 512):
                no_nan = (~reads_coded[:, some]).astype(np.float32)
                # A row is a candidate unless it was hot in a replay in which the class read no NaN.
                which, row = np.nonzero((no_nan.T @ hot == 0) & ~self.replay.cold.get(place, False))
                pairs.append(np.stack([number[some[which]], self.links.offset[place] + row]))
        position = np.flatnonzero((number[class_of] >= 0) & self.mixes)
        # All outputs are one node, so one output element of each class is enough.
        columns = np.stack([self.node[position], number[class_of[position]]])
        (node, column_class), first = np.unique(columns, axis=1, return_index=True)
        pair_class, pair_row = np.concatenate(pairs, 1)
        return AmbiguousColumns(
            self.links, self.start, (position[first], node, column_class), (pair_class, pair_row)
        )

    def _keep_units_added_to_inputs(self) -> None:
        """Link units that are added to single input elements with the outputs: they are never cut.

        Such a unit cannot be removed, because the input keeps its elements. An input that all
        columns of a layer read alike (a padding mask, a time) ties no unit to an element.
        """
        for place, source in self.replay.inputs.items():
            if place in self.replay.sources:
                continue
            all_rows = {place: np.ones(len(source.codes), bool)}
            reads_both = self.replay.nan_columns(all_rows) & self.reads_any & self.mixes
            reads_both[self.replay.readers[OUTPUT]] = False
            if not reads_both.any():
                continue
            reads = np.stack(
                [self.replay.nan_columns(hot) for hot in _coded({place: source})] or [reads_both]
            )
            for part in self.replay.readers.values():
                here = np.flatnonzero(reads_both[part]) + part.start
                if len(here) and (reads[:, here] != reads[:, here[:1]]).any():
                    self.links.bar_(self.node[here], _ADDED)

    def _packed_replay(self, hot: dict[Place, np.ndarray]) -> np.ndarray:
        return np.packbits(self.replay.nan_columns(hot))

    def _by_source(self, hot: np.ndarray) -> dict[Place, np.ndarray]:
        """Split `hot`, (nodes,) bool, into (rows,) bool for each source."""
        return {place: hot[self.links.nodes(place)] for place in self.replay.sources}

    # Checks.

    def _check(self) -> None:
        """Check the links: NaN in random units must reach the columns linked with them only."""
        for reads, changed, expected in self._trials():
            self._refuse(reads != expected, "reads other units in one replay than in another")
            if not (changed & ~expected).any():
                continue
            if self.hidden or not self._bar_hidden_():
                self._refuse(changed & ~expected, f"reads units, and {_HIDDEN}")
            return self._check()
        return None

    def _trials(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield which columns read NaN and other numbers from random units, and which should."""
        labels, output = self.links.labels, self.links.offset[OUTPUT]
        random = np.random.default_rng(1)
        for seed in range(CHECKS):
            # The first check runs the model, and so bears out its tape.
            replay = self.replay if seed else self.replay.untaped()
            hot = random.random(len(labels)) < 0.5
            if self.hidden:
                hot[labels[output]] = False  # units that are never cut
            by_source = self._by_source(hot[labels])
            reads = replay.nan_columns(by_source) & self.linked
            changed = replay.changed_columns(by_source, seed)
            yield reads, changed, hot[labels][self.node] & self.reads_any & self.linked

    def _bar_hidden_(self) -> bool:
        """Bar the units whose values reach columns where their NaN does not, such as a router's.

        They are never cut; so the others can be followed without knowing what reads these. Returns
        whether there are any.
        """
        for place, reached in self.reached().items():
            every = {place: np.ones(len(self.replay.sources[place].codes), bool)}
            if any(
                (self.replay.changed_columns(every, seed) & ~reached).any() for seed in range(TRIED)
            ):
                self.hidden.append(place)
                self.links.bar_(self.links.nodes(place), _HIDDEN)
        return bool(self.hidden)

    def _refuse_changing(self) -> None:
        """Raise StructureError where the model computes NaN, or other numbers at each pass."""
        model = self.replay.untaped()
        changed = model.changed_columns({}, 0)  # NaN differs from itself
        if changed.any():
            nan = "reads NaN on the unmodified example; pass another example"
            self._refuse(model.nan_columns({}), nan)
        self._refuse(changed, "reads other numbers each time the model runs on the same example")

    def _refuse(self, wrong: np.ndarray, problem: str) -> None:
        """Raise StructureError for the first place with a wrong column, from (width,) bool."""
        for place, part in self.replay.readers.items():
            if wrong[part].any():
                reader = "the output" if place == OUTPUT else repr(place[0])
                raise StructureError(
                    f"units are distinguished by which columns read them; {reader} {problem}"
                )


def _coded(sources: Mapping[Place, Source]) -> list[dict[Place, np.ndarray]]:
    """Return the rows to write NaN into, in two replays a bit: rows with the bit, then without."""
    return [*Codes({place: source.codes for place, source in sources.items()}).replays()]


def _classes(answers: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort the columns into classes that read NaN in the same replays.

    Args:
        answers: for each replay which columns read NaN, (width,) bool, packed into bytes.
        width: number of columns.

    Returns:
        (classes,) the first column of each class; (width,) the class of each column.
    """
    random = np.random.default_rng(0).integers(1 << 63, size=len(answers), dtype=np.uint64)
    digest = np.zeros(width, np.uint64)
    for answer, number in zip(answers, random, strict=True):
        digest ^= np.unpackbits(answer, count=width) * number
    _, first, class_of = np.unique(digest, return_index=True, return_inverse=True)
    return first, class_of
