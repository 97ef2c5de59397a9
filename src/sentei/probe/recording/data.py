"""The samples a Probe measures on: read once into memory, checked, and handed out in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sentei.errors import DataError
from sentei.network.example import Example, resized, tensors
from sentei.samples import check_classes, check_finite, check_rows

_AT_ONCE = 1024


@dataclass(frozen=True)
class ProbeData:
    """Inputs and targets with the same number of rows.

    Attributes:
        inputs: what the model takes: a tensor, a tuple of tensors (arguments) or a mapping
            (keywords), each (N, ...).
        targets: (N, ...).
    """

    inputs: Example
    targets: Tensor

    def __len__(self) -> int:
        return self.targets.shape[0]

    def rows(self, start: int, stop: int, device: torch.device) -> ProbeData:
        """Rows `start` to `stop`, on a device."""
        return ProbeData(
            resized(self.inputs, lambda t: t[start:stop].to(device)),
            self.targets[start:stop].to(device),
        )

    def check_classes(self, outputs: Tensor) -> None:
        """Refuse class numbers that the model has no output for.

        Raises:
            DataError: with the number and the row it was found in.
        """
        if not self.targets.is_floating_point() and self.targets.ndim == 1 and outputs.ndim == 2:
            check_classes(self.targets, outputs.shape[1])


def read(data: Any) -> ProbeData:
    """Samples in memory from `(inputs, targets)`, a Dataset or a DataLoader.

    A DataLoader is read once, in the order in which it comes; the last item of its batches is the
    target. The global random state is left as it was.

    Raises:
        DataError: no rows, lengths that differ, NaN or infinite inputs, or an unknown form.
    """
    if isinstance(data, DataLoader):
        samples = _collected(data)
    elif isinstance(data, Dataset):
        samples = _collected(DataLoader(data, batch_size=_AT_ONCE))
    elif isinstance(data, Sequence) and len(data) == 2:
        samples = ProbeData(data[0], torch.as_tensor(data[1]))
    else:
        raise DataError(
            f"data must be (inputs, targets), a Dataset or a DataLoader, not {type(data).__name__}"
        )
    _check(samples)
    return samples


def _collected(loader: DataLoader) -> ProbeData:
    with torch.random.fork_rng(devices=[]):  # a shuffling loader draws from the global state
        batches = [tuple(batch) for batch in loader if isinstance(batch, (tuple, list))]
    if not batches or min(map(len, batches)) < 2:
        raise DataError(
            "a Dataset or DataLoader must give (inputs, ..., target) and at least one sample; "
            "pass (inputs, targets) as tensors if yours gives something else"
        )
    *inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return ProbeData(inputs[0] if len(inputs) == 1 else tuple(inputs), targets)


def _check(samples: ProbeData) -> None:
    given = tensors(samples.inputs)
    if not given:
        raise DataError("inputs must be tensors with a row for each sample; there are none")
    for tensor in given:
        check_rows(tensor, samples.targets)
        check_finite("inputs", tensor)
