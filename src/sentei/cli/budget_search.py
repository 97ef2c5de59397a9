"""`--budget` and `--board`: a search, shown as it goes on, and what came of it."""

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
    """The format for a board where none is asked for: c-int8, or c-int8-int8 if RAM is short.

    Raises:
        ValueError: an unknown board.
        BudgetError: no C file.
        UnreachableError: not even that fits.
    """
    from sentei.errors import UnreachableError
    from sentei.pruning.boards import board as named

    found = named(board)
    if out.suffix != ".c":
        raise BudgetError(f"--board needs a C file: --out net.c, not {out}")
    try:
        found.memory_budget("c-int8", inputs)
    except UnreachableError:
        found.memory_budget("c-int8-int8", inputs)
        return "c-int8-int8"
    return "c-int8"


def room_of(budget: str | None, board: str | None, format: str, inputs: int) -> MemoryBudget | None:
    """What `--budget` and `--board` ask for; None if neither does.

    Raises:
        BudgetError: both at once, or a board for what no board runs.
        UnreachableError: a board without the RAM for one sample.
    """
    from sentei.cli.screen import say
    from sentei.pruning import boards
    from sentei.pruning.rules import limits

    if budget is not None and board is not None:
        raise BudgetError("--board is a budget; name one of --budget and --board")
    if budget is not None:
        return limits.MemoryBudget(format, budget)
    if board is None:
        return None
    found = boards.board(board)
    if not format.startswith("c"):
        raise BudgetError(f"--board needs a C file: --out net.c, not format {format}")
    room = found.memory_budget(format, inputs)
    say(
        f"{board}: {found.processor}, {found.flash:,} bytes of flash and {found.ram:,} of RAM. "
        f"Code, stack and a sample apart, {room.bytes:,} and {room.ram:,} are left for {format}."
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
    """Search and say what was tried; None, in words, if nothing fits.

    Args:
        network: stays as it is.
        split: criteria look at its training samples, choices at validation.
        room: what the network has to fit into.
        samples: how many a criterion looks at.
        about: words for the run's page.
        settings: the others of `search`.
    """
    from sentei.cli.deployment import CALIBRATION
    from sentei.cli.screen import console, progress, say
    from sentei.formats.c.compiled import shipped
    from sentei.network.encoding.plans import C_FORMATS
    from sentei.network.surgery.surgery import shrink
    from sentei.pruning.journal import note
    from sentei.pruning.searching import paths_for, search
    from sentei.reporting.tables import tried

    def judge(step: Step) -> float | None:
        seen, held = split.train.inputs[:CALIBRATION], split.validation
        if room.format not in C_FORMATS or held.targets.is_floating_point():
            return step.measured.accuracy
        small = shrink(step.network(), step.mask, seen[:64])
        return shipped(small, seen, step.mask.shrunk(), room.format, held)

    begun: dict[str, int] = {}
    total = 100 * len(paths_for(room.format, settings.get("paths")))
    with progress("fitting", total) as advance:

        def said(path: str, step: Step) -> None:
            size = step.measured.bytes_in(room.format)
            if path not in begun:
                begun[path] = size
                note(step.folder, about)
            part = min((begun[path] - size) / max(begun[path] - int(room.bytes), 1), 1)
            done = round(100 * (len(begun) - 1 + part))
            advance(done, f"{path}: {size:,} bytes, {step.measured}")

        learn = split.train.first(samples)
        found = search(network, learn, room, judge=judge, on_step=said, **settings)
    console.print(tried(found))
    best = found[0]
    if best.fits:
        return best
    say(f"Nothing was written: no path came down to {room.bytes:,} bytes as {room.format} within")
    say(f"the floors. The smallest network takes {best.bytes:,}, with {best.step.measured}.")
    return None
