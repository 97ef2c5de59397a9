"""What a network is trained and measured on: samples in memory, or data read at every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sentei.card import card_of
from sentei.devices import device_of
from sentei.errors import DataError
from sentei.losses import Loss, PerSample, check_takes, chosen_for
from sentei.nests import tensors
from sentei.reading.batches import Unpack, beginning, is_pair, opened
from sentei.reading.data import Measured, MemoryData
from sentei.reading.first_pass import Reading
from sentei.running import Forward, own_inputs, run
from sentei.samples import check_finite
from sentei.training.seeds import seeded

_MEMORY = 2**30  # bytes of samples that are kept; what is more is read again at each pass
TRIED = 2  # samples on which networks are tried


@dataclass(frozen=True)
class Feed:
    """The user's data for one network, and how it is taken apart.

    Attributes:
        model: the network.
        data: what a Probe takes.
        unpack: takes a batch apart; None where it is plain.
        forward: how networks are run on the inputs; None if they are called.
    """

    model: nn.Module
    data: Any
    unpack: Unpack | None = None
    forward: Forward | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """What floating-point arrays are converted to: the type of the network's parameters."""
        return next((p.dtype for p in self.model.parameters()), torch.get_default_dtype())

    def measured(self, loss: str | PerSample | None) -> tuple[Measured, Loss]:
        """Read all samples, and choose the loss.

        Returns:
            The samples that count, with targets as the loss takes them; in memory on the network's
            device.

        Raises:
            DataError: the network cannot take the samples.
            LossError: the loss does not fit them.
        """
        reading = Reading(self.data, self.unpack, None, _MEMORY, self.dtype)
        parts = reading.against(self._outputs(reading.head, loss), self._outputs)
        found = chosen_for(loss, _finite(parts, loss), card_of(self.model).loss)
        samples = reading.finished(found, self.forward)
        return self.moved(samples) if isinstance(samples, MemoryData) else samples, found

    def learnt(self, loss: str | PerSample | None, size: int) -> tuple[MemoryData | Passes, Loss]:
        """Return what the network is trained on, and the loss; `(inputs, targets)` are read.

        Args:
            loss: as for `chosen_for`.
            size: samples in a batch of a Dataset.

        Raises:
            DataError, LossError: as `measured`; of a loader, for its first batch.
        """
        if is_pair(self.data):
            samples, found = self.measured(loss)
            assert isinstance(samples, MemoryData)  # however much memory it takes
            return samples, found
        check_readable(self.data)
        first = beginning(self.data, self.unpack, self.dtype)
        parts = [(self._outputs(first, loss), first.targets)]
        found = chosen_for(loss, _finite(parts, loss), card_of(self.model).loss)
        head = self.moved(first.rows(0, TRIED)).run_by(self.forward)
        return Passes(self, found, size, head), found

    def moved(self, batch: MemoryData) -> MemoryData:
        """Return samples on the network's device."""
        return batch.rows(0, len(batch), self.device)

    def outputs_for(self, model: nn.Module, inputs: Any) -> Any:
        """Run a network on a few samples in evaluation mode.

        Raises:
            DataError: it cannot take them.
        """
        with mode(model, training=False), torch.no_grad(), seeded(0):
            try:
                return run(model, inputs)
            except Exception as error:
                raise DataError(_not_taken(own_inputs(inputs), error)) from error

    def _outputs(self, batch: MemoryData, loss: str | PerSample | None = None) -> Any:
        some = batch.rows(0, TRIED, self.device).run_by(self.forward)
        found = self.outputs_for(self.model, some.inputs)
        if callable(loss):
            check_takes(loss, found, some.targets)
        return found


@dataclass(frozen=True)
class Passes:
    """Data that is read anew in every epoch, batch by batch.

    Attributes:
        feed: the data and the network.
        loss: which samples count, and how targets are prepared.
        size: samples in a batch of a Dataset.
        head: a few samples.
    """

    feed: Feed
    loss: Loss
    size: int
    head: MemoryData

    @property
    def updates(self) -> int | None:
        """How many batches an epoch has; None where the data has no length."""
        count = _length(self.feed.data)
        return count if count is None or not _is_rows(self.feed.data) else -(-count // self.size)

    def batches(self) -> Iterator[MemoryData]:
        """Yield the batches of one epoch.

        A Dataset is read in an order drawn from torch's global random state; all else in its own.

        Raises:
            DataError, LossError: a batch is not what the network and the loss take.
        """
        data, feed = self.feed.data, self.feed
        if _is_rows(data):
            order = None if _length(data) is None else torch.randperm(len(data)).tolist()
            data = DataLoader(data, batch_size=self.size, sampler=order)
        for batch in opened(data, feed.unpack, feed.dtype):
            if self.loss.name is not None:
                for target in tensors(batch.targets):
                    check_finite("targets", target)
            fit = batch.run_by(feed.forward).fit_for(self.loss)
            if len(fit):
                yield feed.moved(fit)


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set training or evaluation mode in a `with` block; every module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def check_readable(data: Any) -> None:
    """Raise DataError for data that can be read only once.

    Raises:
        DataError: it is an iterator.
    """
    if isinstance(data, Iterator):
        raise DataError(
            "data for training is read once in every epoch, and an iterator can be read once. Pass "
            "what can be read again: a DataLoader, a Dataset or a list of batches."
        )


def _is_rows(data: Any) -> bool:
    """Return whether data are a Dataset, whose samples come one by one."""
    return isinstance(data, Dataset)


def _length(data: Any) -> int | None:
    if isinstance(data, IterableDataset):
        return None  # its length, if it has one, does not make its samples numbered
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _finite(parts: Any, loss: Any) -> Iterator[tuple[Any, Any]]:
    """Yield outputs and targets; where the loss is sentei's, targets have to be finite."""
    for outputs, targets in parts:
        if not callable(loss):
            for target in tensors(targets):
                check_finite("targets", target)
        yield outputs, targets


def _not_taken(inputs: Any, error: Exception) -> str:
    found = [
        f"({', '.join(map(str, ('N', *tensor.shape[1:])))}) and type {tensor.dtype}"
        for tensor in tensors(inputs)
    ]
    return f"the model cannot take inputs of shape {', '.join(found)}: {error}"
