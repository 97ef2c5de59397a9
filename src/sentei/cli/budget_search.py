"""Search for the most accurate network within `--budget` or `--board`, and show the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentei.errors import BudgetError

if TYPE_CHECKING:
    from torch import nn

    from sentei.datasets import Split
    from sentei.pruning.rules.limits import MemoryBudget
    from sentei.pruning.run import Step
    from sentei.pruning.searching import Found


def board_format(board: str, out: Path, inputs: int) -> str:
    """Choose the C format for a board: c-int8, or c-int8-int8 if a float sample leaves no RAM.

    Raises:
        ValueError: an unknown board.
        BudgetError: `out` is not a C file.
        UnreachableError: a sample leaves no RAM as c-int8-int8 either.
    """
    from sentei.errors import UnreachableError
    from sentei.pruning.boards import board as board_by_name

    found = board_by_name(board)
    if out.suffix != ".c":
        raise BudgetError(f"--board needs a C file: --out net.c, not {out}")
    try:
        found.memory_budget("c-int8", inputs)
    except UnreachableError:
        found.memory_budget("c-int8-int8", inputs)
        return "c-int8-int8"
    return "c-int8"


def room_of(budget: str | None, board: str | None, format: str, inputs: int) -> MemoryBudget | None:
    """Return the memory budget that `--budget` or `--board` sets; None if neither is given.

    Raises:
        BudgetError: both are given, or a board with a format other than C.
        UnreachableError: the board's RAM does not hold one sample.
    """
    from sentei.cli.screen import say
    from sentei.network.encoding.format import C_FORMATS
    from sentei.pruning import boards
    from sentei.pruning.rules import limits

    if budget is not None and board is not None:
        raise BudgetError("--budget and --board exclude each other; give one of them")
    if budget is not None:
        return limits.MemoryBudget(format, budget)
    if board is None:
        return None
    found = boards.board(board)
    if format not in C_FORMATS:
        raise BudgetError(f"--board needs a C file: use --out net.c, not format {format}")
    room = found.memory_budget(format, inputs)
    say(
        f"{board}: {found.processor}, {found.flash:,} bytes of flash and {found.ram:,} of RAM. "
        f"Less code, stack and one sample, {room.bytes:,} and {room.ram:,} are left for {format}."
    )
    return room


def fitted(
    network: nn.Module,
    split: Split,
    room: MemoryBudget,
    *,
    samples: int,
    about: dict[str, Any],
    **settings: Any,
) -> Found | None:
    """Search for the most accurate network that fits, and print a table of all paths tried.

    Args:
        network: unchanged by the search.
        split: criteria use its training samples; validation samples choose the network.
        room: the memory budget.
        samples: number of training samples that a criterion uses.
        about: metadata of the run (command, names of classes), noted in its journal.
        settings: other arguments of `search`.

    Returns:
        The best path's result; None, with a message on screen, if no path fits the budget.
    """
    from sentei.cli.deployment import CALIBRATION
    from sentei.cli.screen import console, progress, say
    from sentei.formats.c.compiled import shipped
    from sentei.network.encoding.format import C_FORMATS
    from sentei.network.surgery.surgery import shrink
    from sentei.pruning.journal import note
    from sentei.pruning.searching import paths_for, search
    from sentei.reporting.tables import tried

    def judge(step: Step) -> float | None:
        calibration, validation = split.train.inputs[:CALIBRATION], split.validation
        if room.format not in C_FORMATS or validation.targets.is_floating_point():
            return step.measured.accuracy
        small = shrink(step.network(), step.mask, calibration[:64])
        return shipped(small, calibration, step.mask.shrunk(), room.format, validation)

    start_bytes: dict[str, int] = {}
    total = 100 * len(paths_for(room.format, settings.get("paths")))
    with progress("fitting", total) as advance:

        def on_step(path: str, step: Step) -> None:
            size = step.measured.bytes_in(room.format)
            if path not in start_bytes:
                start_bytes[path] = size
                note(step.folder, about)
            start = start_bytes[path]
            part = min((start - size) / max(start - int(room.bytes), 1), 1)
            done = round(100 * (len(start_bytes) - 1 + part))
            advance(done, f"{path}: {size:,} bytes, {step.measured}")

        learn = split.train.first(samples)
        found = search(network, learn, room, judge=judge, on_step=on_step, **settings)
    console.print(tried(found))
    best = found[0]
    if best.fits:
        return best
    say(f"Nothing was written: no path reached {room.bytes:,} bytes as {room.format} within the")
    say(f"floors. The smallest network takes {best.bytes:,} bytes, with {best.step.measured}.")
    return None
