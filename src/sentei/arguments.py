"""`checked`: refuse an argument of the wrong kind when a public function is called, by one rule.

The annotations of the function say what it takes; nothing is listed a second time. An annotation
may have its own words for messages, `Annotated[Callable[[Progress], int], "a schedule, such as
linear('40 %', steps=10)"]`. What is annotated `Any`, or marked with `READ`, the function reads and
refuses itself. This file imports no torch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, TypeVar, cast, get_type_hints

from sentei.kinds import Fits, Kind, items_of, kind_of, settled, shown

Thing = TypeVar("Thing", bound=Callable[..., Any])
_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def checked(thing: Thing) -> Thing:
    """Make a function, or a class with its public methods, refuse arguments of the wrong kind.

    Arguments are compared with their annotations when the function is called, before it runs; for
    a generator too. What is as good as the kind that is wanted is converted: an array of numbers to
    a tensor, an iterator to a list, a list to a tuple. For a class, `__init__` (of a dataclass, the
    one that it makes), `__call__` and the methods without an underscore are checked.

    The decorated function raises TypeError that names the argument, what it must be, what it is,
    and where to get the right thing.
    """
    if not isinstance(thing, type):
        return cast("Thing", _guarded(thing))
    for name, member in list(vars(thing).items()):
        inner = getattr(member, "__func__", member)  # of a class method
        if (name in ("__init__", "__call__") or name[0] != "_") and inspect.isfunction(inner):
            guarded = _guarded(inner)
            setattr(thing, name, guarded if inner is member else type(member)(guarded))
    return cast("Thing", thing)


def check_entries(owner: object, state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ValueError if a state that is to be loaded lacks an entry.

    Raises:
        ValueError: names the entry, and the objects whose states have it.
    """
    for name in names:
        if name not in state:
            raise ValueError(
                f"the state of a {type(owner).__name__} has an entry {name!r}, and this one has "
                "not. Load what state_dict() returned."
            )


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    guard: Guard | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal guard
        guard = guard or Guard.of(function)  # at the first call: all names are imported by then
        if not guard.fits(args, kwargs):
            args, kwargs = guard.read(args, kwargs)
        return function(*args, **kwargs)

    return call


@dataclass(frozen=True)
class Guard:
    """What the arguments of one function may be.

    Attributes:
        function: its name, or that of the class whose objects it makes or is called on.
        places: names of the positional parameters.
        rest: name of the parameter `*args`; None if there is none.
        kinds: what each argument may be, by name; one that is not here may be anything.
        tests: for each of `places`, whether a value fits there; None if any does.
    """

    function: str
    places: tuple[str, ...]
    rest: str | None
    kinds: Mapping[str | None, Kind]
    tests: tuple[Fits | None, ...]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Guard:
        """Read the annotations of a function."""
        parameters = inspect.signature(function).parameters.values()
        hints = _hints(function)
        found = {p.name: kind_of(hints.get(p.name, Any)) for p in parameters}
        places = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, _EITHER))
        name = function.__qualname__.rpartition("<locals>.")[2]
        return cls(
            name.removesuffix(".__init__").removesuffix(".__call__"),
            places,
            next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None),
            {name: kind for name, kind in found.items() if kind is not None},
            tuple(kind and kind.fits for kind in map(found.get, places)),
        )

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Return whether all arguments fit as they are; this is all that a right call costs."""
        for test, value in zip(self.tests, args):  # noqa: B905 - strict= takes as long as a test
            if test is not None and not test(value):
                return False
        for name, value in kwargs.items():
            if name in self.kinds and not self.kinds[name].fits(value):
                return False
        rest = self.kinds.get(self.rest)
        return rest is None or all(map(rest.fits, args[len(self.tests) :]))

    def read(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments, converted where they do not fit.

        Raises:
            TypeError: one fits neither as it is nor converted.
        """
        kinds = self.kinds
        names = chain(self.places, repeat(self.rest))
        given = [*zip(names, args, strict=False), *kwargs.items()]
        values = [settled(value, kinds.get(name)) for name, value in given]
        for (name, _), value in zip(given, values, strict=True):
            if name in kinds and not kinds[name].fits(value):
                raise TypeError(self._refusal(name, value, dict(given)))
        return values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))

    def _refusal(self, name: str | None, value: Any, given: Mapping[str | None, Any]) -> str:
        kind = self.kinds[name]
        remedy = self._remedy(name, value, given)
        return (
            f"{self.function}: `{name}` must be {kind.words}; got {shown(value)}"
            f"{_wrong_item(kind, value)}.{remedy and f' {remedy}.'}"
        )

    def _remedy(self, name: str | None, value: Any, given: Mapping[str | None, Any]) -> str:
        kind, kinds = self.kinds[name], self.kinds
        if isinstance(value, type) and (not kind.classes or issubclass(value, kind.classes)):
            return f"Make an object of the class first: {value.__name__}(...)"
        for other, its in given.items():
            is_wrong = other in kinds and not kinds[other].fits(its)
            if is_wrong and kinds[other].fits(value) and kind.fits(its):
                return f"Swap `{name}` and `{other}`"
        if kind.item is not None and kind.item.fits(value):
            return f"Put it into a list: {name}=[...]"
        return kind.remedy


def _wrong_item(kind: Kind, value: Any) -> str:
    """Return which item of a list or a dict does not fit, as the end of a sentence."""
    if kind.item is None or not isinstance(value, (list, tuple, Mapping)):
        return ""
    for place, item in enumerate(items_of(value)):
        if not kind.item.fits(item):
            return f", whose item {place} is {shown(item)}"
    return ""


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations as objects, without those whose names are not imported at runtime."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        given, names = function.__annotations__, function.__globals__
    found = {}
    for name, hint in given.items():
        with suppress(NameError):
            found[name] = eval(hint, names) if isinstance(hint, str) else hint
    return found
