"""Put a file's checksum into the file itself, so that a single changed bit is noticed.

A file that carries one holds a JSON object near its beginning, whose first key is "checksum". The
checksum is the SHA-256 of the whole file as it is with zeros in place of the checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

KEY = "checksum"
_ZEROS = "0" * 64
_NEAR = 200  # bytes; a safetensors file begins with some forty of its own
_PLACE = re.compile(rb'\{\s*\\?"checksum\\?": \\?"([0-9a-f]{64})\\?"')


def with_room(words: Mapping[str, Any], indent: int | None = None) -> str:
    """Return `words` as a JSON object, sorted by key, with zeros where the checksum will be.

    Raises:
        ValueError: `words` has a checksum already.
    """
    if KEY in words:
        raise ValueError(f"{KEY!r} is the name of the file's own checksum; use another name")
    ordered = json.loads(json.dumps(words, sort_keys=True))
    return json.dumps({KEY: _ZEROS, **ordered}, indent=indent)


def sealed(data: bytes) -> tuple[bytes, str]:
    """Return a file made with `with_room` with its checksum in place, and the checksum."""
    begin, end = _place(data)
    checksum = hashlib.sha256(data).hexdigest()
    return data[:begin] + checksum.encode() + data[end:], checksum


def check(data: bytes) -> str:
    """Return the checksum of a whole file, after comparing it with the file's contents.

    Raises:
        ValueError: there is no checksum, or it is that of other contents.
    """
    begin, end = _place(data)
    digest = hashlib.sha256(data[:begin])
    digest.update(_ZEROS.encode())
    digest.update(memoryview(data)[end:])
    if digest.hexdigest().encode() != data[begin:end]:
        raise ValueError("its checksum is not that of its contents; at least one bit has changed")
    return digest.hexdigest()


def _place(data: bytes) -> tuple[int, int]:
    found = _PLACE.search(data[:_NEAR])
    if found is None:
        raise ValueError("it has no checksum at its beginning")
    return found.span(1)
