"""Write files atomically: to a temporary file in the same folder, renamed over the old file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from sentei.errors import FileError

_KINDS = {
    stat.S_IFDIR: "a folder; name a file in it",
    stat.S_IFIFO: "a pipe; choose another path",
    stat.S_IFSOCK: "a socket; choose another path",
    stat.S_IFCHR: "a device; choose another path",
    stat.S_IFBLK: "a device; choose another path",
}


_finished: ContextVar[list[Path] | None] = ContextVar("finished", default=None)


@contextlib.contextmanager
def written() -> Iterator[list[Path]]:
    """Yield a list to which `write` adds each file that it has written, while the block runs."""
    files: list[Path] = []
    before = _finished.set(files)
    try:
        yield files
    finally:
        _finished.reset(before)


_writes: ContextVar[bool] = ContextVar("writes", default=True)


@contextlib.contextmanager
def writing(writes: bool) -> Iterator[None]:
    """Let `write` write files, or only check that it could, while the block runs."""
    before = _writes.set(writes)
    try:
        yield
    finally:
        _writes.reset(before)


def write(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` atomically: on any failure the old file stays as it was.

    An old file's permissions are kept; a new file gets those that the process's umask leaves. At a
    symbolic link, the file that it points to is written.

    Args:
        path: the file; its folder is created if necessary.
        data: the whole content of the file.
        durable: wait until the data is on disk (fsync), so that it survives a power failure.

    Raises:
        FileError: the file cannot be written (a full disk, no permission); the old file stays as it
            was.
    """
    target = writable(path)
    if not _writes.get():
        return
    # A name of a fixed length, because that of the file may be as long as the system allows.
    temporary = target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        handle = os.open(temporary, flags, 0o666 if kept is None else kept & 0o600 | 0o200)
        with os.fdopen(handle, "wb") as file:
            if kept is not None:
                os.fchmod(handle, kept)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(handle)
        temporary.replace(target)
        if (files := _finished.get()) is not None:
            files.append(Path(path))
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error.strerror or error}. An existing file there is unchanged; "
            "free some space or choose another path."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def writable(path: str | Path) -> Path:
    """Return where a file is to be written for this path: symbolic links are followed.

    Call it before work whose result is to be written there. Nothing is changed.

    Raises:
        FileError: no file can be written there: it is a folder, a device, a pipe or a socket, or
            there is no permission to write it, or its folder cannot be made.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        mode = target.stat().st_mode if target.exists() else None
        # What a link in /proc/self/fd points to has no path of its own.
        mode = Path(path).stat().st_mode if mode is None and Path(path).exists() else mode
    except (OSError, ValueError) as error:  # a circle of links, an impossible name
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{path} cannot be written: {reason}. Choose another path.") from error
    if mode is not None and not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file; choose another path")
        example = f", such as {Path(path) / 'net'}" if stat.S_ISDIR(mode) else ""
        raise FileError(f"{path} is {kind}{example}.")
    if mode is not None and not os.access(target, os.W_OK):
        raise FileError(
            f"{path} cannot be written: there is no permission to change this file. Choose another "
            "path."
        )
    writable_folder(target.parent, path)
    return target


def writable_folder(path: str | Path, within: str | Path | None = None) -> None:
    """Check, before any work is done, that files can be written in a folder, there already or new.

    Args:
        path: the folder.
        within: what to name in messages, if not `path`: the file to be written in it.

    Raises:
        FileError: it is a file or below one, or there is no permission to write in it.
    """
    within = path if within is None else within
    try:
        whole = Path(path).absolute()
        there = next(each for each in (whole, *whole.parents) if each.exists())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{within} cannot be written: {reason}. Choose another path.") from error
    if not there.is_dir():
        raise FileError(f"{there} is a file, so {within} cannot be written. Choose another path.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(
            f"{within} cannot be written: there is no permission to write in {there}. Choose "
            "another path."
        )


def new_folder_at(path: str | Path) -> Path:
    """Return the place of a folder that is to be written whole: it is new, or an empty folder.

    Raises:
        FileError: something is there already, or no folder can be made there.
    """
    target = Path(path).absolute()
    writable_folder(target.parent, path)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise FileError(f"{path} is a file or a link; name a new folder.")
    if target.exists() and any(target.iterdir()):
        raise FileError(f"{path} is not empty; name a new folder, or remove what is in it.")
    return target


@contextlib.contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder, renamed to `target` at the end of the block; removed on any error.

    Args:
        target: as `new_folder_at` returns it.

    Raises:
        FileError: the folder cannot be written (a full disk, no permission).
    """
    temporary = target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.part"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _flush(file)
        if target.exists():
            target.rmdir()  # empty; some systems rename no folder over another
        temporary.replace(target)
    except OSError as error:
        raise FileError(
            f"cannot write {target}: {error.strerror or error}. Free some space or choose another "
            "path."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
