"""The command `sentei export`: write a saved network as C, ONNX or safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sentei.cli.options import NETWORK, OUTPUT, Data, Loss, OutFile, RunOnDevice, Weights
from sentei.cli.references import is_reference
from sentei.cli.screen import Result
from sentei.network.encoding.format import C_FORMATS, FORMATS, SUFFIXES, format_named

CHOICES = f"""The format to write: {", ".join(FORMATS)}. c-int8 stores weights as int8 numbers,
c-int8-int8 activations as well, c-int8-int16 activations in 16 bits. If left out, the suffix of
--out decides; c without --out."""


def export(
    model: Annotated[str, Parameter(group=NETWORK)],
    *,
    weights: Weights = None,
    loss: Loss = None,
    format: Annotated[str | None, Parameter(group=OUTPUT, help=CHOICES)] = None,
    out: OutFile | None = None,
    data: Data = Data(),
    run: RunOnDevice = RunOnDevice(),
    to: Annotated[str | None, Parameter(show=False)] = None,
) -> Result:
    """Convert a saved network to C source, ONNX or safetensors.

    Training samples calibrate int8, and test samples measure the accuracy, or R² where the
    network predicts values.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors), or your own network as file.py:name or
        package.module:name. C leaves out synapses that are dead in its mask.
    format
        The format to write.
    out
        The file to write. The model's name with the suffix of --format if left out.
    to
        The name of --format in the first release.
    """
    from sentei.cli.deployment import CALIBRATION, format_of, ship
    from sentei.cli.loading import loaded, needed, one_input, own_loss

    if not Path(model).exists() and not is_reference(model):
        raise FileNotFoundError(f"there is no file {model}: export takes a network that is trained")
    asked = _asked(format, to)
    if out is None:
        name = model.rpartition(":")[2] if is_reference(model) else Path(model).stem
        out = Path(name + format_named(asked or "c").suffix)
    named = format_of(out, asked)
    run.start()
    network, mask, split = loaded(model, data, loss, weights, run.place())
    calibration = split.train.first(CALIBRATION).inputs
    left = mask if mask.groups else None
    if named in C_FORMATS:
        one_input(split, f"format {named}")
    settings = {"scaling": needed(split), "loss": own_loss(loss)}
    return ship(network, out, left, named, calibration, split.test, **settings)


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
