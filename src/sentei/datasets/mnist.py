"""Load MNIST, included in the package: handwritten digits, 28 by 28 pixels."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import torch

from sentei.arguments import checked
from sentei.datasets.idx import read_images
from sentei.datasets.split import Split, stratified
from sentei.errors import DataError, unknown
from sentei.samples import Samples

Parts = tuple[Samples, Samples, Samples]


@checked
def mnist(split: str = "default", seed: int = 0, flat: bool = True) -> Split:
    """Load MNIST with pixels from 0 to 1, split into train, validation and test.

    Args:
        split: sizes of train / validation / test.
            "default": 55,000 / 5,000 (stratified) / 10,000.
            "full": all 60,000 / none / 10,000.
            "shrinking": 4,500 / 500 images, 450 and 50 of each digit, cropped to the central 20 by
            20 pixels; test is MNIST's own test file, cropped, which that paper's was not.
            "distinctiveness": the first 20,000 / 5,000 of the rest (stratified) / the first 2,000
            of the test file.
        seed: seed of the stratified draws.
        flat: whether inputs are rows (N, pixels), row by row of the image; if False, they are
            images (N, 1, height, width).

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(unknown("split of mnist", split, SPLITS))
    home = files("sentei.datasets") / "data" / "mnist"
    parts = SPLITS[split](read_images(home, "train"), read_images(home, "test"), seed)
    return _images("mnist" if split == "default" else f"mnist:{split}", parts, flat)


@checked
def idx_folder(folder: Path | Traversable, seed: int = 0, flat: bool = True) -> Split:
    """Load images from a folder of IDX files that have MNIST's file names.

    A twelfth of the training file, stratified, becomes validation, as in MNIST's default split.

    Args:
        folder: the folder of the four files.
        seed: seed of the stratified draw.
        flat: whether inputs are rows (N, pixels); if False, they are images (N, 1, height, width).

    Raises:
        DataError: a file is missing, truncated or not IDX.
    """
    train, test = read_images(folder, "train"), read_images(folder, "test")
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise DataError(
            f"{folder} must hold images of one size; those for train are "
            f"{tuple(train.inputs.shape[1:])} and those for test {tuple(test.inputs.shape[1:])}"
        )
    parts = _default(train, test, seed)
    return _images(str(folder), parts, flat)


def _default(train: Samples, test: Samples, seed: int) -> Parts:
    held_out = train.rows // 12
    learn, check = stratified(train.targets, (train.rows - held_out, held_out), seed)
    return train.at(learn), train.at(check), test


def _full(train: Samples, test: Samples, _: int) -> Parts:
    return train, Samples(train.inputs[:0], train.targets[:0]), test


def _shrinking(train: Samples, test: Samples, seed: int) -> Parts:
    (shuffled,) = stratified(train.targets, (train.rows,), seed)
    digits = train.targets[shuffled]
    drawn = train.at(torch.cat([shuffled[digits == digit][:500] for digit in range(10)]))
    learn, check = stratified(drawn.targets, (4_500, 500), seed)
    return _cropped(drawn.at(learn)), _cropped(drawn.at(check)), _cropped(test)


def _distinctiveness(train: Samples, test: Samples, seed: int) -> Parts:
    rest = Samples(train.inputs[20_000:], train.targets[20_000:])
    (check,) = stratified(rest.targets, (5_000,), seed)
    return train.first(20_000), rest.at(check), test.first(2_000)


SPLITS: dict[str, Callable[[Samples, Samples, int], Parts]] = {
    "default": _default,
    "full": _full,
    "shrinking": _shrinking,
    "distinctiveness": _distinctiveness,
}


def _cropped(samples: Samples) -> Samples:
    return Samples(samples.inputs[:, 4:24, 4:24].contiguous(), samples.targets)


def _images(name: str, parts: Parts, flat: bool) -> Split:
    height, width = parts[0].inputs.shape[1:]
    train, validation, test = (
        Samples(part.inputs.flatten(1) if flat else part.inputs.unsqueeze(1), part.targets)
        for part in parts
    )
    count = 1 + max(int(part.targets.max()) for part in parts if part.rows)
    pixels = tuple(f"pixel {row},{column}" for row in range(height) for column in range(width))
    return Split(name, train, validation, test, pixels, tuple(map(str, range(count))))
