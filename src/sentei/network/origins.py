"""Tell tensors that a pass computes from weights alone from those that depend on its inputs.

`W.t()`, `torch.cat((q_bias, k_bias))` or a normalised kernel are computed from weights: a layer
that uses one of them uses these weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sentei.network.copying import kept_tensors
from sentei.network.torch_functions import argument_tensors

_MARK = "_sentei_origin"

Origin = frozenset[str]  # names of the weights that a tensor is computed from; none for a constant


class Origins:
    """The origins of tensors in passes of a network.

    Args:
        model: the network.

    Attributes:
        names: the qualified names of its parameters and buffers, by id.
        used: names of the weights that were given to functions so far.
    """

    def __init__(self, model: nn.Module):
        self.names = names_of(model)
        self.used: set[str] = set()
        # Hold the tensors: an id is free again when its tensor is.
        self._constants = {id(tensor): tensor for tensor in kept_tensors(model)}

    def of(self, tensor: Tensor) -> Origin | None:
        """Return the weights that a tensor is computed from; None if it depends on the inputs."""
        if id(tensor) in self.names:
            return frozenset((self.names[id(tensor)],))
        if id(tensor) in self._constants:
            return frozenset()
        return vars(tensor).get(_MARK)

    def note(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the origins of what a function returned, and of arguments that it changed."""
        given = argument_tensors((args, kwargs))
        self.used.update(self.names[id(t)] for t in given if id(t) in self.names)
        origins = [self.of(tensor) for tensor in given]
        if None in origins:
            self._forget(result, args)
            return
        joined = frozenset().union(*(origin for origin in origins if origin is not None))
        for tensor in argument_tensors(result):
            if id(tensor) not in self.names:
                setattr(tensor, _MARK, joined)

    def _forget(self, result: Any, args: tuple[Any, ...]) -> None:
        """Unmark what a function wrote values of the pass into: its result or first argument."""
        changed = [*argument_tensors(result), *argument_tensors(args[:1] if result is None else ())]
        for tensor in changed:
            for each in (tensor, tensor._base):
                if each is not None and _MARK in vars(each):
                    delattr(each, _MARK)


def names_of(model: nn.Module) -> dict[int, str]:
    """Return the qualified names of parameters and buffers by id; a shared one has its first."""
    names: dict[int, str] = {}
    for source in (model.named_parameters, model.named_buffers):
        for name, tensor in source(remove_duplicate=False):
            names.setdefault(id(tensor), name)
    return names
