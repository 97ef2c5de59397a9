"""Load tables from .csv files: where the header is, what separates cells, what a cell says."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from sentei.arguments import checked
from sentei.datasets.limits import check_resolution
from sentei.datasets.split import Split
from sentei.datasets.targets import number, numbered, split_of
from sentei.errors import DataError, unknown
from sentei.samples import Samples

SEPARATORS = ",;\t"
ABSENT = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})  # in any case, for a missing cell
MISSING, TEXT = ("drop", "mean"), ("one-hot",)
SHOWN = 3  # names in a message

_ENCODE = "Pass text='one-hot' for a column of 0 and 1 for each word; write decimals with a point."


@checked
def csv_file(
    path: Path,
    target: str | int = -1,
    seed: int = 0,
    regression: bool = False,
    missing: str | None = None,
    text: str | None = None,
    standardise: bool = True,
) -> Split:
    """Load a table of numbers with one column to predict, split into three stratified parts.

    The first row is a header if no cell outside the target column is a number, or if it cannot be a
    sample: words above numbers, or numbers that count. The cells of the target column are names of
    classes, whether or not they look like numbers, unless `regression` is true.

    Args:
        path: file in UTF-8; cells are separated by commas, semicolons or tabs, and may be quoted.
        target: the column to predict, by name or by position (-1 is the last).
        seed: seed of the stratified draws.
        regression: whether targets are numbers to predict, (N, 1) float32.
        missing: what to do about empty cells, NA, NaN, null and "?": "drop" leaves their rows out,
            "mean" fills in the mean of the column over the training part; None refuses them.
        text: what to do about columns of words: "one-hot" makes a column of 0 and 1 for each word;
            None refuses them.
        standardise: whether inputs are standardised with the mean and standard deviation of the
            training part; if False, they stay as they are, for a network that begins with
            `Standardise.of(split.scaling)`.

    Raises:
        DataError: an unreadable table, a cell that is not a finite number, values that float32
            numbers cannot tell apart, or too many classes.
        ValueError: there is no such column, or an unknown `missing` or `text`.
    """
    for name, chosen, known in (("missing", missing, MISSING), ("text", text, TEXT)):
        if chosen is not None and chosen not in known:
            raise ValueError(unknown(f"value of {name}=", chosen, known))
    table = _table(path, target)
    column = _column(table, target)
    if missing == "drop":
        table = _whole(table)
    labels = [cells[column] for _, cells in table.rows]
    kept = [place for place in range(len(table.names)) if place != column]
    features, inputs = _inputs(table, kept, missing, text)
    if regression:
        values = [number(label) for label in labels]
        pairs = zip(table.rows, values, strict=True)
        wrong = [(line, column) for (line, _), value in pairs if math.isnan(value)]
        _refuse(table, wrong, "Choose a target column of numbers.")
        targets, classes = torch.tensor(values)[:, None], ()
    else:
        targets, classes = numbered(path, labels)
    check_resolution(path, inputs.numpy(), features)
    samples, fill = Samples(inputs.float(), targets), missing == "mean"
    return split_of(path, samples, classes, seed, features, fill=fill, standardise=standardise)


@dataclass(frozen=True)
class _Table:
    """A table as text.

    Attributes:
        path: its file.
        names: a name for each column.
        named: whether the file has a header.
        rows: the number of the line on which each row ends, and its cells without outer spaces.
    """

    path: Path
    names: tuple[str, ...]
    named: bool
    rows: list[tuple[int, list[str]]]


def _table(path: Path, target: str | int) -> _Table:
    """Read a table; find its separator and its header."""
    try:
        rows = _rows(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}. Save it as one.") from error
    width = len(rows[0][1]) if rows else 0
    if width < 2:
        raise DataError(
            f"{path} must have rows of at least two columns, separated by commas, semicolons or "
            "tabs"
        )
    for line, cells in rows:
        if len(cells) != width:
            raise DataError(
                f"{path}, line {line}: {len(cells)} cells where line 1 has {width}. Quote cells "
                "that hold the separator."
            )
    plain = tuple(f"column {place}" for place in range(width))
    if not _has_header([cells for _, cells in rows], target):
        return _Table(path, plain, False, rows)
    if len(rows) == 1:
        raise DataError(f"{path} has a header and no rows. Add samples.")
    names = tuple(name or other for name, other in zip(rows[0][1], plain, strict=True))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: names of columns must differ; {twice[0]!r} stands {names.count(twice[0])} "
            "times. Rename the columns."
        )
    return _Table(path, names, True, rows[1:])


def _rows(content: str) -> list[tuple[int, list[str]]]:
    """Split a table at the separator that gives two cells or more, as many in every row."""
    best: list[tuple[int, list[str]]] = []
    errors = []
    for separator in SEPARATORS:
        try:
            rows = _separated(content, separator)
        except csv.Error as error:
            errors.append(error)
            continue
        widths = {len(cells) for _, cells in rows}
        if len(widths) == 1 and min(widths) > 1:
            return rows
        best = best or (rows if rows and len(rows[0][1]) > 1 else [])
    if errors and not best:
        raise errors[0]
    return best


def _separated(content: str, separator: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]


def _has_header(rows: list[list[str]], target: str | int) -> bool:
    """Return whether the first row names the columns, so that it is not a sample."""
    first, rest = rows[0], rows[1:]
    values = [number(cell) for cell in first]
    place = target % len(first) if isinstance(target, int) else None
    inputs = [value for at, value in enumerate(values) if at != place]
    if all(math.isnan(value) for value in inputs):
        return True
    if _counts(values) and len(values) > 3:
        return True
    words = [at for at, value in enumerate(values) if math.isnan(value) and not _absent(first[at])]
    if any(_is_numeric([cells[at] for cells in rest]) for at in words):
        return True
    at = next((at for at in words if at == place or first[at] == target), None)
    others = [value for other, value in enumerate(values) if other != at]
    if at is None or not rest:
        return False
    return _rises(others) and all(cells[at] != first[at] for cells in rest)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Return whether there are numbers in a column, and nothing but them and missing cells."""
    present = [cell for cell in cells if not _absent(cell)]
    return bool(present) and not any(math.isnan(number(cell)) for cell in present)


