"""Old import path of `experiments.budgets`, kept for code written for the first release."""

from __future__ import annotations

import importlib
from typing import Any

_RENAMED = {"against_bytes": "accuracy_at_budgets"}


def __getattr__(name: str) -> Any:
    module = importlib.import_module("sentei.experiments.budgets")
    return getattr(module, _RENAMED.get(name, name))
