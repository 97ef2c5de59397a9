"""Read quantities with units, such as "32 KiB"."""

from __future__ import annotations

import math

from sentei.errors import BudgetError

_UNITS = {
    "B": 1,
    "kB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
}


def parse_bytes(size: int | str) -> int:
    """Return the number of bytes that `"32 KiB"`, `"1.5 MB"` or a plain number stands for.

    Raises:
        BudgetError: an unknown unit, or not a number.
    """
    text = str(size).strip()
    number = text.rstrip("BKMGikb").strip()
    unit = text[len(number) :].strip() or "B"
    units = {**_UNITS, "KB": 1000}
    try:
        count = float(number) * units[unit]
    except (KeyError, ValueError):
        count = math.nan
    if not math.isfinite(count):
        raise BudgetError(
            f"a size is a number and one of {', '.join(_UNITS)} (32 KiB is 32768 bytes); "
            f"got {size!r}"
        )
    return round(count)
