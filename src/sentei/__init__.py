"""sentei (剪定, pruning): make trained networks smaller, and see why the remaining network works.

`__init__.pyi` lists the public names. Each name is imported on its first use, so that importing the
package is cheap: torch is imported together with the first name that needs it.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any


def _modules_by_name() -> dict[str, str]:
    """Map each public name to the module that defines it; a subpackage maps to "sentei"."""
    names = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in names.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_MODULES = _modules_by_name()
__all__ = sorted(_MODULES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sentei' has no attribute {name!r}")
    if _MODULES[name] == "sentei":
        return importlib.import_module(f"sentei.{name}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
