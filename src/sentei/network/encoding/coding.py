"""Encode which weights of a layer are alive, in the fewest bytes.

Every code lists the alive weights in the same order, row by row (`dense` lists all). Codes differ
in how they store the columns. The size depends on which weights are alive, never on their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sentei.network.alive_weights import AliveWeights

Alive = np.ndarray  # (rows, columns) bool


@dataclass(frozen=True)
class Code:
    """The positions of one layer's alive weights, encoded as integer arrays.

    Attributes:
        name: dense, csr8, csr16, gaps4, gaps8 or bitmap.
        tables: integer arrays by name ("counts", "columns", "gaps", "bits").
        weights: number of weights that are listed.
    """

    name: str
    tables: dict[str, np.ndarray]
    weights: int

    @property
    def bytes(self) -> int:
        """Total size of the tables, without the weights."""
        return sum(table.nbytes for table in self.tables.values())


def dense(alive: Alive) -> Code:
    """List every weight, dead ones as zeros; no tables."""
    return Code("dense", {}, alive.size)


def csr8(alive: Alive) -> Code | None:
    """List the number of alive weights in each row, and their columns in one byte each.

    None if a column number does not fit.
    """
    return _csr("csr8", alive, np.dtype(np.uint8))


def csr16(alive: Alive) -> Code | None:
    """List the number of alive weights in each row, and their columns in two bytes each.

    None if a column number does not fit.
    """
    return _csr("csr16", alive, np.dtype(np.uint16))


def gaps4(alive: Alive) -> Code:
    """List gaps as `gaps8` does, in half bytes: 15 in place of 255; the lower half comes first."""
    gaps = _gaps(alive, 15)
    gaps = np.append(gaps, 0) if len(gaps) % 2 else gaps
    return Code("gaps4", {"gaps": (gaps[::2] | gaps[1::2] << 4).astype(np.uint8)}, int(alive.sum()))


def gaps8(alive: Alive) -> Code:
    """List the number of dead positions before each alive weight, through all rows in one sequence.

    255 stands for 255 dead positions that no weight follows yet. After the last weight come as many
    255s as a reader needs to run past the end of the last row, at least one.
    """
    return Code("gaps8", {"gaps": _gaps(alive, 255).astype(np.uint8)}, int(alive.sum()))


def bitmap(alive: Alive) -> Code:
    """Store one bit per weight, through all rows; the lowest bit of a byte comes first."""
    bits = np.packbits(alive.reshape(-1), bitorder="little")
    return Code("bitmap", {"bits": bits}, int(alive.sum()))


@dataclass(frozen=True)
class Coding:
    """How one code is written, and what it takes.

    Attributes:
        encode: returns the code of a matrix of alive weights; None if it cannot hold it.
        bytes: returns the size of its tables, without making them; None as above.
        least: returns a bound that is known from the number of alive weights alone.
    """

    encode: Callable[[Alive], Code | None]
    bytes: Callable[[AliveWeights], int | None]
    least: Callable[[AliveWeights], int]


CODES: dict[str, Coding] = {
    "dense": Coding(dense, lambda _: 0, lambda _: 0),
    "bitmap": Coding(bitmap, lambda alive: -(-alive.size // 8), lambda alive: -(-alive.size // 8)),
    "csr8": Coding(csr8, lambda alive: _csr_bytes(alive, 1), lambda alive: alive.count),
    "csr16": Coding(csr16, lambda alive: _csr_bytes(alive, 2), lambda alive: 2 * alive.count),
    "gaps8": Coding(gaps8, lambda alive: alive.steps(255), lambda alive: _least_steps(alive, 255)),
    "gaps4": Coding(
        gaps4,
        lambda alive: -(-alive.steps(15) // 2),
        lambda alive: -(-_least_steps(alive, 15) // 2),
    ),
}


def smallest(alive: AliveWeights, weight_bytes: int) -> tuple[str, int]:
    """Return the name of the code with the fewest bytes, and its bytes, weights included.

    Of equals it is the first in `CODES`. Nothing is encoded: positions are looked at only where a
    code could be the smallest by its bound.
    """
    listed = {name: alive.size if name == "dense" else alive.count for name in CODES}
    bounds = [
        (coding.least(alive) + listed[name] * weight_bytes, place, name)
        for place, (name, coding) in enumerate(CODES.items())
    ]
    best: tuple[int, int, str] | None = None
    for bound in sorted(bounds):
        if best is not None and bound > best:
            break
        _, place, name = bound
        tables = CODES[name].bytes(alive)
        if tables is not None:
            found = tables + listed[name] * weight_bytes, place, name
            best = found if best is None else min(best, found)
    assert best is not None  # dense and bitmap hold any matrix
    return best[2], best[0]


def _csr_bytes(alive: AliveWeights, each: int) -> int | None:
    rows, columns = alive.matrix_shape
    if columns > 256**each:
        return None
    return rows * (1 if alive.fullest < 256 else 2) + each * alive.count


def _least_steps(alive: AliveWeights, jump: int) -> int:
    # One entry for each weight and one to run past the end; none covers more than `jump` positions.
    return max(alive.count + 1, -(-alive.size // jump))


def _csr(name: str, alive: Alive, kind: np.dtype) -> Code | None:
    if alive.shape[1] > np.iinfo(kind).max + 1:
        return None
    counts = alive.sum(1)
    tables = {
        "counts": counts.astype(np.uint8 if counts.max() < 256 else np.uint16),
        "columns": np.nonzero(alive)[1].astype(kind),
    }
    return Code(name, tables, int(counts.sum()))


def _gaps(alive: Alive, jump: int) -> np.ndarray:
    """Return the gaps before each alive weight; `jump` stands for that many and no weight yet."""
    positions = np.flatnonzero(alive)
    gaps = np.diff(positions, prepend=-1) - 1
    after_last = alive.size - 1 - (positions[-1] if len(positions) else -1)
    # At least one jump at the end, because the reader always reads one code ahead.
    jumps = np.append(gaps // jump, max(-(-after_last // jump), 1))
    # For each weight its jumps, then the rest of its gap; after the last weight only jumps.
    codes = np.full(int(jumps.sum()) + len(positions), jump, dtype=np.int64)
    ends = np.cumsum(jumps[:-1] + 1) - 1
    codes[ends] = gaps % jump
    return codes
