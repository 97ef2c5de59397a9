"""`sentei export`."""

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
    """Write a saved network as C, ONNX or safetensors.

    Parameters
    ----------
    model
        A network that sentei saved; synapses that are dead in its mask are left out of C.
    to
        The format, where --out does not say it by its ending.
    out
        The file to write; the model's name with another ending if left out.
    format
        For C: c (float32), c-int8 (int8 weights) or c-int8-int8 (int8 activations as well).
    data
        As for train: what the self-test, the calibration of int8 and the accuracy are taken from.
    target
        The column of a .csv to predict, by name or position.
    seed
        Of the split of the data.
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
