"""Read IDX files, the format of MNIST: a magic number, the dimensions, the values."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sentei.errors import DataError
from sentei.samples import Samples, check_samples

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PARTS = {"train": "train", "test": "t10k"}


def read_idx(path: Path | Traversable) -> np.ndarray:
    """Read the array in an IDX file, gzipped or not, into this machine's byte order.

    Raises:
        DataError: the file is truncated, too long, or not IDX.
    """
    data = read_bytes(path)
    kind, ndim = data[2:4] if len(data) >= 4 and data[:2] == b"\0\0" else (0, 0)
    if kind not in _TYPES or len(data) < 4 + 4 * ndim:
        raise DataError(
            f"{path} is not an IDX file: it begins with {data[:4].hex(' ') or 'nothing'}"
        )
    shape = struct.unpack_from(f">{ndim}I", data, 4)
    dtype = np.dtype(_TYPES[kind])
    body, expected = len(data) - 4 - 4 * ndim, math.prod(shape) * dtype.itemsize
    if body != expected:
        state = "truncated" if body < expected else "too long"
        raise DataError(
            f"{path} is {state}: its header announces {shape}, {expected} bytes of values, and "
            f"{body} follow. Download the file again."
        )
    values = np.frombuffer(data, dtype, offset=4 + 4 * ndim).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def read_bytes(path: Path | Traversable) -> bytes:
    """Read the bytes of a file, decompressed if its name ends in .gz.

    Raises:
        DataError: a gzip file that is truncated or damaged.
    """
    data = path.read_bytes()
    if not path.name.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or damaged and cannot be unpacked ({error}). Download it again."
        ) from error


def read_images(folder: Path | Traversable, part: str) -> Samples:
    """Read the "train" or "test" images and labels of a folder with MNIST's file names.

    Bytes are scaled to 0 to 1; other types keep their values.

    Args:
        folder: has the files `train-images-idx3-ubyte` and so on (`t10k-…` for test), gzipped or
            not.
        part: "train" or "test".

    Returns:
        (N, height, width) float32 images and (N,) int64 labels.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not belong together.
    """
    images = read_idx(_find(folder, f"{_PARTS[part]}-images", 3))
    labels = read_idx(_find(folder, f"{_PARTS[part]}-labels", 1))
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(
            f"{folder} must hold images with 3 dimensions and labels with 1 for {part}; they have "
            f"{images.ndim} and {labels.ndim}"
        )
    inputs = _scaled(images)
    targets = torch.from_numpy(labels.astype(np.int64))
    check_samples(inputs, targets)
    return Samples(inputs, targets)


def _scaled(images: np.ndarray) -> Tensor:
    inputs = torch.from_numpy(images).float()
    return inputs.div_(255) if images.dtype == np.uint8 else inputs


def _find(folder: Path | Traversable, stem: str, ndim: int) -> Path | Traversable:
    names = list(_names(stem, ndim))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds no {names[0]}, gzipped or not; name the files as MNIST does")


def _names(stem: str, ndim: int) -> Iterator[str]:
    for mark in ("-", "."):  # MNIST's own dash, and the dot that some unpackers put in its place
        yield f"{stem}{mark}idx{ndim}-ubyte"
        yield f"{stem}{mark}idx{ndim}-ubyte.gz"
