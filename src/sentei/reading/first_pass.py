"""Read samples a first time: check them, and keep them if they fit in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from sentei.devices import seeded
from sentei.errors import DataError
from sentei.losses import Loss, check_counting
from sentei.metrics import TargetSummary
from sentei.nests import nbytes, tensors
from sentei.reading.batches import Unpack, as_samples, is_pair, opened
from sentei.reading.data import (
    Again,
    Measured,
    MemoryData,
    StreamedData,
    check_same,
    checksum,
    together,
)
from sentei.running import Forward
from sentei.samples import Digest
from sentei.target_forms import IGNORED, is_whole

HEAD = 128  # samples that are always in memory


@dataclass
class _Seen:
    """What is known of batches that have been read, whether they are kept or not."""

    rows: list[int] = field(default_factory=list)
    counting: list[int] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    digest: Digest = field(default_factory=Digest)
    summary: TargetSummary = field(default_factory=TargetSummary)

    def add_(self, batch: MemoryData) -> None:
        self.rows.append(len(batch))
        self.counting.append(_counting(batch.targets))
        self.forms.append(batch.form)
        self.checksums.append(checksum(batch))
        self.digest.add_([*tensors(batch.inputs), *tensors(batch.targets)])
        self.summary.add_(batch.targets)


class Reading:
    """The first pass over samples; iterating over it yields every batch once.

    Args:
        data: `(inputs, targets)`, a Dataset, a DataLoader or an iterable of batches.
        unpack: takes a batch apart; None where it is plain.
        most: how many samples are read at most; all if None.
        memory: bytes of samples that are kept. `(inputs, targets)` are in memory anyway.
        dtype: of tensors made from floating-point arrays.

    Attributes:
        head: the first samples, of one shape.

    Raises:
        DataError: no rows, data of another form, rows that differ in number, NaN or infinity.
    """

    def __init__(
        self, data: Any, unpack: Unpack | None, most: int | None, memory: int, dtype: torch.dtype
    ):
        self._source = _source(data, unpack, most, dtype)
        self._memory = torch.inf if is_pair(data) else memory
        self._is_iterator = isinstance(data, Iterator)
        self._pass = iter(self._source())
        self._first = _beginning(self._pass)
        alike = [batch for batch in self._first if batch.form == self._first[0].form]
        self.head = together(alike)
        self._kept: list[MemoryData] = []
        self._kept_bytes = 0
        self._seen: _Seen | None = None  # once the samples do not fit in memory
        self._batches = self._read()

    def __iter__(self) -> Iterator[MemoryData]:
        return self._batches

    def _read(self) -> Iterator[MemoryData]:
        for batch in chain(self._first, self._pass):
            self._note(batch)
            yield batch

    def _note(self, batch: MemoryData) -> None:
        if self._seen is not None:
            self._seen.add_(batch)
            return
        self._kept.append(batch)
        self._kept_bytes += nbytes(batch.inputs) + nbytes(batch.targets)
        if self._kept_bytes > self._memory:
            self._stream()

    def _stream(self) -> None:
        """Go on without keeping batches."""
        if self._is_iterator:
            raise DataError(
                f"samples of more than {self._memory:,} bytes (half of memory=) are read again at "
                "each pass, and an iterator can be read once. Pass what can be read again, such as "
                "a DataLoader, fewer samples (samples=), or more memory (memory=)."
            )
        self._seen, kept = _seen(self._kept), self._kept
        self._first = []
        kept.clear()

    def against(
        self, of_head: Any, outputs_for: Callable[[MemoryData], Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the targets of each batch, with outputs for inputs of the same shape.

        Args:
            of_head: the network's outputs for `head`, or for some samples of it.
            outputs_for: returns its outputs for a batch, or for some samples of it.
        """
        outputs = {self.head.form: of_head}
        for batch in self._batches:
            if batch.form not in outputs:
                outputs[batch.form] = outputs_for(batch)
            yield outputs[batch.form], batch.targets

    def finished(self, loss: Loss, forward: Forward | None) -> Measured:
        """Read what is left, and return the samples that count.

        Args:
            loss: the loss, which says what counts.
            forward: how networks are run on the inputs.

        Raises:
            DataError: no sample counts, or a second pass begins with other samples than the first.
        """
        for _ in self._batches:
            pass
        prepared = lambda batch: batch.run_by(forward).fit_for(loss)  # noqa: E731
        if self._seen is None and len({batch.form for batch in self._kept}) == 1:
            whole = together(self._kept)
            ready = prepared(whole)
            check_counting(len(ready), len(whole))
            return ready
        seen = self._seen or _seen(self._kept)
        counting = seen.counting if loss.predicts == "classes" else seen.rows
        check_counting(sum(counting), sum(seen.rows))
        again, checksums = self._source, seen.checksums
        if self._seen is None:
            again, checksums = partial(_kept, self._kept), None
        else:
            self._check_start(seen)
        # None of the very first samples may count.
        heads = (prepared(batch) for batch in chain([self.head], again()))
        head = next(batch for batch in heads if len(batch))
        return StreamedData(
            *(head, again, seen.rows, list(zip(counting, seen.forms, strict=True))),
            *(seen.summary, checksums, seen.digest.hexdigest(), prepared),
        )

    def _check_start(self, seen: _Seen) -> None:
        """Read the first batch again, while the global random state is another one."""
        with seeded((torch.initial_seed() + 1) % 2**63):
            check_same(seen.checksums, 0, next(iter(self._source())))


