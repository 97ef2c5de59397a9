"""Zero entries of tensors in place, fast enough for every update of a training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def zero_columns(dim: int, positions: Tensor) -> Callable[[Tensor], object]:
    """Return a function that zeroes these positions along `dim` of a tensor in place."""
    return lambda tensor: tensor.index_fill_(dim, positions.to(tensor.device), 0)


def zero_entries(alive: Tensor) -> Callable[[Tensor], object]:
    """Return a function that zeroes the entries of a tensor that are not alive, in place."""
    # This runs after every update in training. A bitwise AND is many times as fast as filling, and
    # unlike a product with 0 it turns infinities and NaN into 0.
    bits: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def zero_(tensor: Tensor) -> None:
        kind = _INTEGER[tensor.element_size()], tensor.device
        if kind not in bits:
            bits[kind] = -alive.to(tensor.device, kind[0])
        tensor.view(kind[0]).bitwise_and_(bits[kind].view(tensor.shape))

    return zero_