def _counts(values: Sequence[float]) -> bool:
    return any(values == list(range(begin, begin + len(values))) for begin in (0, 1))


def _rises(values: Sequence[float]) -> bool:
    """Return whether these are whole numbers, each greater than the one before."""
    return all(v.is_integer() for v in values) and all(a < b for a, b in pairwise(values))


def _absent(cell: str) -> bool:
    return cell.lower() in ABSENT


def _column(table: _Table, target: str | int) -> int:
    """Return the position of the target column."""
    width = len(table.names)
    if isinstance(target, int) and -width <= target < width:
        return target % width
    if table.named and str(target) in table.names:
        return table.names.index(str(target))
    if isinstance(target, int):
        raise ValueError(
            f"{table.path} has columns 0 to {width - 1}; there is no column {target}. Name one of "
            "them."
        )
    if not table.named:
        raise ValueError(f"{table.path} has no header; name the target column by its position")
    raise ValueError(unknown(f"column of {table.path}", target, table.names))


def _whole(table: _Table) -> _Table:
    """Leave out rows with a missing cell."""
    rows = [(line, cells) for line, cells in table.rows if not any(map(_absent, cells))]
    if not rows:
        raise DataError(
            f"{table.path}: every row has a missing cell, so missing='drop' leaves none. Fill the "
            "cells, or pass missing='mean'."
        )
    return replace(table, rows=rows)


def _inputs(
    table: _Table, kept: Sequence[int], missing: str | None, text: str | None
) -> tuple[list[str], torch.Tensor]:
    """Return names of inputs and their values, (N, features) float64; NaN for a mean to come."""
    features: list[str] = []
    columns: list[list[float]] = []
    wrong: list[tuple[int, int]] = []
    for place in kept:
        cells = [row[place] for _, row in table.rows]
        present = {cell for cell in cells if not _absent(cell)}
        words = sorted(present) if all(math.isnan(number(cell)) for cell in present) else []
        if text == "one-hot" and words:
            _check_words(table, place, words)
            features += [f"{table.names[place]}={word}" for word in words]
            columns += [
                [math.nan if _absent(cell) else float(cell == word) for cell in cells]
                for word in words
            ]
        else:
            features.append(table.names[place])
            columns.append([number(cell) for cell in cells])
        allowed = ABSENT if missing == "mean" else frozenset()
        wrong += [
            (table.rows[at][0], place)
            for at, value in enumerate(columns[-1])
            if math.isnan(value) and cells[at].lower() not in allowed
        ]
    _refuse(table, wrong, _ENCODE if text is None else "")
    return features, torch.tensor(columns, dtype=torch.float64).T.contiguous()


def _check_words(table: _Table, place: int, words: Sequence[str]) -> None:
    if len(words) > max(2, len(table.rows) // 2):
        raise DataError(
            f"{table.path}: column {table.names[place]!r} has {len(words)} different words in "
            f"{len(table.rows)} rows, too many for text='one-hot'. Drop the column."
        )


def _refuse(table: _Table, wrong: Sequence[tuple[int, int]], encode: str) -> None:
    """Raise DataError for cells that are not numbers: the first by place and value, all in sum.

    Args:
        table: the table.
        wrong: line and column of each such cell.
        encode: what can be done about words.
    """
    if not wrong:
        return
    cells = dict(table.rows)
    line, place = min(wrong)
    absent = [at for at in wrong if _absent(cells[at[0]][at[1]])]
    others = sorted({at[1] for at in wrong if at not in absent})
    remedies = []
    if absent:
        remedies.append(
            f"Cells are missing in {len({line for line, _ in absent})} of {len(cells)} rows: pass "
            "missing='drop' to leave such rows out, or missing='mean' for the mean of the column."
        )
    if others:
        listed = ", ".join(repr(table.names[at]) for at in others[:SHOWN])
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        remedies.append(f"Text is in {listed}{more}. {encode}".strip())
    raise DataError(
        f"{table.path}, line {line}, {table.names[place]}: {cells[line][place]!r} is not a finite "
        f"number. {' '.join(remedies)}"
    )
