"""Tensors nested in tuples, lists, mappings and dataclasses: inputs, targets, outputs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def tensors(value: Any) -> list[Tensor]:
    """Return every tensor in a nest, in order."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif _is_record(leaf):
            found += tensors([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
    return found


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of the nest with `change` applied to each leaf, tensor or not."""

    def of_leaf(leaf: Any) -> Any:
        if not _is_record(leaf):
            return change(leaf)
        own = copy.copy(leaf)
        for field in dataclasses.fields(leaf):  # also of a frozen class, without its constructor
            object.__setattr__(own, field.name, mapped(getattr(leaf, field.name), change))
        return own

    return tree_map(of_leaf, value)


def resized(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of the nest with `change` applied to each tensor."""
    return mapped(value, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def taken(value: Any, rows: Tensor) -> Any:
    """Return the samples at these row numbers, in this order; row numbers are on any device."""
    if isinstance(value, Tensor):  # without the cost of walking through a nest
        return value.index_select(0, rows.to(value.device))
    return resized(value, lambda tensor: tensor.index_select(0, rows.to(tensor.device)))


def joined(parts: Sequence[Any]) -> Any:
    """Concatenate nests of the same form along dimension 0 of their tensors; one is not copied.

    What is no tensor is taken from the first.
    """
    if len(parts) == 1:
        return parts[0]
    columns = zip(*map(tensors, parts), strict=True)
    whole = iter([torch.cat(column) for column in columns])
    return resized(parts[0], lambda tensor: next(whole))  # noqa: ARG005 - in the same order


def split(value: Any, size: int) -> list[Any]:
    """Return the nest in parts of `size` samples; the last may have fewer."""
    return [
        resized(value, lambda tensor, at=at: tensor[at : at + size])
        for at in range(0, count(value), size)
    ]


def count(value: Any) -> int:
    """Return how many samples a nest of (N, ...) tensors has."""
    return len(tensors(value)[0])


def nbytes(value: Any) -> int:
    """Return how many bytes the tensors of a nest take."""
    return sum(tensor.nbytes for tensor in tensors(value))


def shapes(value: Any) -> str:
    """Return the shapes of the tensors of a nest as a text."""
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors(value)) or "no tensors"


def _is_record(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)
