"""The command `sentei export`: write a saved network as C, ONNX or safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts.types import ExistingFile

from sentei.cli.options import Data, Run


def export(
    model: ExistingFile,
    *,
    to: Literal["c", "onnx", "safetensors"] = "c",
    out: Path | None = None,
    format: str | None = None,
    data: Data = Data(),
    run: Run = Run(),
) -> None:
    """Convert a saved network to C source, ONNX or safetensors.

    Training samples calibrate int8, and test samples measure the accuracy.

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
    """
    from sentei.cli.deployment import CALIBRATION, format_of, ship
    from sentei.cli.loading import loaded

    out = Path(model.stem).with_suffix(f".{to}") if out is None else out
    named = format_of(out, format)
    run.start()
    network, mask, split = loaded(model, data)
    calibration = split.train.inputs[:CALIBRATION]
    ship(network, out, mask if mask.groups else None, named, calibration, split.test)
