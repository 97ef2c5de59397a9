"""Load arrays from .npz files; nothing in them is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.datasets.limits import check_class_numbers, check_memory, check_resolution
from sentei.datasets.split import Split
from sentei.datasets.targets import numbered, split_of
from sentei.errors import DataError
from sentei.samples import Samples

_PAIRS = (("inputs", "targets"), ("x", "y"))


@checked
def npz_file(
    path: Path,
    seed: int = 0,
    flat: bool = True,
    regression: bool = False,
    standardise: bool = True,
) -> Split:
    """Load arrays `inputs` and `targets`, or `x` and `y`, split into three stratified parts.

    Whole numbers as targets are class numbers from 0, strings are names of classes, and floats are
    values to predict. Floats that are all whole numbers could be either, so they need `regression`.

    Args:
        path: file written by `numpy.savez`; pickled objects are refused.
        seed: seed of the stratified draws.
        flat: whether inputs are flattened to (N, values); if False, they keep their shape.
        regression: whether numbers as targets are values to predict, whatever their type.
        standardise: as for `csv_file`.

    Raises:
        DataError: the file is damaged, has no such pair of arrays, inputs and targets do not fit
            together, or float32 numbers cannot tell inputs apart.
    """
    x, y = _arrays(path)
    if x.dtype.kind not in "iuf":
        raise DataError(
            f"inputs in {path} must be real numbers; they are {x.dtype}. Convert them with "
            ".astype(numpy.float32)."
        )
    if not x.ndim or not y.ndim or len(x) != len(y) or not x.size:
        raise DataError(
            f"{path}: inputs and targets must have one row per sample, and inputs a value at "
            f"least; their shapes are {x.shape} and {y.shape}"
        )
    with np.errstate(over="ignore"):  # what overflows is infinite, and is refused as such
        inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs.flatten(1) if flat else inputs
    targets, classes = _targets(path, y, regression)
    names = [f"value {place}" for place in range(inputs[0].numel())]
    if x.dtype.itemsize > 2 and x.dtype != np.float32:  # others are exact in float32
        check_resolution(path, x.reshape(len(x), -1), names)
    return split_of(path, Samples(inputs, targets), classes, seed, names, standardise=standardise)


def _targets(path: Path, y: np.ndarray, regression: bool) -> tuple[Tensor, tuple[str, ...]]:
    """Return targets, and names of classes if they are classes."""
    if regression and y.dtype.kind in "iuf":
        return torch.from_numpy(_singles(y)), ()
    if y.dtype.kind == "f":
        return torch.from_numpy(_values(path, y)), ()
    if y.dtype.kind not in "biuUS":
        raise DataError(
            f"targets in {path} must be class numbers, names or values; they are {y.dtype}. "
            "Convert them to whole numbers, strings or floating-point numbers."
        )
    if y.ndim > 2 or y.size != len(y):
        raise DataError(
            f"classes in {path} must be one a sample, shape ({len(y)},); targets have shape "
            f"{y.shape}. For one-hot targets take .argmax(1); store values to predict as "
            "floating-point numbers."
        )
    y = y.reshape(len(y))
    if y.dtype.kind in "US":
        return numbered(path, [_text(path, label) for label in y])
    check_class_numbers(path, y)
    return torch.from_numpy(y.astype(np.int64)), tuple(map(str, range(int(y.max()) + 1)))


def _values(path: Path, y: np.ndarray) -> np.ndarray:
    """Return values to predict; refuse those that may be class numbers."""
    values = _singles(y)
    if y.size == len(y) and np.isfinite(values).all() and (values == np.floor(values)).all():
        raise DataError(
            f"targets in {path} are whole numbers stored as {y.dtype}, so they may be classes or "
            "values. For classes store them with .astype(int); for values pass "
            "regression=True (on the command line: --regression)."
        )
    return values


def _singles(y: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return y.astype(np.float32)


def _text(path: Path, label: str | bytes) -> str:
    try:
        return label.decode() if isinstance(label, bytes) else str(label)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the class name {label!r} is not UTF-8. Rename it.") from error


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the two arrays; nothing is unpickled, and no more is unpacked than memory holds."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as packed:
            sizes = {each.filename.removesuffix(".npy"): each.file_size for each in packed.filelist}
            pair = next((pair for pair in _PAIRS if all(name in sizes for name in pair)), None)
            if pair is not None:
                check_memory(path, sum(sizes[name] for name in pair))
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    return np.asarray(arrays[pair[0]]), np.asarray(arrays[pair[1]])
    except DataError:
        raise
    except Exception as error:  # damaged archives and headers raise many types of error
        raise DataError(
            f"{path} cannot be read as arrays without pickle: {error}. Write it with numpy.savez, "
            "from arrays of numbers or strings."
        ) from error
    names = ", ".join(map(repr, sizes)) or "nothing"
    raise DataError(f"{path} must hold arrays inputs and targets, or x and y; it holds {names}")
