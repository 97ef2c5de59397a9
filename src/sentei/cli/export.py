"""The command `sentei export`: write a saved network as C, ONNX or safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from sentei.network.encoding.format import FORMATS, SUFFIXES, format_named

CHOICES = f"""The format to write: {", ".join(FORMATS)}. c-int8 stores weights as int8 numbers,
c-int8-int8 activations as well. If left out, the suffix of --out decides; c without --out."""


def export(
    model: ExistingFile,
    *,
    format: Annotated[str | None, Parameter(help=CHOICES)] = None,
    out: Path | None = None,
    data: str = "mnist",
    target: str = "-1",
    seed: int = 0,
    to: Annotated[str | None, Parameter(show=False)] = None,
) -> None:
    """Convert a saved network to C source, ONNX or safetensors.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors). C leaves out synapses that are dead in
        its mask.
    format
        The format to write.
    out
        The file to write. The model's name with the suffix of --format if left out.
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. Its
        training samples calibrate int8; its test samples measure the accuracy.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    seed
        Seed of the random split into training, validation and test samples.
    to
        The name of --format in the first release.
    """
    from sentei import datasets, formats, training
    from sentei.cli.deployment import CALIBRATION, format_of, ship
    from sentei.cli.screen import column

    asked = _asked(format, to)
    if out is None:
        out = Path(model.stem + format_named(asked or "c").suffix)
    named = format_of(out, asked)
    network, mask = formats.load(model), formats.load_mask(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    calibration = split.train.inputs[:CALIBRATION]
    ship(network, out, mask if mask.groups else None, named, calibration, split.test)


def _asked(format: str | None, to: str | None) -> str | None:
    """Return the format that --format and --to ask for; None if both are left out.

    In the first release --to gave the kind of file and --format its numbers: `--to c --format
    c-int8` means c-int8.

    Raises:
        ValueError: an unknown format, or two that contradict each other.
    """
    if format is None or to is None:
        return format or to
    if format_named(to) not in (format_named(format), SUFFIXES[format_named(format).suffix]):
        raise ValueError(
            f"--to is an older name of --format, and the two differ: {to} and {format}. Leave out "
            "--to."
        )
    return format
