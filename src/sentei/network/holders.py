"""Find the objects of a network that hold sizes as integers: modules, and their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

LARGEST_EPS = 0.1
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


def public_numbers(model: nn.Module) -> dict[str, dict[str, float]]:
    """Return the public numbers of a network that a cut may change, by path and name.

    These are integers outside torch's own modules, on which `forward` may depend (`num_heads`), and
    what norms add to a mean square, which counts units that are gone. They are saved with the
    weights.
    """
    found: dict[str, dict[str, float]] = {}
    for path, holder in holders(model).items():
        own = {**(integers(holder) if is_foreign(holder) else {}), **small_numbers(holder)}
        found[path] = {name: value for name, value in own.items() if not name.startswith("_")}
    return {path: values for path, values in found.items() if values}


def small_numbers(holder: Any) -> dict[str, float]:
    """Return the attributes of a norm that it may add to a mean square, such as its eps."""
    if not isinstance(holder, nn.Module) or (
        not is_foreign(holder) and type(holder) is not nn.RMSNorm
    ):
        return {}
    own = [p for p in holder._parameters.values() if p is not None]
    if not own or any(p.ndim != 1 for p in own) or next(holder.children(), None) is not None:
        return {}
    found = vars(holder).items()
    return {n: v for n, v in found if isinstance(v, float) and 0 < v < LARGEST_EPS}


def restore_numbers_(model: nn.Module, saved: Mapping[str, Mapping[str, float]]) -> None:
    """Set the saved ones of those numbers that `public_numbers` returns for the network."""
    own, at = public_numbers(model), holders(model)
    for path, values in saved.items():
        named = own.get(path, {}).keys()
        if type(at.get(path)) is nn.RMSNorm:
            named |= {"eps"}  # None in a new one
        for name in values.keys() & named:
            setattr(at[path], name, values[name])


def is_foreign(holder: Any) -> bool:
    """Return whether an object's class is defined outside torch.nn."""
    return not type(holder).__module__.startswith("torch.nn")


def _is_plain(value: Any) -> bool:
    is_object = hasattr(value, "__dict__") and not isinstance(value, (nn.Module, Tensor, type))
    library = type(value).__module__.partition(".")[0]
    return is_object and not callable(value) and library not in _LIBRARIES
