"""Take a network, data, a loss or a metric from the user's own Python, by `file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from sentei.errors import unknown
from sentei.jobs.workers import send_by_value

_REFERENCE = re.compile(r"(?P<module>.+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


_FOLDERS: set[Path] = set()  # where own code was taken from


class OwnCodeError(ValueError):
    """The user's own Python cannot be loaded, or fails; the message names its file and line."""


def is_reference(text: str) -> bool:
    """Return whether a text has the form `file.py:name` or `package.module:name`."""
    return _REFERENCE.fullmatch(text) is not None


def referred(text: str) -> Any:
    """Return what a reference names.

    Raises:
        FileNotFoundError: there is no such file, or no such module.
        OwnCodeError: the code cannot be imported, or has no such name.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is no file.py:name or package.module:name")
    where, name = found["module"], found["name"]
    module = _of_file(Path(where)) if where.endswith(".py") else _of_name(where)
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise OwnCodeError(unknown(f"name in {where}", name, known))
    return getattr(module, name)


def made(text: str, what: str) -> Any:
    """Return what a reference names, or what it returns if it is a function or a class.

    Args:
        text: the reference.
        what: what it is for, for messages.

    Raises:
        FileNotFoundError, OwnCodeError: as `referred`; also if the call fails.
    """
    thing = referred(text)
    return called(text, thing, what) if isinstance(thing, type) or _is_function(thing) else thing


def called(text: str, function: Any, what: str, *arguments: Any) -> Any:
    """Call the user's function.

    Raises:
        OwnCodeError: it raises an error; the message names the line.
    """
    try:
        return function(*arguments)
    except Exception as error:
        raise OwnCodeError(f"{what} {text} fails: {_words(error)}") from error


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = f"_sentei_{path.stem}_{abs(hash(str(path.resolve())))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    _find_beside(path.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise OwnCodeError(f"{path} cannot be imported: {_words(error)}") from error
    send_by_value(module)
    return module


def _of_name(name: str) -> ModuleType:
    _find_beside(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise FileNotFoundError(
                f"there is no module {name}; it is looked for in {Path.cwd()} and among installed "
                f"packages. Name a file: path/to/{name.rpartition('.')[2]}.py:name"
            ) from error
        raise OwnCodeError(f"{name} cannot be imported: {_words(error)}") from error
    except Exception as error:
        raise OwnCodeError(f"{name} cannot be imported: {_words(error)}") from error


def _find_beside(folder: Path) -> None:
    """Let own code import what lies beside it."""
    _FOLDERS.add(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _is_function(thing: Any) -> bool:
    return callable(thing) and (hasattr(thing, "__name__") or isinstance(thing, partial))


def _words(error: BaseException) -> str:
    """Return the user's own line and the error in it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    place = own_line(error)
    return f"{'' if place is None else f'{place}: '}{type(error).__name__}: {error}"


def own_line(error: BaseException) -> str | None:
    """Return the innermost line of the user's own code on the way to an error; None without one."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_own(f.filename)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None


def _is_own(file: str) -> bool:
    """Return whether a file lies where own code was taken from, and is no installed package's."""
    ours = str(Path(__file__).parent.parent)
    installed = file.startswith((ours, sys.prefix, sys.base_prefix))
    return not installed and any(Path(file).is_relative_to(folder) for folder in _FOLDERS)
