"""Which torch functions stand for layers, where a network's own `forward` calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Addition:
    """The sum of two values of one shape."""


@dataclass(frozen=True)
class Concatenation:
    """Values one after another along the first dimension of samples."""


@dataclass(frozen=True)
class Reshape:
    """Another shape of the same numbers, in the same order.

    Attributes:
        shape: of one sample.
    """

    shape: Shape


@dataclass(frozen=True)
class Selection:
    """Positions `begin` to `end`, the latter excluded, of the first dimension of samples."""

    begin: int
    end: int


@dataclass(frozen=True)
class LastStep:
    """The last step of a sequence, as a flat sample."""


@dataclass(frozen=True)
class Transposition:
    """An exchange of the two dimensions of samples: channels and steps."""


# Functions that change nothing in evaluation mode.
IDENTITIES = frozenset(
    ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "float")
)
_RESHAPES = frozenset(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"))
_ADDITIONS = frozenset(("add", "add_", "__add__", "__radd__", "__iadd__"))
_JOINS = frozenset(("cat", "concat", "concatenate"))
_EXCHANGES = frozenset(("transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis"))

# Layers, with the names of the arguments after the first one in the order of the function's.
_POOL = ("kernel_size", "stride", "padding")
MODULES: Mapping[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "tanh": (nn.Tanh, ()),
    "silu": (nn.SiLU, ()),
    "softsign": (nn.Softsign, ()),
    "hardsigmoid": (nn.Hardsigmoid, ()),
    "hardswish": (nn.Hardswish, ()),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "elu": (nn.ELU, ("alpha",)),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "clamp": (nn.Hardtanh, ("min_val", "max_val")),
    "gelu": (nn.GELU, ("approximate",)),
    "softmax": (nn.Softmax, ("dim",)),
    "log_softmax": (nn.LogSoftmax, ("dim",)),
    "max_pool1d": (nn.MaxPool1d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    "max_pool2d": (nn.MaxPool2d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    "avg_pool1d": (nn.AvgPool1d, (*_POOL, "ceil_mode", "count_include_pad")),
    "avg_pool2d": (
        nn.AvgPool2d,
        (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    **{
        f"adaptive_{how}_pool{d}d": (getattr(nn, f"Adaptive{name}Pool{d}d"), ("output_size",))
        for how, name in (("avg", "Avg"), ("max", "Max"))
        for d in (1, 2)
    },
}
# Arguments that say where or how a result is computed, but not what.
_WITHOUT_MEANING = frozenset(("inplace", "input", "self", "_stacklevel", "min", "max"))


def followed_function(  # noqa: PLR0911 - a table of functions
    name: str, shapes: Sequence[Shape], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> list[object] | None:
    """Return the layers and operations that a function stands for; None if it stands for none.

    Args:
        name: of the function.
        shapes: of a sample of each value that it read, before the call.
        args: of the call.
        kwargs: of the call.
        result: of the call.
    """
    if not isinstance(result, Tensor):
        return None
    leaving = tuple(result.shape[1:])
    if len(shapes) == 2 and name in _ADDITIONS:
        is_plain = len(set(shapes)) == 1 and kwargs.get("alpha", 1) == 1 and len(args) == 2
        return [Addition()] if is_plain else None
    if name in _JOINS:
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        is_first = dim in (1, -len(leaving)) and len(args[0]) == len(shapes)
        return [Concatenation()] if is_first else None
    if len(shapes) != 1:
        return None
    entering = shapes[0]
    if name in _RESHAPES:
        return [Reshape(leaving)] if prod(entering) == prod(leaving) else None
    if name in _EXCHANGES:
        is_exchange = len(entering) == 2 and entering[::-1] == leaving and not _keeps(name, args)
        return [Transposition()] if is_exchange else None
    if name in ("__getitem__", "select"):
        return _selected(name, entering, leaving, args)
    if name == "mean":
        return _mean(entering, leaving, args, kwargs)
    layer = module_of(name.removesuffix("_"), args, kwargs)
    return None if layer is None else [layer]


def module_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> nn.Module | None:
    """Return the layer that computes what a function computes; None if there is none."""
    if name not in MODULES:
        return None
    build, names = MODULES[name]
    given = dict(zip(names, args[1:], strict=False))
    if name == "clamp":
        given |= {f"{end}_val": kwargs[end] for end in ("min", "max") if end in kwargs}
        if len(given) < 2 or None in given.values():
            return None
    given |= {key: value for key, value in kwargs.items() if key in names}
    odd = {
        key: value
        for key, value in kwargs.items()
        if key not in names and key not in _WITHOUT_MEANING and value is not None
    }
    if given.get("stride") in ((), []):
        del given["stride"]
    return None if odd else build(**given)


def _keeps(name: str, args: Sequence[Any]) -> bool:
    """Return whether an exchange of dimensions leaves both dimensions of samples in their places.

    Where both are of one size, shapes alone do not tell.
    """
    dims = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    places = [dim % 3 for dim in dims]
    if name == "permute":
        return places != [0, 2, 1]
    return sorted(places) != [1, 2]


def _selected(  # noqa: PLR0911 - one rule after another
    name: str, entering: Shape, leaving: Shape, args: Sequence[Any]
) -> list[object] | None:
    """Return what an index takes of samples: a range of their first dimension, or all."""
    index = args[1] if name == "__getitem__" else (slice(None), args[2])
    if name == "select" and args[1] % (len(entering) + 1) != 1:
        return None
    index = index if isinstance(index, tuple) else (index,)
    if any(not isinstance(each, (int, slice, type(None), type(Ellipsis))) for each in index):
        return None
    if prod(entering) == prod(leaving):
        return [Reshape(leaving)]
    whole = slice(None)
    if len(index) < 2 or index[0] != whole or any(each != whole for each in index[2:]):
        return None
    first = index[1]
    if isinstance(first, int):
        place = first % entering[0]
        return [Selection(place, place + 1), Reshape(leaving)]
    if isinstance(first, slice) and first.step in (None, 1):
        begin, end, _ = first.indices(entering[0])
        return [Selection(begin, end)]
    return None


def _mean(
    entering: Shape, leaving: Shape, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[object] | None:
    """Return the pooling that a mean over positions or steps is."""
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if dims is None or kwargs.get("dtype") is not None:
        return None
    dims = {each % (len(entering) + 1) for each in ([dims] if isinstance(dims, int) else dims)}
    if len(entering) == 3 and dims == {2, 3}:
        return [nn.AdaptiveAvgPool2d(1), Reshape(leaving)]
    if len(entering) == 2 and dims == {2}:
        return [nn.AdaptiveAvgPool1d(1), Reshape(leaving)]
    if len(entering) == 2 and dims == {1}:
        return [Transposition(), nn.AdaptiveAvgPool1d(1), Reshape(leaving)]
    return None
