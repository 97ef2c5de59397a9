"""What commands say and do when a network leaves for a machine without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.network.mask import Mask

CALIBRATION = 512  # samples that int8 activations are calibrated on
EMULATED = 10  # test samples shown to an emulated board


def format_of(out: Path, format: str | None) -> str:
    """The format by name, or by the file's ending; safetensors where neither says.

    Raises:
        ValueError: an unknown format, one that is not the ending's, or a name that C cannot have.
    """
    from sentei.formats.c import identifier
    from sentei.formats.exporting import SUFFIXES, checked

    if format is None and out.suffix not in SUFFIXES:
        return "safetensors"
    if out.suffix == ".c":
        identifier(out.stem)
    return checked(out, format)


def check_tools(format: str, emulate: bool) -> None:
    """Refuse `--emulate` before any work where it cannot be done.

    Raises:
        ValueError: a format that is not C.
        FileError: a tool is missing.
    """
    from sentei.formats.c.emulated import check

    if emulate and not format.startswith("c"):
        raise ValueError(f"--emulate runs a C file: --out net.c, not format {format}")
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
) -> None:
    """Write a network, and say how large it is and, as C, how good the emitted code is.

    Args:
        small: the network.
        out: the file.
        mask: what is dead in it.
        format: of the file.
        calibration: training inputs.
        test: (inputs, targets).
        emulate: run the C file on an emulated board too.
    """
    import sentei
    from sentei.cli.screen import say
    from sentei.formats.c.compiled import Compiled, compiler
    from sentei.network.encoding.size import bytes_in, ram_in

    if format == "safetensors":
        sentei.save(small, out, mask)
    else:
        sentei.export(small, out, calibration, mask, format)
    if not format.startswith("c"):
        say(f"Saved {out}: {out.stat().st_size:,} bytes.")
        return
    everything = sentei.Mask.full([]) if mask is None else mask
    flash, ram = (find(small, everything, format, calibration) for find in (bytes_in, ram_in))
    say(f"Saved {out} and {out.with_suffix('.h')}: {flash:,} bytes of constants, {ram:,} of RAM.")
    inputs, targets = test
    if compiler() is None:
        say("Its accuracy is unknown: there is no C compiler on this machine to run it with.")
    elif not targets.is_floating_point():
        accuracy = Compiled(out).accuracy(inputs, targets)
        say(f"The emitted code, compiled here: {accuracy:.2%} of {len(inputs):,} test samples.")
    if emulate:
        _emulate(out, *test)


def _emulate(out: Path, inputs: Tensor, targets: Tensor) -> None:
    from sentei.cli.screen import say
    from sentei.formats.c.emulated import classify, self_test, sizes

    text, data, bss = sizes(out)
    flash, ram = text + data, data + bss
    say(f"Compiled for a Cortex-M0+ (-Os, libgcc apart): {flash:,} bytes of flash, {ram:,} of RAM.")
    said = " ".join(map(str, classify(out, inputs[:EMULATED])))
    say(f"On the emulated board (QEMU mps2-an386, Cortex-M4), {self_test(out).strip()}")
    say(f"  and test samples 1 to {len(inputs[:EMULATED])} are classes {said}")
    if not targets.is_floating_point():
        say(f"  {'where the targets are':>30} {' '.join(map(str, targets[:EMULATED].tolist()))}")
