"""Run a network and record what its layers compute, so that two networks can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.devices import seeded
from sentei.network.attention import multi_head_attention
from sentei.network.calls import FUNCTIONS, MIXING, PASSING, Call, Calls
from sentei.network.counted_norm import counted_layer_norm
from sentei.network.example import as_found
from sentei.network.foreign import is_foreign, without_nan
from sentei.network.mask import Mask
from sentei.network.origins import Origins
from sentei.network.plain import NORMS, plain_form
from sentei.network.poison import poisoned
from sentei.network.statistics import statistic, without_marks
from sentei.network.torch_functions import argument_tensors
from sentei.running import Example, run

LAYERS = frozenset((*MIXING, *PASSING, F.scaled_dot_product_attention))
GONE = torch.zeros(0, dtype=torch.bool)  # the mark of what a smaller network does not compute
SLOPE = 0.3  # of leaking rectifiers below 0, and of their saturated part
SPREAD = 0.5, 2.0  # standard deviations of a layer's outputs that need no calibration
DROPOUTS = frozenset(
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
            Of a run with marks instead of the result, bool, where it is free of them; 1 stands for
            the size of each dimension along which all positions are alike.
        calls: the names of all torch functions that were called, in order.
        casts: whether a function turned float64 into less.
    """

    outputs: Any
    layers: list[tuple[str, Tensor]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    casts: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the functions of the layers, in order."""
        return [name for name, _ in self.layers]


@torch.no_grad()
def observed(
    model: nn.Module,
    example: Example,
    *,
    training: bool = False,
    leaking: bool = False,
    dead: Mask | None = None,
    calibrating: bool = False,
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
        calibrating: divide each layer's weight in place by the spread of its outputs at its first
            call, where that is far from 1.
        seed: of the random numbers that the network draws.
    """
    with as_found(model), seeded(seed), _marking(model, dead):
        observer = _Observer(model, leaking=leaking, marked=dead is not None)
        observer.calibrating = calibrating
        with observer, _without_branches(model, dead, observer.layers):
            outputs = run(model.train(training), example)
    if observer.is_stale:  # a result from before a weight changed: what is known is computed anew
        return observed(model, example, training=training, leaking=leaking, dead=dead, seed=seed)
    return Observed(outputs, observer.layers, observer.calls, observer.casts)


def _marking(model: nn.Module, dead: Mask | None) -> AbstractContextManager[None]:
    if dead is None:
        return nullcontext()
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return poisoned(held, dead.computing)


@contextmanager
def _without_branches(
    model: nn.Module, dead: Mask | None, layers: list[tuple[str, Tensor]]
) -> Iterator[None]:
    """Note in `layers` of what modules compute that dead branches alone need: nothing stays."""
    begun: list[int] = []

    def leave(*_: Any) -> None:
        begin = begun.pop()
        layers[begin:] = [(name, GONE) for name, _ in layers[begin:]]

    handles = []
    for path in {} if dead is None else dead.stand_ins:
        module = model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(lambda *_: begun.append(len(layers))))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Observer(Calls):
    """Torch function mode that records layers, without dropout."""

    def __init__(self, model: nn.Module, *, leaking: bool, marked: bool):
        super().__init__(model, lambda call: call(), origins=Origins(model) if marked else None)
        self.layers: list[tuple[str, Tensor]] = []
        self.calls: list[str] = []
        self.casts = False
        self.leaking, self.marked = leaking, marked
        self.calibrating, self.is_stale = False, False
        self._used: set[int] = set()  # ids of weights that functions have read
        self._calibrations: set[str] = set()  # names of weights that need no other calibration

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        args, kwargs = without_dropout(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            try:
                with self:  # the packed function hides its layers: run them as separate calls
                    return multi_head_attention(*args, **kwargs)
            except NotImplementedError:
                return func(*args, **kwargs)
        self.calls.append(getattr(func, "__name__", ""))
        if self.leaking and func in _LEAKING:
            return _LEAKING[func](*args, **kwargs)
        result = self._result(func, args, kwargs)
        if isinstance(result, Tensor):
            self.casts = self.casts or _casts(result, args, kwargs)
            if func in LAYERS:
                name, result_of = func.__name__, result
                if func is counted_layer_norm:  # it stands for one over the last dimension
                    name, result_of = F.layer_norm.__name__, result.movedim(args[-1], -1)
                kept = _without_marks(result_of) if self.marked else result_of.clone()
                self.layers.append((name, kept))
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.marked:
            return self._marked(func, args, kwargs)
        if self.calibrating:
            return self._calibrated(func, args, kwargs)
        return func(*args, **kwargs)

    def _calibrated(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a function; bring its results to a spread of 1 at the first use of its weight."""
        result = func(*args, **kwargs)
        read = {id(tensor) for tensor in argument_tensors((args, kwargs))} & self.names.keys()
        call = self._recognise(FUNCTIONS.get(func, func), args, kwargs)
        if call is not None and call.function in MIXING and result.is_floating_point():
            weight = call.given[call.use.weight]
            spread = float(result.float().std())
            is_far = 0 < spread < torch.inf and not SPREAD[0] <= spread <= SPREAD[1]
            # Buffers are as they were once the run is over, also those that are weights.
            if (
                call.weight not in self._calibrations
                and is_far
                and isinstance(weight, nn.Parameter)
            ):
                weight.div_(spread)
                self.is_stale |= id(weight) in self._used
                result = call()
            self._calibrations.add(call.weight)
        self._used |= read
        return result

    def _marked(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a function; take the marks of dead units from what a layer reads."""
        func = FUNCTIONS.get(func, func)
        if func not in LAYERS and (plain := plain_form(func, args, self._is_weight)) is not None:
            with self._unrecorded():
                return plain(*args, **kwargs)
        calls = self._all_calls(func, args, kwargs)
        if not calls or not calls[0].mixes:
            result = self._passed_on(func, args, kwargs)
            assert self.origins is not None
            self.origins.note(result, args, kwargs)
            return result
        given = dict(calls[0].given)
        for call in calls:
            given[call.use.reads] = torch.where(call.input.isnan(), 0, call.input)
            given[call.use.weight] = _without_dead_columns(call, given[call.use.weight])
        return replace(calls[0], given=given)()

    def _passed_on(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Compute a function that reads no units: marks stay with the units that they are of."""
        if func in NORMS:
            with self._unrecorded():
                return NORMS[func](*args, **kwargs)
        if (found := statistic(func, args, kwargs)) is not None:
            return without_marks(found)
        return without_nan(func, args, kwargs) if is_foreign(func) else func(*args, **kwargs)

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Record no layers in a `with` block: a plain form has layers that the function has not."""
        before = len(self.layers)
        with self:
            yield
        del self.layers[before:]


def _casts(result: Tensor, args: Any, kwargs: Any) -> bool:
    """Return whether a function turned float64 into a type of fewer digits."""
    if result.dtype == torch.float64 or not result.is_floating_point():
        return False
    return any(tensor.dtype == torch.float64 for tensor in argument_tensors((args, kwargs)))


def _without_marks(result: Tensor) -> Tensor:
    """Return where a result is no NaN, with the size 1 along dimensions that are alike."""
    alive = ~result.isnan()
    for dim in range(alive.ndim):
        first = alive.narrow(dim, 0, 1) if alive.shape[dim] else alive
        if bool((alive == first).all()):
            alive = first
    return alive.clone()


def _without_dead_columns(call: Call, weight: Tensor) -> Tensor:
    """Return a weight with zeros where it reads dead units: it may hold their marks itself."""
    if call.use.columns is None or call.groups > 1 or not call.input.is_floating_point():
        return weight
    others = [dim for dim in range(call.input.ndim) if dim != call.axis % call.input.ndim]
    marks = call.input.isnan()
    dead = (marks.amax(others) if others else marks).nonzero().flatten()
    return weight.index_fill(call.use.columns, dead, 0) if len(dead) else weight


def without_dropout(func: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of a function with every probability of dropout set to 0."""
    if "dropout_p" in kwargs:
        kwargs = {**kwargs, "dropout_p": 0.0}
    elif func is F.multi_head_attention_forward:
        args = (*args[:10], 0.0, *args[11:])
    elif func is F.scaled_dot_product_attention and len(args) > 4:
        args = (*args[:4], 0.0, *args[5:])
    return args, kwargs


def _leaky(x: Tensor, low: float, high: float) -> Tensor:
    if (low, high) == (0.0, torch.inf):
        return F.leaky_relu(x, SLOPE)
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
