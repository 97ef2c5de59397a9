"""Three parts that share no sample: to learn from, to decide by, and to look at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sentei.errors import DataError
from sentei.samples import Samples

FRACTIONS = (0.7, 0.15, 0.15)


@dataclass(frozen=True, eq=False)
class Scaling:
    """A z-score per feature, fitted once: what was done to the inputs, for doing it again.

    Attributes:
        mean: (features), of the training inputs.
        std: (features), likewise (over N, not N - 1); 1 where a feature never changes.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> Scaling:
        """Fitted to (N, ...) inputs."""
        wide = inputs.double()
        constant = wide.amax(0) == wide.amin(0)  # asked exactly: rounding leaves a std of 1e-17
        std = wide.std(0, correction=0).masked_fill(constant, 1.0)
        return cls(wide.mean(0), std)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The inputs with mean 0 and standard deviation 1, as float32."""
        return ((inputs.double() - self.mean) / self.std).float()


@dataclass(frozen=True, eq=False)
class Split:
    """Data in three parts that share no sample, in memory.

    Attributes:
        name: what was loaded, such as "mnist" or "letter:authors".
        train: what networks learn from and criteria look at.
        validation: what limits and choices are measured on. A few named splits have none; it then
            has no rows, and measuring on it is refused.
        test: what is looked at once, at the end.
        features: a name for each value of an input, in flattened order.
        classes: a name for each class; empty if the targets are not classes.
        scaling: the z-score that was applied, fitted on `train` alone; None if none was.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    features: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    scaling: Scaling | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def standardised(self) -> Split:
        """The same parts, every feature with mean 0 and standard deviation 1 over `train`."""
        scaling = Scaling.of(self.train.inputs)
        train, validation, test = (
            Samples(scaling(part.inputs), part.targets)
            for part in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test, scaling=scaling)

    def __repr__(self) -> str:
        rows = f"{self.train.rows:,} / {self.validation.rows:,} / {self.test.rows:,}"
        return f"Split({self.name!r}: {rows} samples of shape {self.shape})"


def stratified(targets: Tensor, sizes: Sequence[int], seed: int = 0) -> tuple[Tensor, ...]:
    """Rows for parts of these sizes, every class in each part in proportion.

    A part of n of all N samples gets n N_c / N samples of class c, rounded up or down.

    Args:
        targets: (N,) class numbers; float targets count as one class.
        sizes: how many samples each part gets; together at most N.
        seed: the same seed draws the same rows.

    Returns:
        For each part its rows, int64, in random order. No row is in two parts.

    Raises:
        DataError: the parts are larger than the data, or negative.
    """
    sizes, total = list(sizes), len(targets)
    if not total or min(sizes) < 0 or sum(sizes) > total:
        raise DataError(f"parts of {sizes} samples cannot be drawn from {total}; ask for fewer")
    labels = torch.zeros(total) if targets.is_floating_point() else targets
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(total, generator=generator)
    members = [shuffled[labels[shuffled] == label] for label in labels.unique()]
    table = _shares([len(rows) for rows in members], [*sizes, total - sum(sizes)])
    dealt = [rows.split(shares) for rows, shares in zip(members, table, strict=True)]
    parts = [torch.cat(part) for part in zip(*dealt, strict=True)][: len(sizes)]
    return tuple(rows[torch.randperm(len(rows), generator=generator)] for rows in parts)


def _shares(counts: list[int], sizes: list[int]) -> list[list[int]]:
    """Whole numbers that add up to `counts` by row and `sizes` by column, all nearly in proportion.

    Rounded down first; what a row then lacks goes to the columns that lack most. Such a rounding
    always exists (the fractions themselves are a flow with these margins), and taking the columns
    with the largest need finds it (Gale and Ryser, 1957).
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
    """How many samples train, validation and test get; train takes what rounding leaves."""
    _, validation, test = (round(total * fraction) for fraction in fractions)
    return total - validation - test, validation, test
