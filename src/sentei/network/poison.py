"""Put NaN into slices of a network's tensors for the time of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from sentei.network.reindex import Place


@contextmanager
def poisoned(tensors: Mapping[str, Tensor], slices: Mapping[Place, Tensor]) -> Iterator[None]:
    """Hold NaN in slices of tensors inside a `with` block.

    The numbers of the tensors are not written to: they refer to other memory in the block.

    Args:
        tensors: by name; of whole numbers, the slices stay as they are.
        slices: positions along a dimension of a tensor, int64, by its name and the dimension.
    """
    real = {place for place in slices if tensors[place[0]].is_floating_point()}
    before = {name: tensors[name].data for name, _ in real}
    try:
        for name, dim in sorted(real):
            data = tensors[name].data
            where = slices[name, dim].to(data.device)
            tensors[name].data = data.index_fill(dim, where, torch.nan)
        yield
    finally:
        for name, data in before.items():
            tensors[name].data = data
