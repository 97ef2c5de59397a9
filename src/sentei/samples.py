"""Inputs and targets that belong together, and what has to hold of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from sentei.errors import DataError


class Samples(NamedTuple):
    """Inputs and targets with a row for each sample; an ordinary `(inputs, targets)` pair.

    Attributes:
        inputs: (N, ...).
        targets: (N,) int64 class numbers, or float values.
    """

    inputs: Tensor
    targets: Tensor

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return len(self.targets)

    def first(self, count: int) -> Samples:
        """The first `count` samples, or all if there are fewer.

        Raises:
            ValueError: `count` is less than 1.
        """
        if count < 1:
            raise ValueError(f"at least one sample has to be taken, not {count}")
        return Samples(self.inputs[:count], self.targets[:count])

    def at(self, rows: Tensor) -> Samples:
        """The samples at these rows, in this order."""
        return Samples(self.inputs.index_select(0, rows), self.targets.index_select(0, rows))

    def to(self, device: torch.device) -> Samples:
        """The samples on a device."""
        return Samples(self.inputs.to(device), self.targets.to(device))


def fingerprint(samples: Iterable[Tensor]) -> str:
    """Sixteen hex digits of SHA-256 over types, shapes and every byte: the same only if all is."""
    digest = hashlib.sha256()
    for tensor in samples:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def check_samples(
    inputs: Tensor, targets: Tensor, width: int | None = None, classes: int | None = None
) -> None:
    """Refuse samples that nothing can be learnt from or measured on.

    Args:
        inputs: (N, ...), finite.
        targets: (N, ...), as many rows.
        width: how many values an input must have; any if None.
        classes: how many classes there are, which makes targets whole numbers below it; anything
            finite if None.

    Raises:
        DataError: with the rule, the place of the first value that breaks it, and what to do.
    """
    check_rows(inputs, targets)
    _check_width(inputs, width)
    check_finite("inputs", inputs)
    check_finite("targets", targets)
    if classes is not None:
        check_classes(targets, classes)


def check_classes(targets: Tensor, classes: int) -> None:
    """Refuse targets that are not class numbers from 0 to `classes - 1`.

    Raises:
        DataError: with the first row that has another.
    """
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DataError(
            f"targets must be class numbers, whole and from 0 to {classes - 1}; these are "
            f"{targets.dtype}. Convert them with targets.long()."
        )
    wrong = (targets < 0) | (targets >= classes)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise DataError(
            f"targets must be class numbers from 0 to {classes - 1}, one for each output; row "
            f"{place[0]} has {int(targets[tuple(place)])}. Number the classes from 0, or give the "
            "network more outputs."
        )


def check_rows(inputs: Tensor, targets: Tensor) -> None:
    """Refuse inputs and targets that are not as many, or none.

    Raises:
        DataError: with their shapes.
    """
    if not inputs.ndim or not targets.ndim or len(inputs) != len(targets):
        raise DataError(
            "inputs and targets must have a row for each sample, and as many of them; their shapes "
            f"are {tuple(inputs.shape)} and {tuple(targets.shape)}"
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
    """Refuse NaN and infinity.

    Raises:
        DataError: with the place of the first.
    """
    # NaN and infinity survive a sum, which is forty times faster than asking every value.
    if not values.is_floating_point() or values.sum().isfinite():
        return
    if not values.isfinite().all():
        row, *place = (~values.isfinite()).nonzero()[0].tolist()
        column = f", column {', '.join(map(str, place))}" if place else ""
        raise DataError(
            f"{what} must be finite; row {row}{column} holds {values[(row, *place)].item()} "
            "(counted from 0). Fill or drop such rows first."
        )
