"""Bind what tracing does not link by rows and columns: followers, slices of other tensors.

Which units there are is decided by the listeners alone. Then every other entry with a place (the
scale of a norm, a slice of a table of position biases, an entry of a bias that the network joins
from two) is *bound* to a unit if it belongs to that unit alone. What reaches several units of one
group is shared by them, such as a scale for each position in a head, and is bound to none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sentei.network.tracing.inputs import Place
from sentei.network.tracing.links import Links
from sentei.network.tracing.replay import OUTPUT, Replay

ALONE = 3  # slices that are tried alone, to tell a shared tensor from one with parts for each unit

Hot = Mapping[Place, np.ndarray]


@dataclass(frozen=True)
class Codes:
    """Numbers of members, each written in bits, by which replays with many hot members tell which.

    Attributes:
        of: for each place, the number of each of its positions, from 0.
    """

    of: Mapping[Place, np.ndarray]

    @property
    def bits(self) -> int:
        """Number of bits of the largest number; one at least."""
        return max(1, int(max(codes.max(initial=0) for codes in self.of.values())).bit_length())

    def replays(self) -> Iterator[dict[Place, np.ndarray]]:
        """Yield the hot positions of two replays for each bit: with the bit, then without."""
        for bit in range(self.bits):
            for value in (1, 0):
                yield {place: (codes >> bit) & 1 == value for place, codes in self.of.items()}

    def read(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        """Return the number that each column reads, (width,); -1 if none, -2 if it reads several.

        Args:
            answers: for each replay, which columns read NaN.
        """
        ones, zeros = np.stack(answers[::2]), np.stack(answers[1::2])
        number = (ones * (1 << np.arange(len(ones)))[:, None]).sum(0)
        some = (ones | zeros).any(0)
        return np.where((ones != zeros).all(0), number, np.where(some, -2, -1))


def decoded(run: Callable[[Hot], np.ndarray], codes: Codes) -> np.ndarray:
    """Run the replays of a code; return the number that each column reads, as `Codes.read`."""
    return codes.read([run(hot) for hot in codes.replays()])


# Weights that the network computes from others.


class Computed:
    """Where the rows and columns of computed weights come from.

    Attributes:
        parts: for each dimension of a computed weight, the dimensions of weights whose slices its
            positions are linked with. It cannot be cut if it has none.
        mixed: dimensions of computed weights in which a slice of a weight reaches several positions
            and a position is reached by several slices, as through a norm of the whole weight.
    """

    def __init__(self, replay: Replay, links: Links):
        """Run the replays, and link positions that each come from one slice of their own."""
        self._links = links
        self.parts: dict[Place, list[Place]] = {}
        self.mixed: set[Place] = set()
        self._divided: dict[Place, dict[Place, np.ndarray]] = {}
        for place, found in _origins(replay).items():
            if place not in links.offset:  # the size of a kernel
                continue
            fit = {p: read for p, read in found.items() if (read >= 0).any() and (read >= -1).all()}
            single = {p: read for p, read in fit.items() if np.bincount(read[read >= 0]).max() == 1}
            self.parts[place] = [*single]
            for other, read in single.items():
                self._join(place, other, read)
            if fit and not single:
                self._divided[place] = fit
            elif not fit and any((read == -2).any() for read in found.values()):
                self.mixed.add(place)

    def settle_(self) -> None:
        """Link positions of which several come from one slice, when it is known what units are.

        A weight of more dimensions, such as (heads, width, inputs), may be viewed with heads x
        width rows. Each dimension divides the rows in its own way, and one of them can be cut: the
        one whose slices are parts of units, else the one with the most slices.
        """
        for place, fit in self._divided.items():
            labels = self._links.labels[self._links.nodes(place)]
            within = [p for p, read in fit.items() if _count(read, labels) == _count(read)]
            most = sorted(fit, key=lambda other: -_count(fit[other]))
            chosen = (within or most)[0]
            self.parts[place] = [chosen]
            self._join(place, chosen, fit[chosen])

    def _join(self, place: Place, other: Place, read: np.ndarray) -> None:
        at = np.flatnonzero(read >= 0)
        nodes = self._links.nodes(place)
        self._links.join(nodes[at], self._links.nodes(other)[read[at]])


def _count(read: np.ndarray, *labels: np.ndarray) -> int:
    """Return the number of different slices, or of pairs of a slice and a label."""
    at = read >= 0
    return np.unique(np.stack([read[at], *(each[at] for each in labels)]), axis=1).shape[1]


def _origins(replay: Replay) -> dict[Place, dict[Place, np.ndarray]]:
    """Return for each dimension of a computed weight what its positions read of each weight.

    What they read is given by the number of a slice of the weight's dimension, as `Codes.read`.
    """
    found: dict[Place, dict[Place, np.ndarray]] = {}
    parts: dict[str, set[str]] = {}
    for computed, names in replay.computed_from.items():
        for name in names:
            parts.setdefault(name, set()).add(computed)
    for batch in apart({place: parts.get(place[0], set()) for place in replay.slices}):
        codes = Codes({place: np.arange(replay.slices[place]) for place in batch})
        answers = [replay.nan_weights(hot) for hot in codes.replays()]
        for place in answers[0]:
            for other in batch:
                if other[0] in replay.computed_from[place[0]]:
                    read = codes.read([answer[place] for answer in answers])
                    found.setdefault(place, {})[other] = read
    return found


def apart(reach: Mapping[Place, set]) -> Iterator[list[Place]]:
    """Yield places in batches in which no two reach the same thing; without those that reach none.

    Args:
        reach: what each place reaches.
    """
    left = [place for place, reached in reach.items() if reached]
    while left:
        batch: list[Place] = []
        taken: set = set()
        for place in left:
            if not taken & reach[place]:
                batch.append(place)
                taken |= reach[place]
        yield batch
        left = [place for place in left if place not in batch]


# Followers, and slices of other tensors.


def bind_followers(
    replay: Replay, links: Links, node: np.ndarray, single: np.ndarray, several: np.ndarray
) -> np.ndarray:
    """Link each column of a follower with the one unit that it reads.

    Args:
        replay: the recorded pass.
        links: the units.
        node: (width,) the node of each column.
        single: (width,) the label of the unit that a column is known to read; -1 if none or not
            known, -2 if it reads several.
        several: (width,) bool: columns of followers that may read several rows.

    Returns:
        (width,) bool: which columns are linked.
    """
    unit = single.copy()
    if several.any():
        names, number = np.unique(links.labels, return_inverse=True)
        codes = Codes({place: number[links.nodes(place)] for place in replay.sources})
        read = decoded(replay.nan_columns, codes)
        unit[several] = np.where(read >= 0, names[np.maximum(read, 0)], read)[several]
    at = np.flatnonzero(unit >= 0)
    links.join(node[at], unit[at])
    return unit >= 0


class Tensors:
    """Binds slices of tensors that no layer call names to units.

    Attributes:
        bound: the dimensions of tensors that have been bound.
        shared: dimensions of tensors whose slices each reach several units of a group.
    """

    def __init__(
        self,
        replay: Replay,
        links: Links,
        node: np.ndarray,
        mixes: np.ndarray,
        linked: np.ndarray,
    ):
        """Find what each tensor reaches.

        Args:
            replay: the recorded pass.
            links: the units.
            node: (width,) the node of each column.
            mixes: (width,) bool: which columns are those of listeners or outputs.
            linked: (width,) bool: which columns are linked with units.
        """
        self._replay, self._links, self._node = replay, links, node
        self._free = ~(mixes | linked)
        self._reads = mixes.copy()
        self._reads[replay.readers[OUTPUT]] = False
        self.bound: list[Place] = []
        self.shared: list[Place] = []
        self._random = np.random.default_rng(0)
        # What each dimension of a tensor reaches, (width,) bool: columns of listeners, and those of
        # followers that no unit reaches, such as a scale behind the zeros of a removed branch.
        reached = self._reached()
        self._columns = {place: columns & self._reads for place, columns in reached.items()}
        self._passed = {place: columns & self._free for place, columns in reached.items()}

    def _reached(self) -> dict[Place, np.ndarray]:
        """Return which columns each dimension of a tensor reaches, (width,) bool."""
        found = {}
        for name in dict.fromkeys(name for name, _ in self._replay.slices):
            places = [place for place in self._replay.slices if place[0] == name]
            whole = {places[0]: np.ones(self._replay.slices[places[0]], bool)}
            reached = self._replay.nan_columns(whole)
            found |= dict.fromkeys(places, reached)
        return found

    def bind(self, group_of: np.ndarray) -> None:
        """Link slices with the units that they belong to.

        Args:
            group_of: (nodes,) for the label of each unit a number of its group; -1 for others.
        """
        parts = {part.start: part for part in self._replay.readers.values()}
        reach = {
            place: {start for start, part in parts.items() if columns[part].any()}
            for place, columns in self._columns.items()
        }
        for batch in apart(reach):
            codes = Codes({place: np.arange(self._replay.slices[place]) for place in batch})
            read = decoded(self._replay.nan_columns, codes)
            alone = [self._alone(batch) for _ in range(ALONE)]
            for place in batch:
                self._bind(place, read, alone, group_of)
                if place in self.bound:
                    at = np.flatnonzero(self._passed[place] & (read >= 0))
                    self._links.join(self._node[at], self._links.nodes(place)[read[at]])

    def _alone(self, batch: Sequence[Place]) -> tuple[dict[Place, int], np.ndarray]:
        """Make one slice of each place hot; return the slices, and which columns read NaN."""
        slices = {p: int(self._random.integers(self._replay.slices[p])) for p in batch}
        hot = {p: np.arange(self._replay.slices[p]) == at for p, at in slices.items()}
        return slices, self._replay.nan_columns(hot)

    def _bind(
        self,
        place: Place,
        read: np.ndarray,
        alone: Sequence[tuple[dict[Place, int], np.ndarray]],
        group_of: np.ndarray,
    ) -> None:
        columns = np.flatnonzero(self._columns[place])
        units = self._links.labels[self._node[columns]]
        groups = group_of[units]
        for group in np.unique(groups[groups >= 0]):
            at, own = columns[groups == group], units[groups == group]
            if len(np.unique(own)) < 2:
                continue
            if (read[at] == -2).any():
                self._divide(place, at, own, alone)
                continue
            some = read[at] >= 0
            self._join(place, own[some], read[at][some])

    def _join(self, place: Place, units: np.ndarray, slices: np.ndarray) -> None:
        """Link slices with units if no slice reaches two of them."""
        pairs = np.unique(np.stack([slices, units]), axis=1)
        if len(np.unique(pairs[0])) < pairs.shape[1]:
            self.shared.append(place)
            return
        self._links.join(self._links.nodes(place)[pairs[0]], pairs[1])
        self.bound.append(place)

    def _divide(
        self,
        place: Place,
        columns: np.ndarray,
        units: np.ndarray,
        alone: Sequence[tuple[dict[Place, int], np.ndarray]],
    ) -> None:
        """Link equal parts of a dimension with units, if columns read several of its slices.

        A dimension of heads x width may reach every head in its own part, or all in each.
        """
        names, number = np.unique(units, return_inverse=True)
        size = self._replay.slices[place]
        reached = [np.unique(units[reads[columns]]) for _, reads in alone]
        if size % len(names) or any(len(each) > 1 for each in reached):
            self.shared.append(place)
            return
        every = np.arange(size)
        for part_of in (every // (size // len(names)), every % len(names)):
            read = decoded(self._replay.nan_columns, Codes({place: part_of}))[columns]
            pairs = np.unique(np.stack([read, number]), axis=1)
            if (pairs[0] >= 0).all() and pairs.shape[1] == len(names):
                unit = np.full(len(names), -1)
                unit[pairs[0]] = names[pairs[1]]
                self._join(place, unit[part_of], every)
                return
        self.shared.append(place)
