"""Numbers as text: typed arrays in base64, with the zeros of sparse ones left out."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import Tensor

Packed = dict[str, Any]


def packed(values: Tensor | np.ndarray, dtype: str = "f4") -> Packed:
    """An array as `assets/decoding.js` reads it.

    Args:
        values: any shape.
        dtype: "f4", "f2", "i4", "i2" or "u1", little-endian.

    Returns:
        `{"t": dtype, "n": shape, "d": base64}`, with "m", a bitmap of what is not zero, where that
        is shorter; then "d" has the others alone.
    """
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    flat = np.ascontiguousarray(given).astype(f"<{dtype}" if dtype != "u1" else "u1").reshape(-1)
    form: Packed = {"t": dtype, "n": list(given.shape)}
    there = flat != 0
    short = int(there.sum()) * flat.itemsize + flat.size // 8 + 64
    if short < flat.nbytes:
        bits = np.packbits(there, bitorder="little")
        return {**form, "m": _text(bits), "d": _text(flat[there])}
    return {**form, "d": _text(flat)}


def length(parts: Any) -> int:
    """Characters of base64 in packed arrays, however nested."""
    if isinstance(parts, dict):
        return sum(map(length, parts.values()))
    if isinstance(parts, (list, tuple)):
        return sum(map(length, parts))
    return len(parts) if isinstance(parts, str) else 0


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
