"""Which weights of a layer are there, written down in the fewest bytes.

Every code lists the same weights in the same order, row by row; only how their columns are found
differs. The shapes of what is listed decide its size, never the weights' values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Alive = np.ndarray  # (rows, columns) bool


@dataclass(frozen=True)
class Code:
    """One layer's places.

    Attributes:
        name: dense, csr8, csr16, gaps4, gaps8 or bitmap.
        tables: integer arrays by what they say ("counts", "columns", "gaps", "bits").
        weights: how many weights are listed.
    """

    name: str
    tables: dict[str, np.ndarray]
    weights: int

    @property
    def bytes(self) -> int:
        """Of the tables; the weights themselves come on top."""
        return sum(table.nbytes for table in self.tables.values())


def smallest(alive: Alive, weight_bytes: int) -> Code:
    """The code that takes the fewest bytes together with its weights; of equals the plainest."""
    codes = (code for make in CODES.values() if (code := make(alive)) is not None)
    return min(codes, key=lambda code: code.bytes + code.weights * weight_bytes)


def dense(alive: Alive) -> Code:
    """Every weight, dead ones as zeros: no tables."""
    return Code("dense", {}, alive.size)


def csr8(alive: Alive) -> Code | None:
    """How many there are in every row, and their columns in a byte each."""
    return _csr("csr8", alive, np.dtype(np.uint8))


def csr16(alive: Alive) -> Code | None:
    """How many there are in every row, and their columns in two bytes each."""
    return _csr("csr16", alive, np.dtype(np.uint16))


def gaps4(alive: Alive) -> Code:
    """As `gaps8`, in half bytes; the lower half comes first."""
    gaps = _gaps(alive, 15)
    gaps = np.append(gaps, 0) if len(gaps) % 2 else gaps
    return Code("gaps4", {"gaps": (gaps[::2] | gaps[1::2] << 4).astype(np.uint8)}, int(alive.sum()))


def gaps8(alive: Alive) -> Code:
    """How many dead places come before every weight, through all rows as if they were one.

    255 means that many dead places and no weight yet. Behind the last weight so many follow that a
    reader runs past the end of the last row.
    """
    return Code("gaps8", {"gaps": _gaps(alive, 255).astype(np.uint8)}, int(alive.sum()))


def bitmap(alive: Alive) -> Code:
    """A bit for every place, through all rows; the lowest bit of a byte comes first."""
    bits = np.packbits(alive.reshape(-1), bitorder="little")
    return Code("bitmap", {"bits": bits}, int(alive.sum()))


CODES: dict[str, Callable[[Alive], Code | None]] = {
    "dense": dense,
    "bitmap": bitmap,
    "csr8": csr8,
    "csr16": csr16,
    "gaps8": gaps8,
    "gaps4": gaps4,
}


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
    """Dead places before each weight, `jump` standing for that many without one."""
    places = np.flatnonzero(alive)
    between = np.diff(places, prepend=-1) - 1
    behind = alive.size - 1 - (places[-1] if len(places) else -1)
    jumps = np.append(between // jump, max(-(-behind // jump), 1))  # it reads one ahead, always
    # Each weight's jumps, then what is left of its gap; behind the last one jumps alone.
    codes = np.full(int(jumps.sum()) + len(places), jump, dtype=np.int64)
    ends = np.cumsum(jumps[:-1] + 1) - 1
    codes[ends] = between % jump
    return codes
