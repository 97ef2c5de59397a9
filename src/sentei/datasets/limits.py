"""What a file of data may ask for, checked before memory is taken for it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np

from sentei.errors import DataError

BLOCK = 1 << 22  # numbers that are looked at together
CLASSES = 100_000  # the most classes that numbers may stand for; more are taken for a mistake


def check_class_numbers(path: object, numbers: np.ndarray) -> None:
    """Raise DataError for class numbers below 0 or beyond what can be classes.

    Args:
        path: where they are from.
        numbers: (N,) whole numbers of any type.

    Raises:
        DataError: names the rule and the first row with another number.
    """
    wrong = (numbers < 0) | (numbers >= CLASSES)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{path}: whole numbers as targets are class numbers from 0 to {CLASSES - 1}; row "
            f"{row} has {numbers[row]}. Number the classes from 0; store values to predict as "
            "floating-point numbers."
        )


def check_resolution(path: object, inputs: np.ndarray, names: Sequence[str]) -> None:
    """Raise DataError for inputs that differ by less than float32 numbers of their size do.

    Networks take float32. A time in seconds since 1970 has steps of 128 seconds in it.

    Args:
        path: where they are from.
        inputs: (N, features) numbers; NaN for a missing one.
        names: a name for each feature.

    Raises:
        DataError: names the first feature whose float32 numbers are more than an eighth of its
            standard deviation apart.
    """
    blocks = np.array_split(inputs, -(-inputs.size // BLOCK), axis=1)  # float64 copies stay small
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a feature without any number has no deviation
        largest = np.concatenate([np.nanmax(np.abs(b.astype(np.float64)), axis=0) for b in blocks])
        deviation = np.concatenate([np.nanstd(b, axis=0, dtype=np.float64) for b in blocks])
        spacing = largest * np.finfo(np.float32).eps
        # What differs in the last digits of float64 alone is a constant with rounding errors.
        wrong = (spacing > deviation / 8) & (deviation > 1e-12 * largest)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"{path}: {names[at]} has values up to {largest[at]:g} with a deviation of "
            f"{deviation[at]:.3g}, and networks take float32 numbers, which are "
            f"{spacing[at]:.2g} apart there. Subtract about {np.nanmean(inputs[:, at]):g} from it "
            "in the data."
        )


def check_memory(path: object, size: int) -> None:
    """Raise DataError for data that this machine's memory cannot hold.

    Args:
        path: where it is from.
        size: bytes of the data, unpacked.

    Raises:
        DataError: names both sizes.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise DataError(
            f"{path} announces {size:,} bytes of data, and this machine has {memory:,} bytes of "
            "memory. Give a part of the data, or check where the file is from."
        )
