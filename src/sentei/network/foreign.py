"""Call operators that are not torch's own without handing them NaN.

A compiled operator may use a value as an index, such as the offset of a deformable convolution:
with NaN it reads memory that is not its own, and the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

DRAWS = 3  # fillings that are compared with a first one
_OWN = frozenset(("aten", "prim", "prims", "quantized", "_c10d_functional"))


def is_foreign(function: Any) -> bool:
    """Return whether a function is a registered operator of another library than torch."""
    if not isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return False
    name = function.name() if isinstance(function, torch._ops.OpOverload) else str(function)
    return name.replace("::", ".").partition(".")[0] not in _OWN


def without_nan(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call an operator on numbers in the place of NaN; return NaN where its result depends on them.

    The numbers lie between the other values of the same tensor, so that indices stay in range.
    Results of whole numbers, which cannot be NaN, are those for the first numbers drawn.
    """
    if not any(_has_nan(leaf) for leaf in tree_leaves((args, kwargs))):
        return function(*args, **kwargs)
    given = tree_map(_without_zeros, (list(args), dict(kwargs)))

    def result(seed: int) -> Any:
        random = torch.Generator().manual_seed(seed)
        filled = tree_map(lambda leaf: _filled(leaf, random) if _has_nan(leaf) else leaf, given)
        return function(*filled[0], **filled[1])

    found = result(0)
    for seed in range(1, DRAWS + 1):
        found = tree_map(_marked, found, result(seed))
    return found


def _has_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())


def _without_zeros(value: Any) -> Any:
    """Return a tensor with small positive values for zeros, as rectifiers leave them.

    A region of zeros hides what is read of it. Values below 0.5 are the index 0, as zeros are.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    random = torch.Generator().manual_seed(0)
    small = 0.05 + 0.4 * torch.rand(value.shape, generator=random).to(value)
    return torch.where(value == 0, small, value)


def _filled(tensor: Tensor, random: torch.Generator) -> Tensor:
    """Return a tensor with numbers between its others, or from 0 to 1, in the place of NaN."""
    marks = tensor.isnan()
    known = tensor[~marks]
    low, high = (known.amin(), known.amax()) if known.numel() else (0.0, 0.0)
    drawn = torch.rand(int(marks.sum()), generator=random).to(tensor)
    drawn = low + drawn * (high - low) if low < high else drawn
    return tensor.masked_scatter(marks, drawn)


def _marked(one: Any, other: Any) -> Any:
    if not isinstance(one, Tensor) or not one.is_floating_point() or one.shape != other.shape:
        return one
    return one.masked_fill(one != other, torch.nan)
