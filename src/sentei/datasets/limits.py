"""What a file of data may ask for, checked before memory is taken for it."""

from __future__ import annotations

import os

import numpy as np

from sentei.errors import DataError

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
