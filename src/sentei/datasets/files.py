"""Load a user's own data: tables from .csv files, arrays from .npz files."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sentei.datasets.split import Split, part_sizes, stratified
from sentei.errors import DataError, unknown
from sentei.samples import Samples, check_samples

_PAIRS = (("inputs", "targets"), ("x", "y"))


def csv_file(path: Path, target: str | int = -1, seed: int = 0, regression: bool = False) -> Split:
    """Load a table of numbers with one column to predict, split into three stratified parts.

    Inputs are standardised with the mean and standard deviation of the training part. The first row
    is a header if no cell outside the target column is a number. The cells of the target column are
    names of classes, whether or not they look like numbers, unless `regression` is true.

    Args:
        path: comma-separated file in UTF-8.
        target: the column to predict, by name or by position (-1 is the last).
        seed: seed of the stratified draws.
        regression: whether targets are numbers to predict, (N, 1) float32.

    Raises:
        DataError: an unreadable table, a cell that is not a finite number, or too many classes.
        ValueError: there is no such column.
    """
    header, rows = _table(path, target)
    column = _column(path, target, header, len(rows[0][1]))
    names = header or [f"column {number}" for number in range(len(rows[0][1]))]
    kept = [number for number in range(len(names)) if number != column]
    inputs = torch.tensor(
        [[_number(path, line, names[k], cells[k]) for k in kept] for line, cells in rows]
    )
    labels = [cells[column].strip() for _, cells in rows]
    if regression:
        values = zip(rows, labels, strict=True)
        targets = [[_number(path, line, names[column], text)] for (line, _), text in values]
        return _parts(path, Samples(inputs, torch.tensor(targets)), (), seed, names, kept)
    numbers, classes = _classes(path, labels)
    return _parts(path, Samples(inputs, numbers), classes, seed, names, kept)


def npz_file(path: Path, seed: int = 0, flat: bool = True) -> Split:
    """Load arrays `inputs` and `targets`, or `x` and `y`, split into three stratified parts.

    Inputs are standardised with the mean and standard deviation of the training part. Integer
    targets are class numbers from 0, strings are names of classes, and floats are values to
    predict.

    Args:
        path: file written by `numpy.savez`; pickled objects are refused.
        seed: seed of the stratified draws.
        flat: whether inputs are flattened to (N, values); if False, they keep their shape.

    Raises:
        DataError: the file is damaged, has no such pair of arrays, or inputs and targets do not
            fit together.
    """
    x, y = _arrays(path)
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise DataError(f"inputs in {path} must be real numbers; they are {x.dtype}")
    inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if y.dtype.kind in "US":
        targets, classes = _classes(path, [str(label) for label in y.ravel()])
    elif y.dtype.kind == "f":
        targets, classes = torch.from_numpy(y.astype(np.float32)), ()
    else:
        targets = torch.from_numpy(y.astype(np.int64))
        classes = tuple(str(number) for number in range(int(y.max(initial=-1)) + 1))
    samples = Samples(inputs.flatten(1) if flat and inputs.ndim > 1 else inputs, targets)
    width = samples.inputs[:1].numel()
    names = [f"value {number}" for number in range(width)]
    return _parts(path, samples, classes, seed, names, list(range(width)))


def _parts(
    path: Path,
    samples: Samples,
    classes: tuple[str, ...],
    seed: int,
    names: list[str],
    kept: list[int],
) -> Split:
    try:
        check_samples(samples.inputs, samples.targets, classes=len(classes) or None)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    sizes = part_sizes(samples.rows)
    if min(sizes) < 1:
        raise DataError(
            f"{path} has {samples.rows} samples, too few for train, validation and test; give at "
            "least 4"
        )
    parts = stratified(samples.targets, sizes, seed)
    train, validation, test = (samples.at(rows) for rows in parts)
    features = tuple(names[number] for number in kept)
    return Split(str(path), train, validation, test, features, classes).standardised()


def _table(path: Path, target: str | int) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header (empty if there is none), and every row with its line number."""
    try:
        reader = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from error
    if not rows or len(rows[0][1]) < 2:
        raise DataError(f"{path} must have rows of at least two comma-separated columns")
    width = len(rows[0][1])
    for line, cells in rows:
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: {len(cells)} cells where line 1 has {width}")
    first = rows[0][1]
    position = target % width if isinstance(target, int) else None
    inputs = [cell for number, cell in enumerate(first) if number != position]
    if any(_is_number(cell) for cell in inputs):
        return [], rows
    if len(rows) == 1:
        raise DataError(f"{path} has a header and no rows")
    return [cell.strip() for cell in first], rows[1:]


def _column(path: Path, target: str | int, header: list[str], width: int) -> int:
    if isinstance(target, int):
        if not -width <= target < width:
            raise ValueError(f"{path} has columns 0 to {width - 1}; there is no column {target}")
        return target % width
    if not header:
        raise ValueError(f"{path} has no header; name the target column by its position")
    if target not in header:
        raise ValueError(unknown(f"column of {path}", target, header))
    return header.index(target)


def _number(path: Path, line: int, name: str, cell: str) -> float:
    if not _is_number(cell):
        raise DataError(
            f"{path}, line {line}, {name}: {cell!r} is not a finite number. Fill or drop such "
            "rows, and encode words as numbers."
        )
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _classes(path: Path, labels: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers and names, sorted as numbers if all are numbers, else by alphabet."""
    distinct = set(labels)
    if "" in distinct:
        raise DataError(f"{path}: sample {labels.index('')} (counted from 0) has no target")
    if len(distinct) > max(2, len(labels) // 2):
        raise DataError(
            f"{path} has {len(distinct)} classes for {len(labels)} samples; if the targets are "
            "values to predict, pass regression=True"
        )
    numeric = all(_is_number(label) for label in distinct)
    classes = sorted(distinct, key=lambda label: (float(label) if numeric else 0.0, label))
    number = {label: position for position, label in enumerate(classes)}
    return torch.tensor([number[label] for label in labels]), tuple(classes)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for pair in _PAIRS:
                if all(name in arrays for name in pair):
                    return arrays[pair[0]], arrays[pair[1]]
            names = ", ".join(arrays.files) or "nothing"
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as arrays without pickle: {error}") from error
    raise DataError(f"{path} must hold arrays inputs and targets, or x and y; it holds {names}")
