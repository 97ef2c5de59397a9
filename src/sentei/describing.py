"""Describe the parts of a run by a text that is equal in every process, to tell runs apart.

This file imports no torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_WRAPPERS = ("torch.utils.", "sentei.arguments")  # of @torch.no_grad() and @checked
_DEPTH = 8  # of nested values that are described; deeper ones are left out


def described(part: Any) -> str | None:
    """Describe a schedule, limit, proposal, criterion or retrainer; None for None.

    Two parts that compute different things have different descriptions, as far as their values,
    code and closures show it; a description is the same in every process of one Python version.
    An object can state its own description as a text in an attribute `words`.
    """
    return None if part is None else _text(part, ())


def _text(value: Any, above: tuple[int, ...]) -> str:
    """Describe a value; `above` holds the ids of the values that it is part of."""
    words = getattr(value, "words", None)
    if isinstance(words, str):
        return words
    if id(value) in above or len(above) > _DEPTH:
        return "..."
    return "".join(_parts(value, (*above, id(value))))


def _parts(value: Any, above: tuple[int, ...]) -> Iterator[str]:
    if isinstance(value, partial):
        yield _called("partial", [value.func, *value.args], value.keywords, above)
    elif isinstance(value, MethodType):
        yield f"{_text(value.__self__, above)}.{value.__name__}"
    elif isinstance(value, FunctionType):
        yield _function(value, above)
    elif isinstance(value, type):
        yield _class(value)
    elif hasattr(value, "__qualname__"):
        yield value.__qualname__
    elif is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        yield _called(_class(type(value)), [], given, above)
    elif isinstance(value, Mapping):
        pairs = (f"{_text(k, above)}: {_text(v, above)}" for k, v in value.items())
        yield f"{{{', '.join(pairs)}}}"
    elif isinstance(value, Set):
        yield f"{{{', '.join(sorted(_text(item, above) for item in value))}}}"
    elif isinstance(value, (list, tuple)):
        yield _called(type(value).__name__, value, {}, above)
    else:
        yield _object(value, above)


def _function(function: FunctionType, above: tuple[int, ...]) -> str:
    """Describe a function by its name; one that is not sentei's also by its code and closure."""
    if function.__globals__.get("__name__", "").startswith(_WRAPPERS) and (
        inner := getattr(function, "__wrapped__", None)
    ):
        return _text(inner, above)
    code, cells = function.__code__, function.__closure__ or ()
    if _is_own(function) and not cells:
        return function.__qualname__
    held = {name: _cell(cell) for name, cell in zip(code.co_freevars, cells, strict=True)}
    named = {**(function.__kwdefaults__ or {}), **held}
    name = f"{function.__qualname__}#{_digest([function])}"
    return _called(name, function.__defaults__ or (), named, above)


def _class(kind: type) -> str:
    """Describe a class by its name; one that is not sentei's also by the code of its methods."""
    owners = [owner for owner in kind.__mro__ if owner is not object and not _is_own(owner)]
    methods = [f for owner in owners for f in vars(owner).values() if isinstance(f, FunctionType)]
    if _is_own(kind) or not methods:
        return kind.__qualname__
    return f"{kind.__qualname__}#{_digest(methods)}"


def _is_own(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] == "sentei"


def _digest(functions: Sequence[FunctionType]) -> str:
    """Return eight hex digits of what functions compute, whatever their file and docstrings."""
    whole = [list(_code(function.__code__, function.__doc__)) for function in functions]
    return hashlib.sha256(repr(whole).encode()).hexdigest()[:8]


def _code(code: CodeType, doc: str | None) -> Iterator[Any]:
    yield code.co_code.hex()
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield list(_code(constant, None))
        elif constant is not None and constant is not doc:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, Set) else constant)


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _object(value: Any, above: tuple[int, ...]) -> str:
    """Describe tensors, arrays, networks and probes by their contents, others by repr or fields."""
    if (contents := _fingerprint(value)) is not None:
        return f"{type(value).__name__}({contents})"
    text = repr(value)
    if not _ADDRESS.search(text):
        return text
    public = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return _called(_class(type(value)), [], public, above)


def _fingerprint(value: Any) -> str | None:
    """Return hex digits of the numbers that a value holds; None if it holds none in a known way."""
    if hasattr(value, "fingerprint"):
        return value.fingerprint()
    is_network = hasattr(value, "named_parameters")
    if not is_network and not hasattr(value, "__array__"):
        return None
    import torch

    from sentei.samples import fingerprint

    held = value.state_dict().values() if is_network else [value]
    return fingerprint(torch.as_tensor(each) for each in held)


def _called(
    name: str, given: Sequence[Any], named: Mapping[str, Any], above: tuple[int, ...]
) -> str:
    """Return `name(a, b, key=value)`."""
    values = [_text(value, above) for value in given]
    values += [f"{key}={_text(value, above)}" for key, value in named.items()]
    return f"{name}({', '.join(values)})"
