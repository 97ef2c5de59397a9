"""Intercept every call of a torch function in which a network uses one of its weights.

`Calls` is active while a model runs. It recognises weights by identity when they reach torch's
functions. So it treats `nn.Linear`, a hand-written `F.linear(x, self.weight)` and a layer that is
used twice alike, and no module is wrapped or hooked. Tracing writes NaN into the results of these
calls; the Probe replays them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sentei.network.attention import THIRD, multi_head_attention
from sentei.network.counted_norm import counted_layer_norm
from sentei.network.foreign import is_foreign, without_nan
from sentei.network.origins import Origins, names_of
from sentei.network.plain import plain_form

Compute = Callable[[Any, Sequence[Any], dict[str, Any]], Any]

Also = Callable[[Any, Sequence[Any], dict[str, Any]], "Call | None"]

COMPUTED = "~"  # what the names of weights that the network computes begin with
_LINEAR = ("input", "weight", "bias")
_CONV = (*_LINEAR, "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = (*_LINEAR, "stride", "padding", "output_padding", "groups", "dilation")


@dataclass(frozen=True)
class Use:
    """How a torch function uses a weight.

    Attributes:
        arguments: the function's argument names, in order.
        rows: dimension of the weight that indexes output units; None if it computes no new units.
        columns: dimension of the weight that indexes input units; None if it reads none.
        axis: dimension of input and output (from the end for layers, 1 for norms) that holds units.
        reads: name of the argument that holds the input.
        weight: name of the argument that holds the weight.
        bias: name of the argument that holds the bias.
    """

    arguments: tuple[str, ...]
    rows: int | None
    columns: int | None
    axis: int
    reads: str = "input"
    weight: str = "weight"
    bias: str = "bias"


# Functions that compute new units from their input's units; the weight's columns read the input.
MIXING: dict[Any, Use] = {
    F.linear: Use(_LINEAR, rows=0, columns=1, axis=-1),
    torch.addmm: Use(
        ("input", "mat1", "mat2"), 1, 0, -1, reads="mat1", weight="mat2", bias="input"
    ),
    F.embedding: Use(("input", "weight"), rows=1, columns=None, axis=-1),
    F.conv1d: Use(_CONV, rows=0, columns=1, axis=-2),
    F.conv2d: Use(_CONV, rows=0, columns=1, axis=-3),
    F.conv3d: Use(_CONV, rows=0, columns=1, axis=-4),
    F.conv_transpose1d: Use(_CONV_TRANSPOSE, rows=1, columns=0, axis=-2),
    F.conv_transpose2d: Use(_CONV_TRANSPOSE, rows=1, columns=0, axis=-3),
    F.conv_transpose3d: Use(_CONV_TRANSPOSE, rows=1, columns=0, axis=-4),
    torch.matmul: Use(("input", "other"), rows=1, columns=0, axis=-1, weight="other"),
    torch.mm: Use(("input", "mat2"), rows=1, columns=0, axis=-1, weight="mat2"),
}


def _each_output(weight: Tensor, input: Tensor, output: Tensor) -> int:  # noqa: ARG001
    return output.numel() * weight[:1].numel()


def _each_input(weight: Tensor, input: Tensor, output: Tensor) -> int:  # noqa: ARG001
    return input.numel() * weight[:1].numel()


def _each_column(weight: Tensor, input: Tensor, output: Tensor) -> int:  # noqa: ARG001
    return output.numel() * weight.shape[0]


# Multiplications with the weight in a call of each function of `MIXING`, for all samples, computed
# from (weight, input, output). An embedding looks rows up and multiplies nothing.
PRODUCTS: dict[Any, Callable[[Tensor, Tensor, Tensor], int]] = {
    F.embedding: lambda *_: 0,
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d), _each_output),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _each_input),
    **dict.fromkeys((torch.addmm, torch.matmul, torch.mm), _each_column),
}

_STATISTICS = ("running_mean", "running_var")
_NORM = ("input", *_STATISTICS, "weight", "bias")
_COUNTED_NORM = ("input", "count", "weight", "bias", "eps", "axis")
_LAYER_NORM = ("input", "normalized_shape", "weight", "bias", "eps")

# Functions that pass units on one by one (or norm group by norm group), with entries for each unit.
PASSING: dict[Any, Use] = {
    F.batch_norm: Use((*_NORM, "training", "momentum", "eps"), None, 0, axis=1),
    F.instance_norm: Use((*_NORM, "use_input_stats", "momentum", "eps"), None, 0, axis=1),
    F.group_norm: Use(("input", "num_groups", "weight", "bias", "eps"), None, 0, axis=1),
    F.layer_norm: Use(_LAYER_NORM, None, 0, axis=-1),
    counted_layer_norm: Use(_COUNTED_NORM, None, 0, axis=-1),
    F.rms_norm: Use(("input", "normalized_shape", "weight", "eps"), None, 0, axis=-1),
    F.prelu: Use(("input", "weight"), rows=None, columns=0, axis=1),
}

_PRODUCTS = (torch.matmul, torch.mm, torch.addmm)
_BILINEAR = ("input1", "input2", "weight", "bias")

# Functions that mix two inputs, one after the other: a use for each.
_MIXING_TWO: dict[Any, tuple[Use, Use]] = {
    F.bilinear: (
        Use(_BILINEAR, rows=0, columns=1, axis=-1, reads="input1"),
        Use(_BILINEAR, rows=0, columns=2, axis=-1, reads="input2"),
    )
}

# Methods that are called as these functions, whose arguments all have names.
FUNCTIONS: dict[Any, Any] = {
    Tensor.__matmul__: torch.matmul,
    **{getattr(Tensor, f.__name__): f for f in (torch.matmul, torch.mm, torch.addmm, torch.prelu)},
    **{getattr(Tensor, f.__name__): f for f in (torch.bmm, torch.mv)},
    Tensor.index_select: torch.index_select,
}
_ELEMENTWISE = tuple(
    getattr(owner, name)
    for owner in (torch, torch.Tensor)
    for name in (
        *("add", "sub", "mul", "div", "__add__", "__radd__", "__sub__", "__rsub__", "__iadd__"),
        *("__mul__", "__rmul__", "__truediv__", "__isub__", "__imul__", "__itruediv__"),
    )
    if hasattr(owner, name)
)


@dataclass(frozen=True)
class Call:
    """One call of a torch function that uses a weight, in one forward pass of a network.

    Attributes:
        position: number of calls before it in this pass.
        function: the torch function.
        given: its arguments by name.
        use: how it uses the weight.
        input: the tensor whose units it reads.
        axis: the dimension of `input` (of the output too, where units are computed) that holds
            units.
        weight: the weight's qualified name, or that of the first per-unit tensor of a norm.
        tensors: qualified names of all tensors with an entry per unit: per computed unit for a
            mixing call (weight and bias), per passed-on unit for the others.
        mixes: whether the call computes new units; if not, it passes units on one by one.
        groups: number of groups of a convolution; 1 elsewhere.
        third: which third of the weight's rows matters, where attention packs three weights into
            one that read different inputs; None elsewhere.
    """

    position: int
    function: Callable[..., Tensor]
    given: dict[str, Any]
    use: Use
    input: Tensor
    axis: int
    weight: str
    tensors: tuple[str, ...]
    mixes: bool
    groups: int = 1
    third: int | None = None

    def __call__(self, input: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Return the call's result, computed on another `input` or `weight` if one is given."""
        given = self.given if input is None else {**self.given, self.use.reads: input}
        given = given if weight is None else {**given, self.use.weight: weight}
        if self.function in _ELEMENTWISE:  # methods: their first argument has no name
            return self.function(*given.values())
        return self.function(**given)

    def on(self, given: dict[str, Any]) -> Call:
        """Return the same call with other arguments."""
        other = object.__new__(Call)  # `dataclasses.replace` takes as long as a small function
        vars(other).update(vars(self), given=given, input=given[self.use.reads])
        return other

    def channels(self, columns: Tensor) -> Tensor:
        """Return the input channels that columns of the weight read, (..., channels).

        A grouped convolution reads one channel in each of its groups with the same column.

        Args:
            columns: (..., columns) positions along the weight's columns.
        """
        assert self.use.columns is not None
        width = self.given[self.use.weight].shape[self.use.columns]
        steps = torch.arange(0, self.input.shape[self.axis], width, device=columns.device)
        return (steps[:, None] + columns[..., None, :]).flatten(-2)


