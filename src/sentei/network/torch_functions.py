"""Look into what a torch function is given and returns: tensors in tuples, lists, dicts, slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

# What a function without a tensor in its result may ask of a tensor; all else depends on values.
FORM = frozenset(
    (
        *("shape", "size", "dim", "ndim", "ndimension", "numel", "nelement", "stride", "__len__"),
        *("dtype", "device", "layout", "type", "names", "is_cuda", "is_cpu", "is_mps", "is_meta"),
        *("is_sparse", "is_quantized", "is_nested", "is_mkldnn", "is_complex", "is_signed"),
        *("is_floating_point", "is_inference", "is_leaf", "is_contiguous", "is_same_size"),
        *("requires_grad", "requires_grad_", "retains_grad", "grad_fn", "grad", "__hash__"),
        *("element_size", "itemsize", "nbytes", "storage_offset", "get_device", "result_type"),
        "can_cast",
    )
)


def name_of(function: Any) -> str:
    """Return the name of a function; for the getter of an attribute, such as a shape, that of it.

    Args:
        function: as a torch function mode gets it.
    """
    name = getattr(function, "__name__", "")
    return getattr(function.__self__, "__name__", "") if name == "__get__" else name


def leaves(value: Any) -> Iterator[Any]:
    """Yield what arguments or results hold, in order; the ends of slices too."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(tuple(value.values()))
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def argument_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a value; much faster than torch's own function for a few arguments."""
    found: list[Tensor] = []
    _gather(value, found)
    return found


def _gather(value: Any, found: list[Tensor]) -> None:
    """Append the tensors in a value; called for every function of a pass, so without generators."""
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _gather(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _gather(item, found)
    elif isinstance(value, slice):
        _gather((value.start, value.stop, value.step), found)


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of arguments with every leaf changed; the ends of slices are leaves too."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([rebuilt(item, change) for item in value])
    if isinstance(value, dict):
        return {name: rebuilt(item, change) for name, item in value.items()}
    if kind is slice:
        return slice(change(value.start), change(value.stop), change(value.step))
    return change(value)
