"""Write a network as C, ONNX or safetensors, and report its size and the accuracy of the C code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentei.cli.screen import Result

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.datasets import Scaling
    from sentei.formats.c.compiled import Compiled
    from sentei.losses import PerSample
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
    loss: PerSample | None = None,
    budget: str | None = None,
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
        scaling: what inputs have to be standardised with before the network; None if nothing.
        loss: the user's own loss; None for that of the network's `Card`.
        budget: what the network was made to fit into, for the comment of a C file.
    """
    import sentei
    from sentei.card import card_of
    from sentei.cli.command_line import command
    from sentei.formats.c.compiled import Compiled, compiler
    from sentei.formats.exporting import WRITERS
    from sentei.network.encoding.format import C_FORMATS
    from sentei.network.encoding.size import bytes_in, ram_in

    if format not in C_FORMATS:
        WRITERS[format](small, out, calibration, mask)
        size = out.stat().st_size
        return Result(
            {"out": out, "format": format, "bytes": size, **_told(scaling)},
            (f"Saved {out}: {size:,} bytes.", *_to_standardise(out, scaling)),
        )
    WRITERS[format](small, out, calibration, mask, scaling=scaling)
    header = out.with_suffix(".h")
    everything = sentei.Mask.full([]) if mask is None else mask
    flash, ram = (find(small, everything, format, calibration) for find in (bytes_in, ram_in))
    saved = f"Saved {out} and {header}: {flash:,} bytes of constants, {ram:,} of RAM."
    card, (inputs, targets) = card_of(small), test
    if compiler() is None:
        measured = Result({}, ("The C code is not measured: there is no C compiler here.",))
    elif card.predicts == "values" and not targets.is_floating_point():
        measured = Result({}, (_difference(small, Compiled(out)(inputs), inputs),))
    else:
        measured = _measured(Compiled(out), loss or card.loss, inputs, targets)
    notes = [*([] if budget is None else [budget]), *map(str, measured.shown), command()]
    WRITERS[format](small, out, calibration, mask, scaling=scaling, notes=notes)
    emulated = _emulated(out, *test) if emulate else Result({})
    sizes = {"bytes": flash, "ram": ram, "accuracy": None, "metrics": {}, **_told(scaling)}
    return Result(
        {"out": out, "format": format, **sizes, **measured.data, **emulated.data},
        [saved, *_to_standardise(header, scaling), *measured.shown, *emulated.shown],
    )


def _measured(
    code: Compiled, loss: str | PerSample | None, inputs: Tensor, targets: Tensor
) -> Result:
    """Return the accuracy of compiled code, or R² where it predicts values."""
    from sentei.errors import LossError
    from sentei.losses import chosen
    from sentei.metrics import TargetSummary, metrics_for, texts

    outputs, count = code(inputs), f"{len(inputs):,} test samples"
    own, known = (loss, None) if callable(loss) else (None, loss)
    try:
        metrics = metrics_for(chosen(own, outputs, targets, known), TargetSummary.of([targets]))
    except LossError as error:
        return Result({}, (f"The emitted code is not measured: {error}",))
    found = metrics.quality(metrics.sums(outputs, targets))
    words = ", ".join(f"{name} {text}" for name, text in texts(found.metrics))
    line = f"The emitted code, on {count}: {words}."
    if found.accuracy is not None:
        line = f"Accuracy of the emitted code: {found.accuracy:.2%} of {count}."
    return Result({"accuracy": found.accuracy, "metrics": found.metrics}, (line,))


def _told(scaling: Scaling | None) -> dict[str, Any]:
    """Return the means and deviations that callers need, as data; nothing if they need none."""
    if scaling is None:
        return {}
    mean, std = (values.flatten().tolist() for values in (scaling.mean, scaling.std))
    return {"standardise": {"mean": mean, "std": std}}


def _to_standardise(out: Path, scaling: Scaling | None) -> list[str]:
    """Return what callers have to do, if the network does not standardise its inputs itself."""
    if scaling is None:
        return []
    where = " The comment in the file lists them." if out.suffix == ".h" else ""
    return [
        f"{out}: inputs must be standardised before a call, because the network was trained on "
        "such inputs: subtract the mean of each feature over the training samples and divide by "
        f"its deviation.{where} A network that `sentei train` trains anew does it itself."
    ]


def _difference(network: nn.Module, found: Tensor, inputs: Tensor) -> str:
    """Return how close the outputs of the emitted code are to those of the network."""
    import torch

    with torch.no_grad():
        wanted = network.eval()(inputs).flatten(1)
    off, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    return (
        f"Outputs of the emitted code differ from the network's by {off:.2g} at most on "
        f"{len(inputs):,} test samples; the largest is {largest:.3g}."
    )


def _emulated(out: Path, inputs: Tensor, targets: Tensor) -> Result:
    """Return what a compiled C file takes on a board, and the classes that it gives there."""
    from sentei.formats.c.compiled import has_classify
    from sentei.formats.c.cycles import PROCESSORS, costs
    from sentei.formats.c.emulated import classify, self_test, sizes

    text, data, bss = sizes(out)
    flash, ram = text + data, data + bss
    passed, classes = self_test(out).strip(), []
    lines = [
        f"Compiled for a Cortex-M0+ (-Os, no libgcc): {flash:,} bytes of flash, {ram:,} of RAM.",
        f"On the emulated board (QEMU mps2-an386, Cortex-M4), {passed}",
    ]
    taken = costs(out, inputs[0])
    for cpu, cost in taken.items():
        time = cost.cycles / PROCESSORS[cpu].megahertz / 1000
        lines.append(
            f"One sample on a {cpu}: {cost.instructions:,} instructions, {cost.stack} bytes of "
            f"stack; by estimate {cost.cycles:,} cycles, {time:.3g} ms at "
            f"{PROCESSORS[cpu].megahertz} MHz."
        )
    if has_classify(out) and not targets.is_floating_point():
        classes = classify(out, inputs[:EMULATED])
        right = " ".join(map(str, targets[:EMULATED].tolist()))
        lines += [
            f"  and test samples 1 to {len(classes)} are classes {' '.join(map(str, classes))}",
            f"  {'where the targets are':>30} {right}",
        ]
    board: dict[str, Any] = {"flash": flash, "ram": ram, "self_test": passed, "classes": classes}
    board["cost"] = {cpu: vars(cost) for cpu, cost in taken.items()}
    return Result({"emulated": board}, lines)
