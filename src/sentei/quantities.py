"""Read quantities with units, such as "32 KiB" and "2 ms"."""

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

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}  # both Greek letters


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


def parse_seconds(time: float | str) -> float:
    """Return the seconds that `"2 ms"`, `"300 us"` or a plain number stands for.

    Raises:
        BudgetError: an unknown unit, or not a number.
    """
    text = str(time).strip()
    number = text.rstrip("smuµμ").strip()
    unit = text[len(number) :].strip() or "s"
    try:
        seconds = float(number) * _SECONDS[unit]
    except (KeyError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BudgetError(f"a time is a number of seconds, or one with s, ms or us; got {time!r}")
    return seconds
