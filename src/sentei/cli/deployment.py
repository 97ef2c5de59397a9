"""Write a network as C, ONNX or safetensors, and report its size and the accuracy of the C code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.datasets import Scaling
    from sentei.network.mask import Mask

CALIBRATION = 512  # samples that int8 activations are calibrated on
EMULATED = 10  # test samples that an emulated board classifies


def format_of(out: Path, format: str | None) -> str:
    """Return the file format that `format` or the suffix of `out` names; safetensors by default.

    Raises:
        ValueError: an unknown format, a format that does not match the suffix, or a file name that
            is not a C identifier.
    """
    from sentei.formats.c import identifier
    from sentei.formats.exporting import checked
    from sentei.network.encoding.format import C_FORMATS, SAFETENSORS, SUFFIXES

    if format is None and out.suffix not in SUFFIXES:
        return SAFETENSORS.name
    named = checked(out, format)
    if named in C_FORMATS:
        identifier(out.stem)
    return named


def check_tools(format: str, emulate: bool) -> None:
    """Check, before any work is done, that `--emulate` is possible.

    Raises:
        ValueError: the format is not C.
        FileError: the cross compiler or QEMU is missing.
    """
    from sentei.formats.c.emulated import check
    from sentei.network.encoding.format import C_FORMATS

    if emulate and format not in C_FORMATS:
        raise ValueError(f"--emulate runs a C file: use --out net.c, not format {format}")
    if emulate:
        check("--emulate")


def ship(
    small: nn.Module,
    out: Path,
    mask: Mask | None,
    format: str,
    calibration: Tensor,
    test: tuple[Tensor, Tensor],
    *,
    emulate: bool = False,
    scaling: Scaling | None = None,
) -> None:
    """Write a network to a file and print its size; for C, measure the emitted code too.

    Args:
        small: the network.
        out: the file to write.
        mask: the network's mask, with its dead synapses; None if nothing is dead.
        format: the file's format.
        calibration: training inputs that int8 activations are calibrated on.
        test: (inputs, targets) that the emitted code is measured on.
        emulate: whether to run the C file on an emulated board too.
        scaling: what inputs have to be standardised with before the network; None if nothing.
    """
    import sentei
    from sentei.cli.screen import say
    from sentei.formats.c.compiled import Compiled, compiler, has_classify
    from sentei.formats.exporting import WRITERS
    from sentei.network.encoding.format import C_FORMATS
    from sentei.network.encoding.size import bytes_in, ram_in

    if format not in C_FORMATS:
        WRITERS[format](small, out, calibration, mask)
        say(f"Saved {out}: {out.stat().st_size:,} bytes.")
        _say_scaling(out, scaling)
        return
    WRITERS[format](small, out, calibration, mask, scaling=scaling)
    everything = sentei.Mask.full([]) if mask is None else mask
    flash, ram = (find(small, everything, format, calibration) for find in (bytes_in, ram_in))
    say(f"Saved {out} and {out.with_suffix('.h')}: {flash:,} bytes of constants, {ram:,} of RAM.")
    _say_scaling(out.with_suffix(".h"), scaling)
    inputs, targets = test
    if compiler() is None:
        say("The accuracy of the C code is unknown: there is no C compiler on this machine.")
    elif has_classify(out) and not targets.is_floating_point():
        accuracy = Compiled(out).accuracy(inputs, targets)
        say(f"Accuracy of the emitted code: {accuracy:.2%} of {len(inputs):,} test samples.")
    else:
        _say_difference(small, Compiled(out)(inputs), inputs)
    if emulate:
        _emulate(out, *test)


def _say_scaling(out: Path, scaling: Scaling | None) -> None:
    """Say what callers have to do, if the network does not standardise its inputs itself."""
    from sentei.cli.screen import say

    if scaling is not None:
        where = " The comment in the file lists them." if out.suffix == ".h" else ""
        say(
            f"{out}: inputs must be standardised before a call, because the network was trained on "
            "such inputs: subtract the mean of each feature over the training samples and divide "
            f"by its deviation.{where} A network that `sentei train` trains anew does it itself."
        )


def _say_difference(network: nn.Module, found: Tensor, inputs: Tensor) -> None:
    """Say how close the outputs of the emitted code are to those of the network."""
    import torch

    from sentei.cli.screen import say

    with torch.no_grad():
        wanted = network.eval()(inputs).flatten(1)
    off, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    say(
        f"Outputs of the emitted code differ from the network's by {off:.2g} at most on "
        f"{len(inputs):,} test samples; the largest is {largest:.3g}."
    )


def _emulate(out: Path, inputs: Tensor, targets: Tensor) -> None:
    from sentei.cli.screen import say
    from sentei.formats.c.compiled import has_classify
    from sentei.formats.c.emulated import classify, self_test, sizes

    text, data, bss = sizes(out)
    flash, ram = text + data, data + bss
    say(f"Compiled for a Cortex-M0+ (-Os, no libgcc): {flash:,} bytes of flash, {ram:,} of RAM.")
    say(f"On the emulated board (QEMU mps2-an386, Cortex-M4), {self_test(out).strip()}")
    if not has_classify(out):
        return
    classes = " ".join(map(str, classify(out, inputs[:EMULATED])))
    say(f"  and test samples 1 to {len(inputs[:EMULATED])} are classes {classes}")
    if not targets.is_floating_point():
        say(f"  {'where the targets are':>30} {' '.join(map(str, targets[:EMULATED].tolist()))}")
