"""Load data into memory: MNIST and Letter Recognition, included in the package, or your own files.

May import the base modules only.
"""

from __future__ import annotations

from pathlib import Path

from sentei.arguments import checked
from sentei.datasets.arrays import npz_file
from sentei.datasets.images import holds_images, image_folder
from sentei.datasets.letter import SPLITS as _LETTER_SPLITS
from sentei.datasets.letter import letter
from sentei.datasets.mnist import SPLITS as _MNIST_SPLITS
from sentei.datasets.mnist import idx_folder, mnist
from sentei.datasets.split import Scaling, Split, stratified
from sentei.datasets.tables import csv_file
from sentei.errors import unknown
from sentei.samples import Samples, check_samples, fingerprint

__all__ = [
    "Samples",
    "Scaling",
    "Split",
    "check_samples",
    "csv_file",
    "fingerprint",
    "idx_folder",
    "image_folder",
    "letter",
    "load",
    "mnist",
    "npz_file",
    "stratified",
]


@checked
def load(
    what: str | Path,
    *,
    flat: bool = True,
    seed: int = 0,
    target: str | int = -1,
    regression: bool = False,
    missing: str | None = None,
    text: str | None = None,
    standardise: bool = True,
    size: str | None = None,
) -> Split:
    """Load a data set by name or path, split into train, validation and test.

    Args:
        what: "mnist", "letter", a named split such as "mnist:shrinking" or "letter:authors", or the
            path of a .csv, an .npz, a folder of IDX files or a folder of images by class.
        flat: whether inputs are rows (N, values); if False, images are (N, 1, height, width).
        seed: seed of the stratified draws.
        target: the column of a .csv to predict, by name or position.
        regression: whether the targets of a .csv or an .npz are values instead of classes.
        missing: for a .csv, "drop" leaves rows with missing cells out, "mean" fills them in.
        text: for a .csv, "one-hot" makes a column of 0 and 1 for each word of columns of words.
        standardise: whether inputs of letter, a .csv or an .npz are standardised with the mean and
            deviation of the training part (`split.scaling`). If False, they stay as they are in the
            data, as a network that begins with `sentei.Standardise.of(split.scaling)` takes them.
            MNIST, IDX files and images are never standardised: pixels are from 0 to 1.
        size: for images, the height and width that they are resized to, such as "32x32".

    Raises:
        ValueError: an unknown name, with the nearest one; or `size` for what is no images.
        FileNotFoundError: there is no file at the path.
        DataError: a file that is damaged or does not hold samples.
    """
    path = Path(what)
    images = path.is_dir() and holds_images(path)
    if size is not None and not images:
        raise ValueError(f"size={size!r} is for folders of images by class; {what} is none")
    name, _, split = str(what).partition(":")
    if name == "mnist" and isinstance(what, str):
        return mnist(split or "default", seed, flat)
    if name == "letter" and isinstance(what, str):
        return letter(split or "default", seed, standardise)
    if path.is_dir():
        return image_folder(path, seed, flat, size) if images else idx_folder(path, seed, flat)
    if path.suffix in (".csv", ".npz") and not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".csv":
        return csv_file(path, target, seed, regression, missing, text, standardise)
    if path.suffix == ".npz":
        return npz_file(path, seed, flat, regression, standardise)
    known = [
        "mnist",
        "letter",
        *(f"mnist:{s}" for s in _MNIST_SPLITS),
        *(f"letter:{s}" for s in _LETTER_SPLITS),
    ]
    raise ValueError(unknown("data", what, known) + " Or give a .csv, an .npz or a folder.")
