"""Read IDX files, the format of MNIST: a magic number, the dimensions, the values."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sentei.datasets.limits import check_class_numbers, check_memory
from sentei.errors import DataError
from sentei.samples import Samples, check_samples

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DIMENSIONS = 8  # the most that an array may have
BLOCK = 1 << 20  # bytes that are unpacked at a time
_PARTS = {"train": "train", "test": "t10k"}


def read_idx(path: Path | Traversable) -> np.ndarray:
    """Read the array in an IDX file, gzipped or not, into this machine's byte order.

    Not more is unpacked than the header announces.

    Raises:
        DataError: the file is truncated, too long, or not IDX.
    """
    try:
        with path.open("rb") as file:
            packed = path.name.endswith(".gz")
            return _array(path, gzip.GzipFile(fileobj=file).read if packed else file.read)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or damaged and cannot be unpacked ({error}). Download it again."
        ) from error


def _array(path: Path | Traversable, read: Callable[[int], bytes]) -> np.ndarray:
    magic = read(4)
    kind, ndim = magic[2:] if len(magic) == 4 and magic[:2] == b"\0\0" else (0, 0)
    sizes = read(4 * ndim)
    if kind not in _TYPES or not 0 < ndim <= DIMENSIONS or len(sizes) < 4 * ndim:
        raise DataError(
            f"{path} is not an IDX file: it begins with {magic.hex(' ') or 'nothing'}. An IDX file "
            f"begins with 00 00, the type of its values, and 1 to {DIMENSIONS} dimensions."
        )
    shape, dtype = struct.unpack(f">{ndim}I", sizes), np.dtype(_TYPES[kind])
    expected = math.prod(shape) * dtype.itemsize
    check_memory(path, expected)
    data = bytearray()
    while len(data) <= expected and (block := read(min(BLOCK, expected + 1 - len(data)))):
        data += block
    if len(data) != expected:
        state = "truncated" if len(data) < expected else "too long"
        follow = f"{len(data)}" if len(data) < expected else "more"
        raise DataError(
            f"{path} is {state}: its header announces {shape}, {expected} bytes of values, and "
            f"{follow} follow. Download the file again."
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


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
    if not images.size or not labels.size or labels.dtype.kind == "f":
        raise DataError(
            f"{folder} must hold at least one image with pixels, and whole numbers as labels, for "
            f"{part}; images have shape {images.shape}, labels are {labels.dtype}"
        )
    check_class_numbers(folder, labels)
    inputs, targets = _scaled(images), torch.from_numpy(labels.astype(np.int64))
    try:
        check_samples(inputs, targets)
    except DataError as error:
        raise DataError(f"{folder}, {part}: {error}") from error
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
