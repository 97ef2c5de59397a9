"""Run a network and record what its layers compute, so that two networks can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.network.attention import multi_head_attention
from sentei.network.calls import FUNCTIONS, MIXING, PASSING, Call, Calls
from sentei.network.example import as_found
from sentei.network.foreign import is_foreign, without_nan
from sentei.network.mask import Mask
from sentei.network.origins import Origins
from sentei.network.plain import plain_form
from sentei.network.poison import poisoned
from sentei.running import Example, run

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
        dead: mark what dead units of this mask output with NaN, by NaN in the tensors that compute
            them. It passes through every function but not through the layers that read the units,
            whose columns have to be zero.
        seed: of the random numbers that the network draws.
    """
    layers: list[tuple[str, Tensor]] = []
    slices = {} if dead is None else dead.computing
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with as_found(model), torch.random.fork_rng(devices=[]), poisoned(held, slices):
        torch.manual_seed(seed)
        with _Observer(model, layers, leaking=leaking, marked=dead is not None):
            return Observed(run(model.train(training), example), layers)


class _Observer(Calls):
    """Torch function mode that records layers, without dropout."""

    def __init__(
        self, model: nn.Module, layers: list[tuple[str, Tensor]], *, leaking: bool, marked: bool
    ):
        super().__init__(model, lambda call: call(), origins=Origins(model) if marked else None)
        self.layers, self.leaking, self.marked = layers, leaking, marked

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
        result = self._marked(func, args, kwargs) if self.marked else func(*args, **kwargs)
        if func in LAYERS and isinstance(result, Tensor):
            self.layers.append((func.__name__, result.clone()))
        return result

    def _marked(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a function; take the marks of dead units from what a layer reads."""
        func = FUNCTIONS.get(func, func)
        if func not in LAYERS and (plain := plain_form(func, args, self._is_weight)) is not None:
            with self._unrecorded():
                return plain(*args, **kwargs)
        calls = self._all_calls(func, args, kwargs)
        if not calls or not calls[0].mixes:
            guarded = is_foreign(func)
            result = without_nan(func, args, kwargs) if guarded else func(*args, **kwargs)
            assert self.origins is not None
            self.origins.note(result, args, kwargs)
            return result
        given = dict(calls[0].given)
        for call in calls:
            given[call.use.reads] = torch.where(call.input.isnan(), 0, call.input)
            given[call.use.weight] = _without_dead_columns(call, given[call.use.weight])
        return replace(calls[0], given=given)()

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Record no layers in a `with` block: a plain form has layers that the function has not."""
        before = len(self.layers)
        with self:
            yield
        del self.layers[before:]


def _without_dead_columns(call: Call, weight: Tensor) -> Tensor:
    """Return a weight with zeros where it reads dead units: it may hold their marks itself."""
    if call.use.columns is None or call.groups > 1 or not call.input.is_floating_point():
        return weight
    others = [dim for dim in range(call.input.ndim) if dim != call.axis % call.input.ndim]
    marks = call.input.isnan()
    dead = (marks.amax(others) if others else marks).nonzero().flatten()
    return weight.index_fill(call.use.columns, dead, 0) if len(dead) else weight


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
