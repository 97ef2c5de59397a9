"""Write files atomically: to a temporary file in the same folder, renamed over the old file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from sentei.errors import FileError


def write(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` atomically: on any failure the old file stays as it was.

    Args:
        path: the file; its folder is created if necessary.
        data: the whole content of the file.
        durable: wait until the data is on disk (fsync), so that it survives a power failure.

    Raises:
        FileError: the file cannot be written (a full disk, no permission); the old file stays as it
            was.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent
        )
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error.strerror or error}. An existing file there is unchanged; "
            "free some space or choose another path."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
