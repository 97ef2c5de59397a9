"""Tell from shapes alone whether a network computes the same in evaluation and training mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from sentei.nests import resized, tensors
from sentei.network.attention import multi_head_attention
from sentei.network.copying import restored
from sentei.network.example import as_found
from sentei.network.surgery.observing import DROPOUTS, without_dropout
from sentei.network.surgery.reference import State
from sentei.running import run


@torch.no_grad()
def same_in_both_modes(state: State) -> bool:
    """Return whether a network calls the same functions of the same values in both modes.

    It runs on tensors without numbers; one that needs them, as to choose a branch, counts as
    different. Dropout is left out.
    """
    with state.held() as model, restored(model):
        if any(isinstance(module, _NormBase) for module in model.modules()):
            return False
        _take_numbers_(model)
        example = resized(state.example, lambda tensor: tensor.to("meta"))
        try:
            one, other = (_traced(model.train(training), example) for training in (False, True))
            return one.calls == other.calls and one.returned == other.returned
        except Exception:  # of any kind: a value is needed, or an operator has no shapes
            return False


def _take_numbers_(model: nn.Module) -> None:
    """Replace the tensors of a network by tensors of their shapes without numbers."""
    instead: dict[int, Tensor] = {}

    def without_numbers(tensor: Tensor) -> Tensor:
        if id(tensor) not in instead:
            meta = tensor.detach().to("meta")
            kept = nn.Parameter(meta, tensor.requires_grad)
            instead[id(tensor)] = kept if isinstance(tensor, nn.Parameter) else meta
        return instead[id(tensor)]

    for module in model.modules():
        every: list[dict[str, Any]] = [module._parameters, module._buffers, vars(module)]
        for held in every:
            held |= {n: without_numbers(t) for n, t in held.items() if isinstance(t, Tensor)}


def _traced(model: nn.Module, example: Any) -> _Trace:
    with as_found(model), _Trace() as trace:
        trace.returned = trace.known(run(model, example))
    return trace


class _Trace(TorchFunctionMode):
    """Record every call of a torch function, with its arguments and results.

    A tensor that a function made is known by the number of its making, its shape and its dtype;
    any other, such as a weight, by its identity.

    Attributes:
        calls: function, arguments and results of each call, in order.
        returned: what the network returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.returned: Any = None
        self._made: dict[int, tuple[Any, ...]] = {}
        self._alive: list[Tensor] = []  # an id is free again when its tensor is

    def known(self, value: Any, *, made: bool = False) -> Any:
        """Return a value with what is known of each tensor in its place."""
        if isinstance(value, Tensor):
            if id(value) not in self._made:
                name = len(self._alive) if made else f"given {id(value)}"
                self._made[id(value)] = name, tuple(value.shape), value.dtype
                self._alive.append(value)
            return self._made[id(value)]
        if isinstance(value, (tuple, list)):
            return [self.known(item, made=made) for item in value]
        if isinstance(value, dict):
            return {key: self.known(item, made=made) for key, item in value.items()}
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        args, kwargs = without_dropout(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            with self:  # whose arguments name the mode
                return multi_head_attention(*args, **kwargs)
        given = self.known((args, kwargs))
        result = func(*args, **kwargs)
        if result is None or tensors(result):  # others only ask, as for a shape
            self.calls.append((func, given, self.known(result, made=True)))
        return result
