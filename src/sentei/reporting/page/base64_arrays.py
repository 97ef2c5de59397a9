"""Encode arrays as base64 text for the page; sparse arrays are stored without their zeros."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import Tensor

Packed = dict[str, Any]


def packed(values: Tensor | np.ndarray, dtype: str = "f4") -> Packed:
    """Encode an array in the form that `assets/decoding.js` decodes.

    Args:
        values: an array of any shape.
        dtype: number type to store: "f4", "f2", "i4", "i2" or "u1", little-endian.

    Returns:
        `{"t": dtype, "n": shape, "d": base64}`. If that is shorter, "m" is added, a bitmap of the
        entries that are not zero, and "d" has only these entries.
    """
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    flat = np.ascontiguousarray(given).astype(f"<{dtype}" if dtype != "u1" else "u1").reshape(-1)
    form: Packed = {"t": dtype, "n": list(given.shape)}
    nonzero = flat != 0
    sparse_bytes = int(nonzero.sum()) * flat.itemsize + flat.size // 8 + 64
    if sparse_bytes < flat.nbytes:
        bits = np.packbits(nonzero, bitorder="little")
        return {**form, "m": _base64(bits), "d": _base64(flat[nonzero])}
    return {**form, "d": _base64(flat)}


def length(parts: Any) -> int:
    """Count the characters of base64 in packed arrays, nested in dicts and lists to any depth."""
    if isinstance(parts, dict):
        return sum(map(length, parts.values()))
    if isinstance(parts, (list, tuple)):
        return sum(map(length, parts))
    return len(parts) if isinstance(parts, str) else 0


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
