"""Samples on which networks are measured and trained: in memory, or read again at each pass."""

from __future__ import annotations

import zlib
from bisect import bisect, bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from sentei.errors import DataError
from sentei.losses import Loss
from sentei.metrics import TargetSummary
from sentei.nests import count, joined, resized, taken, tensors
from sentei.running import Example, Forward, ForwardCall, own_inputs
from sentei.samples import fingerprint


@dataclass(frozen=True, eq=False)
class MemoryData:
    """Samples in memory.

    Attributes:
        inputs: the model's inputs: a tensor, a tuple of tensors (positional arguments) or a mapping
            (keyword arguments), each (N, ...); with the function that runs the network on them, if
            there is one.
        targets: (N, ...), a tensor or any nest of tensors.
    """

    inputs: Example
    targets: Any
    in_memory: bool = field(default=True, init=False, repr=False)

    def __len__(self) -> int:
        return count(self.targets)

    @property
    def head(self) -> MemoryData:
        """The first samples; all of them."""
        return self

    @property
    def form(self) -> str:
        """Types and shapes of one sample, as a text."""
        parts = tensors(self.inputs), tensors(self.targets)
        return str([[(t.dtype, tuple(t.shape[1:])) for t in part] for part in parts])

    def rows(self, start: int, stop: int, device: torch.device | None = None) -> MemoryData:
        """Return rows `start` to `stop` (exclusive), on a device if one is given."""

        def part(tensor: Tensor) -> Tensor:
            own = tensor[start:stop]
            return own if device is None else own.to(device)

        return MemoryData(resized(self.inputs, part), resized(self.targets, part))

    def at(self, rows: Tensor) -> MemoryData:
        """Return the samples at these row numbers, in this order."""
        return MemoryData(taken(self.inputs, rows), taken(self.targets, rows))

    def run_by(self, forward: Forward | None) -> MemoryData:
        """Return the samples with the function that runs a network on their inputs."""
        if forward is None:
            return self
        return MemoryData(ForwardCall(own_inputs(self.inputs), forward), self.targets)

    def fit_for(self, loss: Loss) -> MemoryData:
        """Return the samples that count, with targets as the loss takes them; there may be none."""
        counts = loss.counts(self.targets)
        kept = self if counts is None else self.at(counts.nonzero().flatten())
        return MemoryData(kept.inputs, loss.fitted(kept.targets))

    def boundaries(self, size: int) -> list[int]:
        """Return the first rows of blocks of `size` samples."""
        return [*range(0, len(self), size)]

    def blocks(
        self, starts: Sequence[int], only: Sequence[int] | None = None
    ) -> Iterator[MemoryData]:
        """Yield the blocks that begin at these rows, or those at some positions among them."""
        for start, stop in _spans(starts, len(self), only):
            yield self.rows(start, stop)

    def spread(self, most: int) -> MemoryData:
        """Return `most` samples evenly spaced over all; all of them if there are fewer."""
        rows = torch.linspace(0, len(self) - 1, min(most, len(self))).round().long()
        return self.at(rows)

    def fingerprint(self) -> str:
        """Return sixteen hex digits that identify the samples."""
        return fingerprint((*tensors(self.inputs), *tensors(self.targets)))

    @cached_property
    def summary(self) -> TargetSummary:
        """What metrics have to know of all targets."""
        return TargetSummary.of([self.targets])


class Again(Protocol):
    """Reads batches once more: all, or those at some positions, ascending."""

    def __call__(self, only: Sequence[int] | None = None) -> Iterable[MemoryData]:
        """Yield the batches."""
        ...


