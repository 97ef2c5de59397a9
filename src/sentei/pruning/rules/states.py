"""Copy and restore the state of a part of a run, such as a proposal or a retrainer.

A part with state has the methods `state_dict` and `load_state_dict`; a plain function has none.
"""

from __future__ import annotations

import copy
from typing import Any


def state_of(part: Any) -> dict[str, Any] | None:
    """Return a copy of a part's state; None if it has no state."""
    return copy.deepcopy(part.state_dict()) if hasattr(part, "state_dict") else None


def restore_state_(part: Any, state: dict[str, Any] | None) -> None:
    """Restore a state that `state_of` returned; the state itself is copied, not shared."""
    if state is not None:
        part.load_state_dict(copy.deepcopy(state))
