"""Load Letter Recognition, included in the package: 16 measurements of printed capital letters."""

from __future__ import annotations

import string
from importlib.resources import files
from io import BytesIO

import numpy as np
import torch

from sentei.arguments import checked
from sentei.datasets.split import Split, part_sizes, stratified
from sentei.errors import unknown
from sentei.samples import Samples

FEATURES = (
    *("x-box", "y-box", "width", "high", "onpix", "x-bar", "y-bar", "x2bar"),
    *("y2bar", "xybar", "x2ybr", "xy2br", "x-ege", "xegvy", "y-ege", "yegvx"),
)
SPLITS = ("default", "authors")


@checked
def letter(split: str = "default", seed: int = 0, standardise: bool = True) -> Split:
    """Load the Letter Recognition data: 26 classes, 16 features.

    Args:
        split: sizes of train / validation / test.
            "default": 14,000 / 3,000 / 3,000, stratified.
            "authors": test is the last 4,000 rows, as the data's authors have it (Frey and Slate,
            1991); 3,000 of the first 16,000, stratified, are validation and 13,000 train.
        seed: seed of the stratified draws.
        standardise: whether inputs are standardised with the mean and standard deviation of the
            training part; if False, they are whole numbers from 0 to 15.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(unknown("split of letter", split, SPLITS))
    whole = _read()
    if split == "default":
        parts = stratified(whole.targets, part_sizes(whole.rows), seed)
    else:
        parts = (
            *stratified(whole.targets[:16_000], (13_000, 3_000), seed),
            torch.arange(16_000, 20_000),
        )
    train, validation, test = (whole.at(rows) for rows in parts)
    name = "letter" if split == "default" else f"letter:{split}"
    classes = tuple(string.ascii_uppercase)
    drawn = Split(name, train, validation, test, FEATURES, classes)
    return drawn.standardised() if standardise else drawn.as_it_is()


def _read() -> Samples:
    data = (files("sentei.datasets") / "data" / "letter-recognition.data").read_bytes()
    targets = torch.tensor([line[0] for line in data.split()]) - ord("A")
    columns = range(1, 1 + len(FEATURES))
    inputs = np.loadtxt(BytesIO(data), dtype=np.float32, delimiter=",", usecols=columns)
    return Samples(torch.from_numpy(inputs), targets)
