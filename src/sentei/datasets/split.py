"""`Split`: data in train, validation and test parts, and stratified draws of such parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import DataError
from sentei.nests import tensors
from sentei.samples import Samples

FRACTIONS = (0.7, 0.15, 0.15)
_COUNTED = re.compile(r"(column|value|pixel) [\d,]+")  # names that readers make up


@checked
@dataclass(frozen=True, eq=False)
class Scaling:
    """Standardisation of inputs: subtract a mean and divide by a standard deviation per feature.

    Attributes:
        mean: (features,) mean of the training inputs.
        std: (features,) standard deviation of the training inputs (over N, not N - 1); 1 for a
            constant feature.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> Scaling:
        """Return the Scaling fitted to (N, ...) inputs."""
        values = inputs.double()
        constant = values.amax(0) == values.amin(0)  # not std == 0: rounding may leave 1e-17
        std = values.std(0, correction=0).masked_fill(constant, 1.0)
        return cls(values.mean(0), std)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the standardised inputs as float32.

        Raises:
            DataError: the inputs do not have these features.
        """
        if inputs.shape[inputs.ndim - self.mean.ndim :] != self.mean.shape:
            raise DataError(
                f"this scaling is of inputs of shape {tuple(self.mean.shape)}, one at least; these "
                f"have shape {tuple(inputs.shape)}. Make another with Scaling.of(inputs)."
            )
        return ((inputs.double() - self.mean) / self.std).float()


@checked
@dataclass(frozen=True, eq=False)
class Split:
    """Data in memory in three parts without common samples: train, validation and test.

    Attributes:
        name: name of the data, such as "mnist" or "letter:authors", or its path.
        train: samples to train on and to compute scores on.
        validation: samples to measure limits and choices on. A few named splits have none; it then
            has no rows, and measuring on it is refused.
        test: samples to measure on once, at the end.
        features: a name for each value of an input, in flattened order.
        classes: a name for each class; empty if the targets are not classes.
        scaling: the standardisation of inputs, fitted on `train` alone; None for data that needs
            none, such as MNIST.
        raw: whether inputs are as they are in the data, so that `scaling` was not applied to them;
            a network that begins with `Standardise.of(scaling)` takes them.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    features: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    scaling: Scaling | None = None
    raw: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input; of the first, where a network has several."""
        return tuple(tensors(self.train.inputs)[0].shape[1:])

    @property
    def named_features(self) -> tuple[str, ...]:
        """Names of features that the data gives; () where they only count values, as pixels do."""
        counted = all(_COUNTED.fullmatch(name) for name in self.features)
        return () if counted else self.features

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Names of classes that say more than their numbers; () where they do not."""
        numbers = tuple(map(str, range(len(self.classes))))
        return () if self.classes == numbers else self.classes

    def standardised(self) -> Split:
        """Return the same parts, every feature standardised by its mean and std over `train`."""
        scaling = Scaling.of(self.train.inputs)
        train, validation, test = (
            Samples(scaling(part.inputs), part.targets)
            for part in (self.train, self.validation, self.test)
        )
        parts = {"train": train, "validation": validation, "test": test}
        return replace(self, **parts, scaling=scaling, raw=False)

    def as_it_is(self) -> Split:
        """Return the same parts with the scaling that `standardised` would apply to them."""
        return replace(self, scaling=Scaling.of(self.train.inputs), raw=True)

    def __repr__(self) -> str:
        rows = f"{self.train.rows:,} / {self.validation.rows:,} / {self.test.rows:,}"
        shapes = " and ".join(str(tuple(t.shape[1:])) for t in tensors(self.train.inputs))
        return f"Split({self.name!r}: {rows} samples of shape {shapes})"


@checked
def stratified(targets: Tensor, sizes: Sequence[int], seed: int = 0) -> tuple[Tensor, ...]:
    """Draw the rows of disjoint parts of these sizes, with every class in proportion in each part.

    A part of n of all N samples gets n N_c / N samples of class c, rounded up or down.

    Args:
        targets: (N,) class numbers; float targets count as one class.
        sizes: number of samples of each part; together at most N.
        seed: seed of the draw; the same seed draws the same rows.

    Returns:
        For each part its rows, int64, in random order. No row is in two parts.

    Raises:
        DataError: the parts are larger than the data, or negative.
    """
    sizes, total = list(sizes), len(targets)
    if not total or min(sizes, default=-1) < 0 or sum(sizes) > total:
        raise DataError(f"parts of sizes {sizes} cannot be drawn from {total} targets; take fewer")
    labels = torch.zeros(total) if targets.is_floating_point() else targets
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(total, generator=generator)
    members = [shuffled[labels[shuffled] == label] for label in labels.unique()]
    table = _shares([len(rows) for rows in members], [*sizes, total - sum(sizes)])
    by_class = [rows.split(shares) for rows, shares in zip(members, table, strict=True)]
    parts = [torch.cat(part) for part in zip(*by_class, strict=True)][: len(sizes)]
    return tuple(rows[torch.randperm(len(rows), generator=generator)] for rows in parts)


def _shares(counts: list[int], sizes: list[int]) -> list[list[int]]:
    """Return a table of integers with row sums `counts` and column sums `sizes`, in proportion.

    Proportional values are rounded down first. What a row then lacks is added, one each, to the
    columns that lack most. Such a rounding always exists (the fractions themselves are a flow with
    these margins), and choosing the columns that lack most finds it (Gale and Ryser, 1957).
    """
    total = max(sum(counts), 1)
    table = [[count * size // total for size in sizes] for count in counts]
    lack = [
        size - sum(column) for size, column in zip(sizes, zip(*table, strict=True), strict=True)
    ]
    for count, row in zip(counts, table, strict=True):
        neediest = sorted(range(len(sizes)), key=lambda part: -lack[part])
        for part in neediest[: count - sum(row)]:
            row[part] += 1
            lack[part] -= 1
    return table


def part_sizes(total: int, fractions: Sequence[float] = FRACTIONS) -> tuple[int, int, int]:
    """Return the sizes of train, validation and test; train gets the remainder of the rounding."""
    _, validation, test = (round(total * fraction) for fraction in fractions)
    return total - validation - test, validation, test
