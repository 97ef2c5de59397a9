"""Find the objects of a network that hold sizes as integers: modules, and their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_LIBRARIES = ("builtins", "torch", "sentei")  # whose objects are no configuration of a network


def holders(model: nn.Module) -> dict[str, Any]:
    """Return each object of a network that may hold sizes as integers, by path.

    These are all modules, and the plain objects among the attributes of modules whose class is not
    torch's own, under "path:attribute". An object that several modules share, as layers share a
    configuration, is listed once.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        found[path] = module
        if not is_foreign(module):
            continue
        for name, value in vars(module).items():
            if not name.startswith("_") and _is_plain(value) and id(value) not in seen:
                seen.add(id(value))
                found[f"{path}:{name}"] = value
    return found


def integers(holder: Any) -> dict[str, int]:
    """Return the integer attributes of an object; booleans do not count."""
    return {name: value for name, value in vars(holder).items() if type(value) is int}


def public_integers(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return the public integers that a network holds outside torch's own modules, by path.

    A cut changes them where `forward` depends on them (`num_heads`), so they are saved with the
    weights.
    """
    found = {
        path: {name: value for name, value in integers(holder).items() if not name.startswith("_")}
        for path, holder in holders(model).items()
        if is_foreign(holder)
    }
    return {path: values for path, values in found.items() if values}


def restore_integers_(model: nn.Module, saved: Mapping[str, Mapping[str, int]]) -> None:
    """Set the saved ones of those integers that `public_integers` returns for the network."""
    own, at = public_integers(model), holders(model)
    for path, values in saved.items():
        for name in values.keys() & own.get(path, {}).keys():
            setattr(at[path], name, values[name])


def is_foreign(holder: Any) -> bool:
    """Return whether an object's class is defined outside torch.nn."""
    return not type(holder).__module__.startswith("torch.nn")


def _is_plain(value: Any) -> bool:
    is_object = hasattr(value, "__dict__") and not isinstance(value, (nn.Module, Tensor, type))
    library = type(value).__module__.partition(".")[0]
    return is_object and not callable(value) and library not in _LIBRARIES
