"""Copy a network for proofs, measurements and runs."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from sentei.network.example import tensors
from sentei.network.holders import holders
from sentei.shards import refuse_sharded

_CONTAINERS = (dict, list, tuple, deque)
_REFILLED = (dict, list, deque, set)
Module = TypeVar("Module", bound=nn.Module)


def copied(model: Module, instead: Mapping[int, Tensor] | None = None) -> Module:
    """Return a deep copy of a network; tensors that it keeps from a pass are detached in the copy.

    torch cannot copy a tensor that is part of a computation, such as a feature map that `forward`
    stores as an attribute. In the copy it has the same values and belongs to no computation.

    Args:
        model: the network.
        instead: tensors to put in the place of others, by the id of those.

    Raises:
        StructureError: tensors of the network are in shards on several devices.
    """
    refuse_sharded(model)
    memo: dict[int, Tensor] = {id(t): t.detach() for t in kept_tensors(model) if not t.is_leaf}
    return copy.deepcopy(model, {**memo, **(instead or {})})


@contextmanager
def restored_attributes(model: nn.Module) -> Iterator[None]:
    """Undo on exit what a `with` block does to the attributes of a network's modules.

    Containers stay the same objects: the handles of hooks refer to them.
    """
    attributes = [(holder, dict(vars(holder))) for holder in holders(model).values()]
    contents = [  # most are empty, and are copied fast as a tuple
        (value, copy.copy(value) if value else ())
        for _, values in attributes
        for value in values.values()
        if isinstance(value, _REFILLED)
    ]
    try:
        yield
    finally:
        for holder, values in attributes:
            vars(holder).clear()
            vars(holder).update(values)
        for value, before in contents:
            _refill(value, before)


@contextmanager
def restored(model: nn.Module) -> Iterator[nn.Module]:
    """Undo on exit what a `with` block does to a network: to its modules, attributes and tensors.

    Much faster than a copy. Numbers that the block writes into the memory of a tensor stay; it has
    to give the tensor other `data`.
    """
    every = chain(model.parameters(), model.buffers())
    data = {id(tensor): (tensor, tensor.data, tensor.grad) for tensor in every}
    try:
        with restored_attributes(model):
            yield model
    finally:
        for tensor, own, grad in data.values():
            tensor.grad = None
            tensor.data = own
            tensor.grad = grad


def _refill(value: Any, before: Any) -> None:
    """Give a container what was in it before."""
    if not value and not before:
        return
    value.clear()
    if isinstance(value, (dict, set)):
        value.update(before)
    else:
        value.extend(before)


def kept_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors among a network's attributes that are no parameters."""
    for module in model.modules():
        for name, value in vars(module).items():
            # Most attributes are numbers, names and empty dicts: this is called for every pass.
            holds = isinstance(value, Tensor) or (isinstance(value, _CONTAINERS) and value)
            if holds and name not in ("_parameters", "_modules"):
                yield from tensors(value)