class Calls(TorchFunctionMode):
    """A context manager that hands every call using a weight of `model` to `answer`.

    Args:
        model: the network that runs inside the `with` block.
        answer: takes a `Call`; returns the tensor that the network gets as the call's result.
        plain: compute functions that hide their layers, or what they mix, from their definition
            (`network/plain.py`). Fused kernels of attention do not propagate NaN.
        origins: of the model, to recognise weights that the network computes from others, too. Each
            is named by the position of its call, such as "~12.weight", in the same way in every
            pass.
        compute: takes (function, args, kwargs) of a torch function that is no such call; returns
            its result.
        also: takes the same, in the same form; returns the call if the function is to be handed to
            `answer` too, else None.

    Attributes:
        made: number of calls so far.
        names: qualified name of each parameter and buffer, by its id.
    """

    def __init__(
        self,
        model: nn.Module,
        answer: Callable[[Call], Tensor],
        *,
        plain: bool = False,
        origins: Origins | None = None,
        compute: Compute = lambda function, args, kwargs: function(*args, **kwargs),
        also: Also = lambda function, args, kwargs: None,  # noqa: ARG005
    ):
        super().__init__()
        self.answer = answer
        self.compute = compute
        self.also = also
        self.plain = plain
        self.made = 0
        self.origins = origins
        self.names = names_of(model) if origins is None else origins.names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:  # the packed function hides its layers: run them as separate calls
                return multi_head_attention(*args, **kwargs)
        func = FUNCTIONS.get(func, func)
        is_weight = self._is_weight if self.origins is not None else None
        if self.plain and (plain := plain_form(func, args, is_weight)) is not None:
            with self:
                return plain(*args, **kwargs)
        if calls := self._all_calls(func, args, kwargs):
            return [self._answered(call) for call in calls][-1]
        guarded = self.plain and is_foreign(func)
        result = (without_nan if guarded else self.compute)(func, args, kwargs)
        if self.origins is not None:
            self.origins.note(result, args, kwargs)
        return result

    def _answered(self, call: Call) -> Tensor:
        self.made += 1
        return self.answer(replace(call, position=self.made - 1))

    def _all_calls(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Call]:
        """Return the call that a function makes, or two if it mixes two inputs; none if none."""
        if self.origins is not None and func in _MIXING_TWO:
            found = [self._mixing(func, use, args, kwargs) for use in _MIXING_TWO[func]]
        else:
            found = [self._recognise(func, args, kwargs) or self.also(func, args, kwargs)]
        return [call for call in found if call is not None]

    def _is_weight(self, value: Any) -> bool:
        """Return whether a value is a weight of the model, or computed from weights."""
        if not isinstance(value, Tensor):
            return False
        return id(value) in self.names or bool(self.origins and self.origins.of(value))

    def _recognise(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Call | None:
        """Return the call if it uses a weight of the model, else None."""
        if func in MIXING:
            return self._mixing(func, MIXING[func], args, kwargs)
        if func in PASSING:
            return self._passing(func, PASSING[func], args, kwargs)
        if func is torch.index_select:
            return self._selecting(func, args, kwargs)
        if func in _ELEMENTWISE:
            return self._elementwise(func, args, kwargs)
        return None

    def _mixing(self, func: Any, use: Use, args: Sequence[Any], kwargs: dict) -> Call | None:
        given = _by_name(use.arguments, args, kwargs)
        weight, reads = given.get(use.weight), given.get(use.reads)
        if not isinstance(weight, Tensor) or not isinstance(reads, Tensor):
            return None
        if not self._is_weight(weight):
            return None
        if weight.ndim < 2 or (func in _PRODUCTS and (weight.ndim > 2 or self._is_constant(reads))):
            return None
        tensors = self._named(given, (use.weight, use.bias))
        groups = given.get("groups", 1)
        alone = use.columns == 1 or weight.shape[0] == groups  # no two channels share a row
        mixes = not (groups > 1 and weight.shape[1] == 1 and alone)  # not depthwise
        if not mixes:
            use = replace(use, rows=None, columns=0)
        placed = self.made, func, given, use, reads, use.axis, tensors[0], tensors, mixes, groups
        return Call(*placed, third=THIRD.get())

    def _passing(self, func: Any, use: Use, args: Sequence[Any], kwargs: dict) -> Call | None:
        given = _by_name(use.arguments, args, kwargs)
        held = {name: given.get(name) for name in (use.weight, use.bias, *_STATISTICS)}
        flat = {n: t for n, t in held.items() if isinstance(t, Tensor) and id(t) in self.names}
        tensors = self._named(flat, [name for name, t in flat.items() if t.ndim == 1])
        if not tensors or (func is F.prelu and flat[use.weight].numel() == 1):
            return None  # one slope for all units
        axis = given.get("axis", use.axis)
        return Call(
            self.made, func, given, use, given[use.reads], axis, tensors[0], tensors, mixes=False
        )

    def _selecting(self, func: Any, args: Sequence[Any], kwargs: dict) -> Call | None:
        use = Use(("input", "dim", "index"), None, columns=0, axis=-1, weight="index")
        given = _by_name(use.arguments, args, kwargs)
        if id(given.get("index")) not in self.names:
            return None
        name = self.names[id(given["index"])]
        axis = given["dim"] - given["input"].ndim if given["dim"] >= 0 else given["dim"]
        use = replace(use, axis=axis)
        return Call(self.made, func, given, use, given["input"], axis, name, (name,), mixes=False)

    def _elementwise(self, func: Any, args: Sequence[Any], kwargs: dict) -> Call | None:
        """Return the call of a scale or shift per unit, such as `x * self.gamma`, else None."""
        operands = _by_name(("input", "other"), args, kwargs)
        one, other = operands.get("input"), operands.get("other")
        if len(args) + len(kwargs) != 2 or not (
            isinstance(one, Tensor) and isinstance(other, Tensor)
        ):
            return None
        is_weight = [id(x) in self.names for x in (one, other)]
        if is_weight[0] == is_weight[1]:
            return None
        held, input = (one, other) if is_weight[0] else (other, one)
        dims = [d for d in range(held.ndim) if held.shape[d] > 1]
        if len(dims) != 1 or held.ndim > input.ndim:
            return None
        axis, name = dims[0] - held.ndim, self.names[id(held)]
        order = ("held", "input") if is_weight[0] else ("input", "held")
        use = Use(order, None, columns=dims[0], axis=axis, weight="held")
        given: dict[str, Any] = dict(zip(order, (one, other), strict=True))
        return Call(self.made, func, given, use, input, axis, name, (name,), mixes=False)

    def _named(self, given: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """Return the names of those arguments that are weights of the model, or computed from them.

        A weight that the network computes is named by the call and the argument.
        """
        return tuple(
            self.names.get(id(given[name]), f"{COMPUTED}{self.made}.{name}")
            for name in arguments
            if self._is_weight(given.get(name))
        )

    def _is_constant(self, tensor: Tensor) -> bool:
        """Return whether a tensor is known not to depend on the network's inputs."""
        return self.origins is not None and self.origins.of(tensor) is not None


def _by_name(names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, given by position or by keyword in any order."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def recorded_names(model: nn.Module) -> dict[str, str]:
    """Return for the name of each parameter and buffer the one under which calls record it.

    They differ for a tensor that several modules share: calls record it under its first name.
    """
    names = names_of(model)
    return {
        name: names[id(tensor)]
        for source in (model.named_parameters, model.named_buffers)
        for name, tensor in source(remove_duplicate=False)
    }
