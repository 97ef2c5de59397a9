"""From samples in memory to a `Split`: classes are numbered, parts drawn, inputs standardised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sentei.datasets.split import Split, part_sizes, stratified
from sentei.errors import DataError
from sentei.samples import Samples, check_samples


def number(cell: str) -> float:
    """Return the finite number that a text says; NaN if it says none."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def numbered(path: Path, labels: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers and names, sorted as numbers if all are numbers, else by alphabet.

    Raises:
        DataError: an empty name, or too many names for classes.
    """
    distinct = set(labels)
    if "" in distinct:
        raise DataError(
            f"{path}: sample {labels.index('')} (counted from 0) has no target. Fill it or drop "
            "the sample."
        )
    if len(distinct) > max(2, len(labels) // 2):
        raise DataError(
            f"{path} has {len(distinct)} classes for {len(labels)} samples; if the targets are "
            "values to predict, pass regression=True (on the command line: --regression)"
        )
    numeric = not any(math.isnan(number(label)) for label in distinct)
    classes = sorted(distinct, key=lambda label: (number(label) if numeric else 0.0, label))
    places = {label: place for place, label in enumerate(classes)}
    return torch.tensor([places[label] for label in labels]), tuple(classes)


def split_of(
    path: Path,
    samples: Samples,
    classes: tuple[str, ...],
    seed: int,
    features: Sequence[str],
    *,
    fill: bool = False,
    standardise: bool = True,
) -> Split:
    """Draw three stratified parts; standardise inputs by the training part, or note how to.

    Args:
        path: where the samples are from.
        samples: all of them.
        classes: names of the classes; empty if targets are values.
        seed: seed of the draws.
        features: a name for each value of an input.
        fill: whether NaN in inputs stands for a missing value, which becomes the mean that the
            feature has in the training part.
        standardise: whether inputs are standardised; if False, they stay as they are.

    Raises:
        DataError: samples on which no network can be trained, or too few.
    """
    known = samples.inputs.masked_fill(samples.inputs.isnan(), 0) if fill else samples.inputs
    try:
        check_samples(known, samples.targets, classes=len(classes) or None)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    sizes = part_sizes(samples.rows)
    if min(sizes) < 1:
        raise DataError(
            f"{path} has {samples.rows} samples, too few for train, validation and test; give at "
            "least 4"
        )
    drawn = stratified(samples.targets, sizes, seed)
    train, validation, test = (samples.at(rows) for rows in drawn)
    if fill:
        mean = _means(path, train, features)
        train, validation, test = (_filled(part, mean) for part in (train, validation, test))
    split = Split(str(path), train, validation, test, tuple(features), classes)
    return split.standardised() if standardise else split.as_it_is()


def _means(path: Path, train: Samples, features: Sequence[str]) -> Tensor:
    """Return the mean of each feature over its values that are not missing."""
    means = train.inputs.double().nanmean(0).float()
    if means.isnan().any():
        empty = features[int(means.isnan().nonzero()[0])]
        raise DataError(
            f"{path}: column {empty!r} has no number in the training part, so it has no mean. Drop "
            "the column."
        )
    return means


def _filled(part: Samples, values: Tensor) -> Samples:
    """Replace NaN in inputs by the value of its feature."""
    return Samples(torch.where(part.inputs.isnan(), values, part.inputs), part.targets)
