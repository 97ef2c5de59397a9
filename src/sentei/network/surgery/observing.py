"""Run a network and record what its layers compute, so that two networks can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.network.attention import multi_head_attention
from sentei.network.calls import MIXING, PASSING, Call, Calls
from sentei.network.example import Example, as_found, run
from sentei.network.mask import Mask

LAYERS = frozenset((*MIXING, *PASSING, F.scaled_dot_product_attention))
SLOPE = 0.3  # of leaking rectifiers below 0, and of their saturated part
_DROPOUTS = frozenset(
    getattr(owner, name)
    for owner in (F, torch)
    for name in (
        *("dropout", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"),
        *("dropout1d", "dropout2d", "dropout3d"),
    )
    if hasattr(owner, name)
)


@dataclass(frozen=True, eq=False)
class Observed:
    """What one run of a network computed.

    Attributes:
        outputs: what the network returned.
        layers: the name of the function and the result of each call of a layer function, in order.
    """

    outputs: Any
    layers: list[tuple[str, Tensor]] = field(default_factory=list)


@torch.no_grad()
def observed(
    model: nn.Module,
    example: Example,
    *,
    training: bool = False,
    leaking: bool = False,
    dead: Mask | None = None,
    seed: int = 0,
) -> Observed:
    """Run a network without dropout and return its outputs and the results of its layers.

    Mode and buffers of the network and the random state are restored.

    Args:
        model: the network.
        example: its inputs.
        training: run in training mode.
        leaking: let rectifiers leak, so that no input is hidden from the layers after them.
        dead: mark what dead units of this mask output with NaN. It passes through every function
            but not through the layers that read the units, whose columns have to be zero.
        seed: of the random numbers that the network draws.
    """
    layers: list[tuple[str, Tensor]] = []
    with as_found(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _Observer(model, layers, leaking=leaking, dead=dead):
            return Observed(run(model.train(training), example), layers)


class _Observer(Calls):
    """Torch function mode that records layers, without dropout."""

    def __init__(
        self,
        model: nn.Module,
        layers: list[tuple[str, Tensor]],
        *,
        leaking: bool,
        dead: Mask | None,
    ):
        super().__init__(model, lambda call: call())
        self.layers, self.leaking, self.dead = layers, leaking, dead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        args, kwargs = _without_dropout(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            try:
                with self:  # the packed function hides its layers: run them as separate calls
                    return multi_head_attention(*args, **kwargs)
            except NotImplementedError:
                return func(*args, **kwargs)
        if self.leaking and func in _LEAKING:
            return _LEAKING[func](*args, **kwargs)
        if func not in LAYERS:
            return func(*args, **kwargs)
        call = self._recognise(func, args, kwargs)
        result = (
            func(*args, **kwargs) if self.dead is None else self._marked(func, args, kwargs, call)
        )
        if isinstance(result, Tensor):
            self.layers.append((func.__name__, result.clone()))
        return result

    def _marked(self, func: Any, args: Any, kwargs: Any, call: Call | None) -> Any:
        """Compute a layer with the marks of dead units taken from its input, and new ones set."""
        if call is None or not call.mixes:
            return func(*args, **kwargs)
        result = call(torch.where(call.input.isnan(), 0, call.input))
        assert self.dead is not None
        rows = (
            self.dead.gone.get((call.weight, call.use.rows)) if call.use.rows is not None else None
        )
        if rows is None:
            return result
        width = call.given[call.use.weight].shape[call.use.rows]
        groups = torch.arange(0, result.shape[call.axis], width)
        dead = (groups[:, None] + rows).flatten().to(result.device)
        return result.index_fill(call.axis, dead, torch.nan)


def _without_dropout(func: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of a function with every probability of dropout set to 0."""
    if "dropout_p" in kwargs:
        kwargs = {**kwargs, "dropout_p": 0.0}
    elif func is F.multi_head_attention_forward:
        args = (*args[:10], 0.0, *args[11:])
    elif func is F.scaled_dot_product_attention and len(args) > 4:
        args = (*args[:4], 0.0, *args[5:])
    return args, kwargs


def _leaky(x: Tensor, low: float, high: float) -> Tensor:
    below, above = low + SLOPE * (x - low), high + SLOPE * (x - high)
    return torch.where(x < low, below, torch.where(x > high, above, x))


def _leaking(high: float = torch.inf, *, in_place: bool = False) -> Callable[..., Tensor]:
    """Return a rectifier that leaks below 0 and above `high`, with the arguments of torch's own."""

    def rectify(input: Tensor, inplace: bool = False) -> Tensor:
        result = _leaky(input, 0.0, high)
        return input.copy_(result) if inplace or in_place else result

    return rectify


def _leaking_hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    result = _leaky(input, min_val, max_val)
    return input.copy_(result) if inplace else result


_LEAKING: Mapping[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _leaking()),
    **dict.fromkeys((F.relu_, torch.relu_, Tensor.relu_), _leaking(in_place=True)),
    F.relu6: _leaking(high=6.0),
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _leaking_hardtanh),
}
