"""Limits and schedules travel to other processes as the call that made them.

What they compute is a closure, which pickle refuses. The file imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Rule = TypeVar("Rule")


class Remade:
    """What a function with `@remade` returns: pickle stores the call, and calls it again."""

    def __reduce__(self) -> Any:
        """Return the call that made this; the usual parts of an object that no such call made."""
        call = self.__dict__.get("_call")
        return super().__reduce__() if call is None else (_call_again, call)


def remade(function: Callable[P, Rule]) -> Callable[P, Rule]:
    """Make what a module-level function returns, a `Remade`, remember how it was called."""

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Rule:
        made = function(*args, **kwargs)
        if isinstance(made, Remade):
            # By names: `function` may be decorated further, and pickle would miss that.
            call = (function.__module__, function.__qualname__, args, kwargs)
            object.__setattr__(made, "_call", call)
        return made

    return make


def _call_again(module: str, name: str, args: Any, kwargs: Any) -> Any:
    return getattr(import_module(module), name)(*args, **kwargs)
