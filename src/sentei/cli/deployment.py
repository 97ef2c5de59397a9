"""Write a network as C, ONNX or safetensors, and report its size and the accuracy of the C code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentei.cli.screen import Result

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.formats.c.compiled import Compiled
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
) -> Result:
    """Write a network to a file; return its size and, for C, how good the emitted code is.

    Args:
        small: the network.
        out: the file to write.
        mask: the network's mask, with its dead synapses; None if nothing is dead.
        format: the file's format.
        calibration: training inputs that int8 activations are calibrated on.
        test: (inputs, targets) that the emitted code is measured on.
        emulate: whether to run the C file on an emulated board too.
    """
    import sentei
    from sentei.card import card_of
    from sentei.formats.c.compiled import Compiled, compiler
    from sentei.formats.exporting import WRITERS
    from sentei.network.encoding.format import C_FORMATS
    from sentei.network.encoding.size import bytes_in, ram_in

    WRITERS[format](small, out, calibration, mask)
    if format not in C_FORMATS:
        size = out.stat().st_size
        return Result(
            {"out": out, "format": format, "bytes": size}, (f"Saved {out}: {size:,} bytes.",)
        )
    everything = sentei.Mask.full([]) if mask is None else mask
    flash, ram = (find(small, everything, format, calibration) for find in (bytes_in, ram_in))
    saved = (
        f"Saved {out} and {out.with_suffix('.h')}: {flash:,} bytes of constants, {ram:,} of RAM."
    )
    if compiler() is None:
        measured = Result({}, ("The C code is not measured: there is no C compiler here.",))
    else:
        measured = _measured(Compiled(out), card_of(small).loss, *test)
    emulated = _emulated(out, *test) if emulate else Result({})
    sizes = {"bytes": flash, "ram": ram, "accuracy": None, "metrics": {}}
    return Result(
        {"out": out, "format": format, **sizes, **measured.data, **emulated.data},
        [saved, *measured.shown, *emulated.shown],
    )


def _measured(code: Compiled, loss: str | None, inputs: Tensor, targets: Tensor) -> Result:
    """Return the accuracy of compiled code, or R² where it predicts values."""
    from sentei.errors import LossError
    from sentei.losses import chosen
    from sentei.metrics import metrics_for, texts

    outputs, count = code(inputs), f"{len(inputs):,} test samples"
    try:
        metrics = metrics_for(chosen(None, outputs, targets, loss), targets)
    except LossError as error:
        return Result({}, (f"The emitted code is not measured: {error}",))
    found = metrics.quality(metrics.sums(outputs, targets))
    words = ", ".join(f"{name} {text}" for name, text in texts(found.metrics))
    line = f"The emitted code, on {count}: {words}."
    if found.accuracy is not None:
        line = f"Accuracy of the emitted code: {found.accuracy:.2%} of {count}."
    return Result({"accuracy": found.accuracy, "metrics": found.metrics}, (line,))


def _emulated(out: Path, inputs: Tensor, targets: Tensor) -> Result:
    """Return what a compiled C file takes on a board, and the classes that it gives there."""
    from sentei.formats.c.emulated import classify, self_test, sizes

    text, data, bss = sizes(out)
    flash, ram = text + data, data + bss
    passed, classes = self_test(out).strip(), []
    lines = [
        f"Compiled for a Cortex-M0+ (-Os, no libgcc): {flash:,} bytes of flash, {ram:,} of RAM.",
        f"On the emulated board (QEMU mps2-an386, Cortex-M4), {passed}",
    ]
    if not targets.is_floating_point():
        classes = classify(out, inputs[:EMULATED])
        right = " ".join(map(str, targets[:EMULATED].tolist()))
        lines += [
            f"  and test samples 1 to {len(classes)} are classes {' '.join(map(str, classes))}",
            f"  {'where the targets are':>30} {right}",
        ]
    board: dict[str, Any] = {"flash": flash, "ram": ram, "self_test": passed, "classes": classes}
    return Result({"emulated": board}, lines)