def in_memory(data: Any) -> MemoryData:
    """Return data of any form that a Probe takes, all of it in memory.

    Raises:
        DataError: as `Reading`; or batches have different shapes.
    """
    reading = Reading(data, None, None, sys.maxsize, torch.get_default_dtype())
    found = reading.finished(Loss(None, _no_loss, None), None)
    if not isinstance(found, MemoryData):
        raise DataError("all samples must have one shape; batches have several. Pad or crop them.")
    return found


def _no_loss(outputs: Any, targets: Any) -> Tensor:
    raise NotImplementedError  # samples are read, and no loss is computed


def _source(data: Any, unpack: Unpack | None, most: int | None, dtype: torch.dtype) -> Again:
    """Return what reads the data: each call is a pass, over all batches or over some."""
    if is_pair(data):
        whole = as_samples(data[0], data[1], dtype)
        return lambda only=None: _first_rows(_kept([whole], only), most)
    return lambda only=None: (
        opened(data, unpack, dtype, only)  # of those that have been read, so no more than `most`
        if only is not None
        else _first_rows(opened(data, unpack, dtype), most)
    )


def _kept(batches: Sequence[MemoryData], only: Sequence[int] | None = None) -> list[MemoryData]:
    """Return batches in memory, or some of them."""
    return [*batches] if only is None else [batches[at] for at in only]


def _first_rows(batches: Iterable[MemoryData], most: int | None) -> Iterator[MemoryData]:
    left = most
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch.rows(0, left)
        left -= min(left, len(batch))
        if not left:
            return


def _beginning(batches: Iterator[MemoryData]) -> list[MemoryData]:
    """Return the first batches, with at least `HEAD` samples of one shape if there are as many."""
    found: list[MemoryData] = []
    for batch in batches:
        found.append(batch)
        if batch.form != found[0].form or sum(map(len, found)) >= HEAD:
            break
    if not found:
        raise DataError("there must be at least one sample; the data has no batches")
    return found


def _seen(batches: Iterable[MemoryData]) -> _Seen:
    seen = _Seen()
    for batch in batches:
        seen.add_(batch)
    return seen


def _counting(targets: Any) -> int:
    """Return how many samples count where targets are class numbers."""
    if isinstance(targets, Tensor) and is_whole(targets):
        return int((targets.long() != IGNORED).reshape(len(targets), -1).any(1).sum())
    return len(tensors(targets)[0])
