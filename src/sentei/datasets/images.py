"""Load a folder of images by class: `folder/train/cat/1.png`, or `folder/cat/1.png`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sentei.arguments import checked
from sentei.datasets.limits import check_memory
from sentei.datasets.split import Split, part_sizes, stratified
from sentei.errors import DataError
from sentei.samples import Samples

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
PARTS |= {"test": "test"}
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")  # modes of Pillow
SHOWN = 3


@checked
def image_folder(folder: Path, seed: int = 0, flat: bool = True, size: str | None = None) -> Split:
    """Load images by class, values from 0 to 1; needs Pillow (`pip install 'sentei[images]'`).

    The folder has a folder for each class, and three stratified parts are drawn; or it has folders
    train, validation (or val) and test with a folder for each class in each of them. Without
    validation, a twelfth of train, stratified, becomes validation. Images are grey (one channel) if
    all of them are, else they have three channels: red, green, blue. They are turned as their EXIF
    orientation says. Transparent pixels and several frames in a file are refused.

    Args:
        folder: the folder.
        seed: seed of the stratified draws.
        flat: whether inputs are rows (N, values); if False, they are (N, channels, height, width).
        size: height and width that all images are resized to, such as "32x32"; None if all have
            one size.

    Raises:
        DataError: no images, images of several sizes, one that cannot be read, or classes that are
            not in all parts.
        ValueError: a size that is none.
    """
    wanted = None if size is None else _size(size)
    parts = _parts(folder)
    classes = sorted({name for files in parts.values() for name in files})
    _check_classes(folder, parts, classes)
    every = [file for files in parts.values() for group in files.values() for file in group]
    channels, height, width = _shape(every, wanted)
    check_memory(folder, 4 * len(every) * channels * height * width)
    read = {
        part: _samples(files, classes, (channels, height, width), flat=flat)
        for part, files in parts.items()
    }
    places = [f"{row},{column}" for row in range(height) for column in range(width)]
    pixels = [
        f"pixel {place}" if channels == 1 else f"pixel {channel},{place}"
        for channel in range(channels)
        for place in places
    ]
    return Split(str(folder), *_drawn(folder, read, seed), tuple(pixels), tuple(classes))


@checked
def holds_images(folder: Path) -> bool:
    """Return whether a folder has folders with images in it."""
    return any(_files(each) for each in _folders(folder)) or any(
        _files(inner) for each in _folders(folder) for inner in _folders(each)
    )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ValueError(f'a size is height and width, such as "32x32"; got {text!r}')
    return int(found[1]), int(found[2])


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES)


def _parts(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Return the files of each class of each part; one part, "all", where there are none."""
    inside = _folders(folder)
    if inside and all(each.name.lower() in PARTS for each in inside):
        of_part = {PARTS[each.name.lower()]: each for each in inside}
    else:
        of_part = {"all": folder}
    found = {part: {c.name: _files(c) for c in _folders(at)} for part, at in of_part.items()}
    found = {part: {name: f for name, f in of.items() if f} for part, of in found.items()}
    if not all(found.values()) or (found.keys() != {"all"} and not {"train", "test"} <= set(found)):
        raise DataError(
            f"{folder} must have a folder of images for each class, or folders train and test (and "
            f"validation) with a folder for each class in them; images end in "
            f"{', '.join(SUFFIXES)}. It has {', '.join(each.name for each in inside) or 'none'}."
        )
    return found


def _check_classes(folder: Path, parts: dict[str, Any], classes: Sequence[str]) -> None:
    for part, files in parts.items():
        if missing := [name for name in classes if name not in files]:
            raise DataError(
                f"{folder}: every class must have images in every part; {part} has none of "
                f"{', '.join(missing[:SHOWN])}"
            )
    if len(classes) < 2:
        raise DataError(f"{folder} must have two classes at least; it has {', '.join(classes)}")


def _shape(files: Sequence[Path], wanted: tuple[int, int] | None) -> tuple[int, int, int]:
    """Return channels, height and width of all images."""
    sizes: dict[tuple[int, int], Path] = {}
    grey = True
    for file in files:
        with _opened(file) as image:
            sizes.setdefault((image.height, image.width), file)
            grey = grey and image.mode in GREY
    if len(sizes) > 1 and wanted is None:
        shown = [f"{h}x{w} ({file})" for (h, w), file in list(sizes.items())[:SHOWN]]
        raise DataError(
            f"images must have one size; these have {len(sizes)}: {', '.join(shown)}. Resize them: "
            'size="32x32" (on the command line: --size 32x32).'
        )
    return (1 if grey else 3, *(wanted or next(iter(sizes))))


def _samples(
    files: dict[str, list[Path]],
    classes: Sequence[str],
    shape: tuple[int, int, int],
    *,
    flat: bool,
) -> Samples:
    numbered = [(at, file) for at, name in enumerate(classes) for file in files[name]]
    inputs = np.empty((len(numbered), *shape), np.float32)
    for row, (_, file) in enumerate(numbered):
        inputs[row] = _pixels(file, shape)
    tensor = torch.from_numpy(inputs)
    targets = torch.tensor([at for at, _ in numbered])
    return Samples(tensor.flatten(1) if flat else tensor, targets)


def _pixels(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an image as (channels, height, width), from 0 to 1."""
    channels, height, width = shape
    with _opened(file) as image:
        deep = image.mode.startswith("I;16")
        found = image if deep else image.convert("L" if channels == 1 else "RGB")
        if (found.height, found.width) != (height, width):
            found = found.resize((width, height))
        pixels = np.asarray(found, np.float32) / (65535 if deep else 255)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.broadcast_to(pixels.transpose(2, 0, 1), shape)


def _opened(file: Path) -> Any:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install 'sentei[images]'") from error
    try:
        with Image.open(file) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.load()
            found = ImageOps.exif_transpose(image)  # as viewers show it
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from error
    if frames > 1:
        raise DataError(
            f"a file must hold one image; {file} holds {frames} frames. Save each as a file."
        )
    _check_values(file, found)
    return found


def _check_values(file: Path, image: Any) -> None:
    """Refuse images whose pixels have no colours from 0 to 1."""
    if image.mode in ("I", "F"):
        raise DataError(
            f"pixels must have 8 or 16 bits, so that their largest value is known; {file} has 32. "
            "Save it as an image of 8 or 16 bits, or give the values in an .npz."
        )
    if "A" not in image.getbands() and "transparency" not in image.info:
        return
    if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise DataError(
            f"pixels must not be transparent, because their colour is that of what lies behind; "
            f"some of {file} are. Lay it on a background: Image.alpha_composite(Image.new('RGBA', "
            "image.size, 'white'), image.convert('RGBA')).convert('RGB')."
        )


def _drawn(folder: Path, read: dict[str, Samples], seed: int) -> tuple[Samples, Samples, Samples]:
    if "all" in read:
        every = read["all"]
        sizes = part_sizes(every.rows)
        if min(sizes) < 1:
            raise DataError(f"{folder} has {every.rows} images, too few for three parts")
        learn, check, test = (every.at(rows) for rows in stratified(every.targets, sizes, seed))
        return learn, check, test
    if "validation" in read:
        return read["train"], read["validation"], read["test"]
    train = read["train"]
    held = train.rows // 12
    learn, check = stratified(train.targets, (train.rows - held, held), seed)
    return train.at(learn), train.at(check), read["test"]
