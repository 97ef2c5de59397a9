"""The command `sentei export`: write a saved network as C, ONNX or safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts.types import ExistingFile


def export(
    model: ExistingFile,
    *,
    to: Literal["c", "onnx", "safetensors"] = "c",
    out: Path | None = None,
    format: str | None = None,
    data: str = "mnist",
    target: str = "-1",
    seed: int = 0,
) -> None:
    """Convert a saved network to C source, ONNX or safetensors.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors). C leaves out synapses that are dead in
        its mask.
    to
        The format to write if --out is not given.
    out
        The file to write; its suffix sets the format. The model's name with the suffix of --to if
        left out.
    format
        Number format of C: c (float32), c-int8 (int8 weights) or c-int8-int8 (int8 weights and
        activations). c for a .c file if left out.
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. Its
        training samples calibrate int8; its test samples measure the accuracy.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    seed
        Seed of the random split into training, validation and test samples.
    """
    from sentei import datasets, formats, training
    from sentei.cli.deployment import CALIBRATION, format_of, ship
    from sentei.cli.screen import column

    out = Path(model.stem).with_suffix(f".{to}") if out is None else out
    named = format_of(out, format)
    network, mask = formats.load(model), formats.load_mask(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    calibration = split.train.inputs[:CALIBRATION]
    ship(network, out, mask if mask.groups else None, named, calibration, split.test)
