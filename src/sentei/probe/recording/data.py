"""Read the samples that a Probe measures on into memory, check them and slice them into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sentei.errors import DataError
from sentei.losses import Loss
from sentei.network.example import Example, Forward, ForwardCall, resized, tensors
from sentei.network.forward import own_inputs, with_forward
from sentei.samples import check_finite, check_rows

_TRIED = 4  # samples on which forward= is tried
_BATCH = 1024  # samples per batch when a Dataset is read


@dataclass(frozen=True)
class ProbeData:
    """Inputs and targets with the same number of rows.

    Attributes:
        inputs: the model's inputs: a tensor, a tuple of tensors (positional arguments) or a mapping
            (keyword arguments), each (N, ...); with the function that runs the network on them, if
            there is one.
        targets: (N, ...).
    """

    inputs: Example
    targets: Tensor

    def __len__(self) -> int:
        return self.targets.shape[0]

    def rows(self, start: int, stop: int, device: torch.device) -> ProbeData:
        """Return rows `start` to `stop` (exclusive), on a device."""
        return ProbeData(
            resized(self.inputs, lambda t: t[start:stop].to(device)),
            self.targets[start:stop].to(device),
        )

    def run_by(self, model: nn.Module, forward: Forward | None) -> ProbeData:
        """Return the samples with the function that runs a network on their inputs.

        Raises:
            StructureError, DataError: as `with_forward`.
        """
        if forward is None:
            return self
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with_forward(model, own_inputs(self.rows(0, _TRIED, device).inputs), forward)
        return ProbeData(ForwardCall(own_inputs(self.inputs), forward), self.targets)

    def fit_for(self, loss: Loss) -> ProbeData:
        """Return the samples that count, with targets as the loss takes them.

        Raises:
            DataError: no sample counts.
        """
        rows = loss.counting(self.targets)
        if rows is None:
            return ProbeData(self.inputs, loss.fitted(self.targets))
        inputs = resized(self.inputs, lambda tensor: tensor[rows.to(tensor.device)])
        return ProbeData(inputs, loss.fitted(self.targets[rows]))


def read(data: Any) -> ProbeData:
    """Read `(inputs, targets)`, a Dataset or a DataLoader into memory and check it.

    A DataLoader is read once, in its own order; the last item of each batch is the target. The
    global random state does not change.

    Raises:
        DataError: no rows, lengths that differ, NaN or infinite inputs, or an unknown form.
    """
    if isinstance(data, DataLoader):
        samples = _read_batches(data)
    elif isinstance(data, Dataset):
        samples = _read_batches(DataLoader(data, batch_size=_BATCH))
    elif isinstance(data, Sequence) and len(data) == 2:
        samples = ProbeData(data[0], torch.as_tensor(data[1]))
    else:
        raise DataError(
            f"data must be (inputs, targets), a Dataset or a DataLoader, not {type(data).__name__}"
        )
    _check_rows(samples)
    return samples


def _read_batches(loader: DataLoader) -> ProbeData:
    with torch.random.fork_rng(devices=[]):  # a shuffling loader draws from the global state
        batches = [tuple(batch) for batch in loader if isinstance(batch, (tuple, list))]
    if not batches or min(map(len, batches)) < 2:
        raise DataError(
            "a Dataset or DataLoader must yield (inputs, ..., target) and at least one sample; "
            "if yours yields something else, pass (inputs, targets) as tensors"
        )
    *inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return ProbeData(inputs[0] if len(inputs) == 1 else tuple(inputs), targets)


def _check_rows(samples: ProbeData) -> None:
    given = tensors(samples.inputs)
    if not given:
        raise DataError("inputs must be tensors with a row for each sample; there is no tensor")
    for tensor in given:
        check_rows(tensor, samples.targets)
        check_finite("inputs", tensor)