@dataclass(eq=False)
class StreamedData:
    """Samples that do not fit in memory, or whose batches have different shapes.

    They are read again, batch by batch, at each pass, and what is read is compared with the first
    pass by checksums.

    Attributes:
        head: the first samples, in memory; all have one shape.
        again: reads the batches, or those at some positions, ascending.
        rows: for each batch how many samples it has.
        sizes: for each batch how many samples count, and the shapes of one sample.
        summary: what metrics have to know of all targets.
        checksums: of the batches; None for batches in memory.
        digest: sixteen hex digits that identify the samples.
        prepared: makes of a batch what is measured.
    """

    head: MemoryData
    again: Again
    rows: list[int]
    sizes: list[tuple[int, str]]
    summary: TargetSummary
    checksums: list[int] | None
    digest: str
    prepared: Callable[[MemoryData], MemoryData]
    in_memory: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return sum(size for size, _ in self.sizes)

    def boundaries(self, size: int) -> list[int]:
        """Return the first rows of blocks of `size` samples at most, each of one shape."""
        starts, begin = [], 0
        for _, batches in groupby((each for each in self.sizes if each[0]), lambda each: each[1]):
            end = begin + sum(rows for rows, _ in batches)
            starts += range(begin, end, size)
            begin = end
        return starts

    def blocks(
        self, starts: Sequence[int], only: Sequence[int] | None = None
    ) -> Iterator[MemoryData]:
        """Yield the blocks that begin at these rows, in order, or those at some positions.

        Batches without a row of these are not read where the data can be read from any place.

        Raises:
            DataError: a batch is not what it was at the first pass.
        """
        spans = deque(_spans(starts, len(self), only))
        ends = [*accumulate(size for size, _ in self.sizes)]
        hit = {at for a, b in spans for at in range(bisect(ends, a), bisect_left(ends, b) + 1)}
        waiting: list[MemoryData] = []
        for number, batch in self._checked(None if only is None else sorted(hit)):
            begin, end = ends[number] - len(batch), ends[number]
            while spans and spans[0][0] < end:
                start, stop = spans[0]
                waiting.append(batch.rows(max(start - begin, 0), min(stop, end) - begin))
                if stop > end:
                    break
                spans.popleft()
                yield together(waiting)
                waiting = []

    def spread(self, most: int) -> MemoryData:
        """Return the first `most` samples: others are not in memory."""
        return self.head.rows(0, most)

    def fingerprint(self) -> str:
        """Return sixteen hex digits that identify the samples."""
        return self.digest

    def _checked(self, only: Sequence[int] | None) -> Iterator[tuple[int, MemoryData]]:
        """Yield the positions and the samples that count of the batches that have any."""
        expected, read = range(len(self.sizes)) if only is None else only, 0
        for read, batch in enumerate(self.again(only), 1):
            number = read - 1 if only is None else only[read - 1]
            own = batch if only is None else batch.rows(0, self.rows[number])
            if self.checksums is not None:
                check_same(self.checksums, number, own)
            fit = self.prepared(own)
            if len(fit):
                yield number, fit
        if read != len(expected):
            raise _other_samples(f"this one has {read:,} batches instead of {len(expected):,}")


def _spans(
    starts: Sequence[int], end: int, only: Sequence[int] | None
) -> Iterable[tuple[int, int]]:
    """Return the first rows of blocks and those behind their last, of all or of some."""
    spans = [*zip(starts, [*starts[1:], end], strict=True)]
    return spans if only is None else [spans[at] for at in only]


Measured = MemoryData | StreamedData


def together(parts: Sequence[MemoryData]) -> MemoryData:
    """Return the samples of several batches of one shape as one."""
    if len(parts) == 1:
        return parts[0]
    return MemoryData(
        joined([part.inputs for part in parts]), joined([part.targets for part in parts])
    )


def checksum(batch: MemoryData) -> int:
    """Return a checksum of every byte of a batch."""
    total = 0
    for tensor in (*tensors(batch.inputs), *tensors(batch.targets)):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total = zlib.crc32(flat.view(torch.uint8).numpy().data, total)
    return total


def check_same(checksums: Sequence[int], number: int, batch: MemoryData) -> None:
    """Raise DataError if a batch is not the one that was read at the first pass.

    Raises:
        DataError: names the batch.
    """
    if number >= len(checksums) or checksums[number] != checksum(batch):
        raise _other_samples(f"batch {number} differs from the first pass")


def _other_samples(what: str) -> DataError:
    return DataError(
        "samples that do not fit in memory are read again at each pass, and every pass must give "
        f"the same ones in the same order; {what}. Use a loader without shuffling and without "
        "random augmentation, fewer samples (samples=), or more memory (memory=)."
    )
