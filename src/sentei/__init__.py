"""sentei (剪定, pruning): make trained networks smaller, and see why what is left works.

The public names stand in `__init__.pyi`. Each loads on first use, so that importing the package
costs nothing: torch comes with the first name that needs it.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """The module of every public name; for a subpackage, "sentei"."""
    names = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in names.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_HOMES = _homes()
__all__ = sorted(_HOMES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sentei' has no attribute {name!r}")
    if _HOMES[name] == "sentei":
        return importlib.import_module(f"sentei.{name}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
