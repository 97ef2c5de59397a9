"""Inputs of lower resolution or shorter length, for passes that need no particular values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sentei.nests import resized, tensors
from sentei.running import Example

# Sizes along a dimension of images and of sequences, smallest first. The remainder by `step` is
# kept: networks that halve a size several times may need it.
IMAGE_SIZES, IMAGE_STEP = (64, 96, 128), 32
LENGTHS, LENGTH_STEP = (16, 32), 8
WORTH = 0.7  # a size above this share of the old one saves too little


def smaller(example: Example) -> Iterator[Example]:
    """Yield examples of lower resolution or shorter length, smallest first, of one kind at a time.

    A dimension is reduced in every tensor that has its size, samples and channels excepted. Whether
    a network runs on such an example, and calls the same functions then, is left to the caller.

    Args:
        example: inputs; dimension 0 holds samples.
    """
    given = tensors(example)
    images = {n for t in given if t.ndim > 3 for n in t.shape[2:]}
    for size in IMAGE_SIZES:
        if change := _changes(images, size, IMAGE_STEP):
            yield resized(example, _resizing(change))
    lengths = dict.fromkeys(n for t in given if t.ndim in (2, 3) for n in t.shape[1:])
    for length in lengths if all(t.ndim > 2 or not t.is_floating_point() for t in given) else ():
        for size in LENGTHS:
            if change := _changes({length}, size, LENGTH_STEP):
                yield resized(example, _resizing(change))


def _changes(sizes: set[int], aim: int, step: int) -> dict[int, int]:
    """Return the new size for each old one that gets enough smaller."""
    new = {size: aim + size % step for size in sizes}
    return {size: less for size, less in new.items() if less <= WORTH * size}


def _resizing(change: dict[int, int]) -> Callable[[Tensor], Tensor]:
    def reduce(tensor: Tensor) -> Tensor:
        for dim in range(2 if tensor.ndim > 3 else 1, tensor.ndim):
            if (size := change.get(tensor.shape[dim])) is not None:
                tensor = tensor.index_select(dim, _positions(tensor, dim, size))
        return tensor

    return reduce


def _positions(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Return which positions stay: of images some everywhere, of sequences the first.

    The border of an image is often empty; the first tokens of a sequence are never padding.
    """
    if tensor.ndim > 3 and tensor.is_floating_point():
        every = torch.linspace(0, tensor.shape[dim] - 1, size)
        return every.round().long().to(tensor.device)
    return torch.arange(size, device=tensor.device)
