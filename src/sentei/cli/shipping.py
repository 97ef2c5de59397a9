"""What commands say and do when a network leaves for a machine without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sentei.errors import BudgetError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.network.mask import Mask
    from sentei.pruning.limits import Limit

CALIBRATION = 512  # samples that int8 activations are calibrated on


def format_of(out: Path, format: str | None) -> str:
    """The format by name, or by the file's ending; safetensors where neither says.

    Raises:
        ValueError: an unknown format, or one that is not the ending's.
    """
    from sentei.formats.endings import ENDINGS, checked

    return "safetensors" if format is None and out.suffix not in ENDINGS else checked(out, format)


def budget_limit(
    budget: str | None, board: str | None, format: str, inputs: int
) -> tuple[Limit | None, str]:
    """What `--budget` and `--board` ask for, as a limit and in words.

    Raises:
        BudgetError: both at once, or a board for what no board runs.
    """
    from sentei.pruning import boards, limits

    if budget is not None and board is not None:
        raise BudgetError("--board is a budget; name one of --budget and --board")
    if board is not None:
        found = boards.board(board)
        if not format.startswith("c"):
            raise BudgetError(f"--board needs a C file: --out net.c, not format {format}")
        words = f"{board} ({found.processor}, {found.flash:,} bytes of flash, {found.ram:,} of RAM)"
        return found.limit(format, inputs), words
    if budget is not None:
        return limits.bytes_at_most(budget, format=format), f"{budget} as {format}"
    return None, ""


def ship(
    small: nn.Module,
    out: Path,
    mask: Mask | None,
    format: str,
    calibration: Tensor,
    test: tuple[Tensor, Tensor],
) -> None:
    """Write a network, and say how large it is and, as C, how good the emitted code is."""
    import sentei
    from sentei.cli.screen import say
    from sentei.formats.c.compiled import Compiled, compiler
    from sentei.network.size import bytes_in, ram_in

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
