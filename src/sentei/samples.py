"""Pairs of inputs and targets, and checks of their shapes and values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import DataError
from sentei.nests import resized, taken


class Samples(NamedTuple):
    """Inputs and targets with one row per sample; a plain `(inputs, targets)` tuple.

    Attributes:
        inputs: (N, ...), a tensor; of a network with several inputs a tuple or dict of tensors.
        targets: (N,) int64 class numbers, or float values.
    """

    inputs: Any
    targets: Tensor

    @property
    def rows(self) -> int:
        """The number of samples."""
        return len(self.targets)

    def first(self, count: int) -> Samples:
        """Return the first `count` samples, or all if there are fewer.

        Raises:
            ValueError: `count` is less than 1.
        """
        if count < 1:
            raise ValueError(f"at least one sample has to be taken; got count={count}")
        return Samples(resized(self.inputs, lambda t: t[:count]), self.targets[:count])

    def at(self, rows: Tensor) -> Samples:
        """Return the samples at these row numbers, in this order."""
        return Samples(taken(self.inputs, rows), taken(self.targets, rows))

    def to(self, device: torch.device) -> Samples:
        """Return the samples, moved to a device."""
        return Samples(resized(self.inputs, lambda t: t.to(device)), self.targets.to(device))


class Digest:
    """The fingerprint of tensors that arrive in parts, split along dimension 0 anywhere."""

    def __init__(self) -> None:
        self._parts: list[Any] = []  # for each tensor: its hash, rows so far, and the rest of it

    def add_(self, tensors: Iterable[Tensor]) -> None:
        """Add the next rows of each tensor."""
        for i, tensor in enumerate(tensors):
            if i == len(self._parts):
                self._parts.append([hashlib.sha256(), 0, ""])
            part, kind = self._parts[i], f"{tensor.dtype} {tuple(tensor.shape[1:])} "
            if kind != part[2]:
                part[0].update(kind.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            part[0].update(flat.view(torch.uint8).numpy().data)
            part[1:] = part[1] + (len(tensor) if tensor.ndim else 1), kind

    def hexdigest(self) -> str:
        """Return 16 hex digits."""
        found = [f"{rows} {part.hexdigest()}" for part, rows, _ in self._parts]
        return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


@checked
def fingerprint(samples: Iterable[Tensor]) -> str:
    """Return 16 hex digits made by SHA-256 over types, shapes and every byte of the tensors."""
    digest = Digest()
    digest.add_(samples)
    return digest.hexdigest()


@checked
def check_samples(
    inputs: Tensor, targets: Tensor, width: int | None = None, classes: int | None = None
) -> None:
    """Raise DataError for samples on which a network cannot be trained or measured.

    Args:
        inputs: (N, ...), finite.
        targets: (N, ...), with as many rows as `inputs`.
        width: number of values that an input must have; any if None.
        classes: number of classes; targets must then be integers from 0 to `classes - 1`. Any
            finite values if None.

    Raises:
        DataError: names the rule, the position of the first value that breaks it, and the remedy.
    """
    check_rows(inputs, targets)
    _check_width(inputs, width)
    check_finite("inputs", inputs)
    check_finite("targets", targets)
    if classes is not None:
        check_classes(targets, classes)


def check_classes(targets: Tensor, classes: int) -> None:
    """Raise DataError for targets that are not class numbers from 0 to `classes - 1`.

    Raises:
        DataError: names the first row with another value.
    """
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DataError(
            f"targets must be class numbers, integers from 0 to {classes - 1}; these are "
            f"{targets.dtype}. Convert them with targets.long()."
        )
    wrong = (targets < 0) | (targets >= classes)
    if wrong.any():
        position = wrong.nonzero()[0].tolist()
        raise DataError(
            f"targets must be class numbers from 0 to {classes - 1}, one for each output; row "
            f"{position[0]} has {int(targets[tuple(position)])}. Number the classes from 0, or "
            "give the network more outputs."
        )


def check_rows(inputs: Tensor, targets: Tensor) -> None:
    """Raise DataError if inputs and targets differ in their number of rows, or have none.

    Raises:
        DataError: names their shapes.
    """
    if not inputs.ndim or not targets.ndim or len(inputs) != len(targets):
        raise DataError(
            "inputs and targets must have one row per sample, the same number in both; their "
            f"shapes are {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    if not len(inputs):
        raise DataError("there must be at least one sample; the data has no rows")


def _check_width(inputs: Tensor, width: int | None) -> None:
    found = inputs[0].numel()
    if width is not None and found != width:
        raise DataError(
            f"an input must have {width} values; these have {found}, shape "
            f"{tuple(inputs.shape[1:])}. Choose a network of width {found}, or other columns."
        )


def check_finite(what: str, values: Tensor) -> None:
    """Raise DataError if values contain NaN or infinity.

    Raises:
        DataError: names the position of the first.
    """
    # NaN and infinity make a sum not finite; a sum is forty times faster than testing each value.
    if not values.is_floating_point() or values.sum().isfinite():
        return
    if not values.isfinite().all():
        row, *position = (~values.isfinite()).nonzero()[0].tolist()
        column = f", column {', '.join(map(str, position))}" if position else ""
        raise DataError(
            f"{what} must be finite; row {row}{column} holds {values[(row, *position)].item()} "
            "(counted from 0). Fill or drop such rows first."
        )
