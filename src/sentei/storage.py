"""Writing files so that nothing is ever lost: beside the old one, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from sentei.errors import FileError


def write(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` at `path` whole or not at all: the old file survives whatever goes wrong.

    Args:
        path: the file; its folder is made if need be.
        data: all of its content.
        durable: wait until the disk has it, so that it survives a power cut as well.

    Raises:
        FileError: it cannot be written (a full disk, no permission); the old file is untouched.
    """
    path = Path(path)
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched; "
            "free some space or choose another place."
        ) from error
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                Path(beside).unlink(missing_ok=True)
