"""Let one process at a time write to a folder, and notice when the folder is no longer the same.

The lock is one of the operating system: it ends with the process, however the process ends. A
killed process leaves the lock file behind, which blocks nobody; the next owner takes it over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

from sentei.errors import FileError, JournalError

log = logging.getLogger("sentei")

LOCK = ".lock"
_FAR = 2**30  # Windows locks a byte; this one is far behind those that other processes read


class FolderLock:
    """The lock on a folder, from when it is made until `release` or the end of the process.

    Args:
        folder: an existing folder.

    Raises:
        JournalError: another process, or another run in this one, holds the lock.
        FileError: the lock file cannot be made.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self._handle = _locked(self.path)
        # A run that is never iterated is not released by anyone else.
        self._release = weakref.finalize(self, _released, self._handle, self.path, os.getpid())

    @property
    def holds(self) -> bool:
        """Whether the folder still is the one that was locked, and not removed or replaced."""
        return self._release.alive and _is_same(self._handle, self.path)

    def release(self) -> None:
        """Give the lock up and remove its file; a second call does nothing."""
        self._release()


def _locked(path: Path) -> int:
    """Return an open lock file on which this process holds the lock."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FileError(
                f"cannot write {path}: {error.strerror or error}. Make the folder writable, or "
                "name another one."
            ) from error
        try:
            _lock(handle)
        except (BlockingIOError, PermissionError):
            owner = _owner(handle)
            os.close(handle)
            raise JournalError(_refusal(path.parent, owner)) from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked: %s", path.parent, error.strerror or error)
        # Between opening and locking, the owner before may have removed the file.
        if _is_same(handle, path):
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            return handle
        os.close(handle)


def _owner(handle: int) -> str:
    """Return the number of the process that holds the lock; it writes it just after it locks."""
    for _ in range(50):
        os.lseek(handle, 0, os.SEEK_SET)
        if owner := os.read(handle, 20).decode("ascii", "replace").strip():
            return owner
        time.sleep(0.01)
    return ""


def _refusal(folder: Path, owner: str) -> str:
    if owner == str(os.getpid()):
        return (
            f"{folder} is in use by another run in this process ({owner}) that has not ended. "
            "Close its iterator (call .close() on it), or name another folder."
        )
    return (
        f"{folder} is in use by process {owner or '(number not known)'}, which writes a run to "
        "it. Wait for it to end, or name another folder."
    )


def _lock(handle: int) -> None:
    """Lock an open file, without waiting.

    Raises:
        BlockingIOError | PermissionError: another holds the lock.
        OSError: the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        msvcrt: Any = import_module("msvcrt")
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same(handle: int, path: Path) -> bool:
    """Whether `path` names the open file; an open file's number is not given to another file."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _released(handle: int, path: Path, owner: int) -> None:
    # A forked child has a copy of this object: it does not own the lock.
    if os.getpid() == owner and _is_same(handle, path):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        os.close(handle)
