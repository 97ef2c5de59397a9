"""The budget `--board-latency`: the estimated time of one sample on a board, as a limit."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from sentei.errors import BudgetError
from sentei.formats.c import write_c
from sentei.formats.c.cycles import costs
from sentei.formats.c.emulated import check
from sentei.pruning.boards import board
from sentei.pruning.rules.conditions import Limit
from sentei.pruning.rules.limits import parse_seconds
from sentei.pruning.rules.remade import remade


def check_board_time(name: str, longest: str) -> None:
    """Check, before any work is done, that times on a board can be estimated.

    Raises:
        BudgetError: no cycles of the board's core are estimated, or a time that is not above 0.
        ValueError: an unknown board.
        FileError: the cross compiler or QEMU is missing.
    """
    if board(name).core is None:
        raise BudgetError(
            f"--board-latency needs a board with a Cortex-M0, M0+, M3 or M4, whose cycles are "
            f"estimated; {name} has an {board(name).processor}. Leave it out, or count cycles on "
            "the board."
        )
    if parse_seconds(longest) <= 0:
        raise BudgetError(f"a latency is longer than 0; got {longest!r}")
    check("--board-latency")


@remade
def board_latency_at_most(name: str, longest: str, format: str, calibration: Tensor) -> Limit:
    """Return the limit that holds when a sample is estimated to take a board at most so long.

    At every step that is asked for, the network is shrunk, written as C, compiled, and run under
    QEMU, which takes a second or two.

    Args:
        name: of the board, one that `check_board_time` accepts.
        longest: a time, such as "5 ms".
        format: a C format.
        calibration: (N, ...) inputs, the first of which is counted.
    """
    found, most = board(name), parse_seconds(longest)

    @lru_cache(maxsize=2)
    def seconds(now: Any) -> float:
        network, mask = now.shrunk()
        with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
            path = Path(folder) / "net.c"
            write_c(network, path, calibration, mask if mask.groups else None, format)
            assert found.core is not None
            taken = costs(path, calibration[0], processors=[found.core])[found.core]
        return taken.cycles / found.megahertz / 1e6

    def told(now: Any) -> str:
        return f"{1000 * seconds(now):.3g} ms for one sample on {name}, by estimate"

    words = f"board_latency_at_most({name!r}, {longest!r}, {format!r})"
    return Limit(words, lambda now, _: seconds(now) <= most, is_size=True, least=1, told=(told,))
