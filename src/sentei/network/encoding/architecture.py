"""Describe networks of torch's own layers as JSON data, and build networks from it.

A description is a tree of JSON values: `{"type": "Linear", "in_features": 784, ...}` for a layer,
`{"type": "Sequential", "children": [["fc1", ...], ...]}` for layers that run one after another, and
`{"type": "same", "as": "0"}` where a layer is used again. Only the types in the table below are
built: no name in a file makes sentei import, look up or run anything else.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from sentei.errors import StructureError, unknown
from sentei.network.counted_norm import CountedLayerNorm
from sentei.network.layers import Select, Standardise, refresh_
from sentei.network.surgery.sparse import SparseLinear

MODULES = 10_000  # largest number of modules in a description
DEPTH = 64  # deepest nesting of modules

Description = dict[str, Any]

_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_BATCH = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_MEAN_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

# Constructor arguments by type; `describe` reads each from the attribute of the same name.
_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Embedding: (
        *("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type"),
        *("scale_grad_by_freq", "sparse"),
    ),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), (*_CONV, "bias", "padding_mode")),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        (*_CONV, "output_padding", "bias", "padding_mode"),
    ),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BATCH),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _BATCH),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    CountedLayerNorm: (
        *("width", "count", "eps", "axis", "elementwise_affine", "bias", "centred"),
    ),
    nn.LocalResponseNorm: ("size", "alpha", "beta", "k"),
    nn.PReLU: ("num_parameters",),
    **dict.fromkeys((nn.Identity, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink), ()),
    **dict.fromkeys((nn.Softsign, nn.Softmax2d), ()),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish), ("inplace",)),
    **dict.fromkeys((nn.Hardswish, nn.Hardsigmoid), ("inplace",)),
    **dict.fromkeys((nn.ELU, nn.CELU), ("alpha", "inplace")),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU), ("dim",)),
    **dict.fromkeys((nn.Hardshrink, nn.Softshrink), ("lambd",)),
    nn.GELU: ("approximate",),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.RReLU: ("lower", "upper", "inplace"),
    nn.Hardtanh: ("min_val", "max_val", "inplace"),
    nn.Softplus: ("beta", "threshold"),
    nn.Threshold: ("threshold", "value", "inplace"),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), ("p", "inplace")),
    **dict.fromkeys((nn.AlphaDropout, nn.FeatureAlphaDropout), ("p", "inplace")),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _MAX_POOL),
    nn.AvgPool1d: _MEAN_POOL,
    **dict.fromkeys((nn.AvgPool2d, nn.AvgPool3d), (*_MEAN_POOL, "divisor_override")),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), ("output_size",)
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        ("output_size", "return_indices"),
    ),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), ("padding",)),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), ("padding",)),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d), ("padding",)),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), ("padding", "value")),
    nn.PixelShuffle: ("upscale_factor",),
    nn.Upsample: ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    Select: ("kept", "dim"),
    Standardise: ("shape",),
    SparseLinear: ("in_features", "out_features", "alive", "bias"),
}
_TYPES = {kind.__name__: kind for kind in _ARGUMENTS}
# How layers are built that are made from tensors: from the sizes of these, which are filled later.
_SIZED: dict[str, Callable[..., nn.Module]] = {
    "Select": lambda kept, dim: Select(torch.zeros(kept, dtype=torch.int64), dim),
    "Standardise": lambda shape: Standardise(torch.zeros(shape), torch.ones(shape)),
}


def describe(module: nn.Module) -> Description:
    """Return a network as JSON data: its layers, their arguments and their order; no weights.

    Raises:
        StructureError: the network holds a module whose type is not in the table, a module whose
            tensors were changed by hand, or too many modules.
    """
    paths = [path for path, _ in islice(_everywhere(module), MODULES + 1)]
    if len(paths) > MODULES or max(path.count(".") for path in paths) >= DEPTH:
        raise StructureError(
            f"a network can be described if it has at most {MODULES:,} modules, nested at most "
            f"{DEPTH} deep; this one exceeds that. Load it into a model of its class."
        )
    return _described(module, "", {})


def build(description: Any) -> nn.Module:
    """Build the network of a description on the meta device (shapes without memory).

    Raises:
        StructureError: the description is not one that `describe` returns.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about layers that have no inputs left
        return _built(description, "", {})


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; shared ones appear under each name."""
    found: dict[str, Tensor] = {}
    for path, part in _everywhere(module):
        for name, tensor in _own_tensors(part).items():
            found[f"{path}.{name}" if path else name] = tensor
    return found


def _everywhere(module: nn.Module) -> Any:
    return module.named_modules(remove_duplicate=False)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of a module itself, without its children."""
    buffers = {
        name: buffer
        for name, buffer in module._buffers.items()
        if name not in module._non_persistent_buffers_set
    }
    both = {**module._parameters, **buffers}
    return {name: tensor for name, tensor in both.items() if tensor is not None}


def _described(module: nn.Module, path: str, seen: dict[int, str]) -> Description:
    """Describe a module; `seen` maps the id of each layer described before to its path."""
    if id(module) in seen:
        return {"type": "same", "as": seen[id(module)]}
    if type(module) is nn.Sequential and not _own_tensors(module):
        children = [
            [name, _described(child, _join(path, name), seen)]
            for name, child in module._modules.items()
            if child is not None
        ]
        return {"type": "Sequential", "children": children}
    seen[id(module)] = path
    return _layer(module, path)


def _layer(module: nn.Module, path: str) -> Description:
    """Describe one layer; refuse it if torch would build it with other tensors."""
    kind = type(module)
    if kind not in _ARGUMENTS:
        raise StructureError(
            f"module {path!r} is a {kind.__name__}; only nn.Sequential of torch's own layers can "
            "be described. Load other networks into a model of their class."
        )
    if isinstance(getattr(module, "weight", None), Tensor):
        module = copy.copy(module)
        refresh_(module)  # its weight may be tied to that of another layer, and cut with it
    given = {name: _plain(_argument(module, name), path) for name in _ARGUMENTS[kind]}
    description = {"type": kind.__name__, **given}
    # In any order: torch.nn.utils.prune.remove and others like it put the weight behind the bias.
    shapes = {name: tuple(t.shape) for name, t in _own_tensors(module).items()}
    if shapes != _shapes(json.dumps(description)):
        raise StructureError(
            f"module {path!r} is a {kind.__name__} whose tensors are not those of its class: they "
            f"are {shapes}. Load it into a model that was changed in the same way."
        )
    return description


def _argument(module: nn.Module, name: str) -> Any:
    if name == "bias":
        return module.bias is not None
    if isinstance(module, Select) and name == "kept":
        return len(module.index)
    if isinstance(module, Standardise):
        return list(module.mean.shape)
    return getattr(module, name)


def _plain(value: Any, path: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item, path) for item in value]
    raise StructureError(
        f"arguments of module {path!r} must be numbers or strings to be described; one is a "
        f"{type(value).__name__}. Load it into a model of its class."
    )


@lru_cache(maxsize=1024)
def _shapes(description: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors of a layer as torch builds it."""
    layer = build(json.loads(description))
    return {name: tuple(t.shape) for name, t in _own_tensors(layer).items()}


def _built(description: Any, path: str, seen: dict[str, nn.Module | None]) -> nn.Module:
    """Build one module; `seen` maps each path to its layer, or to None for a Sequential."""
    if not isinstance(description, dict) or path in seen:
        raise StructureError(f"module {path!r} is not described, or described twice")
    if len(seen) >= MODULES or path.count(".") >= DEPTH:
        raise StructureError(
            f"more than {MODULES:,} modules, or modules nested more than {DEPTH} deep, are refused"
        )
    seen[path] = None
    given = {name: value for name, value in description.items() if name != "type"}
    kind = description.get("type")
    if kind == "same":
        module = seen.get(str(given.get("as")))
        if module is None:  # only a layer may be used again: a container could contain itself
            raise StructureError(f"module {path!r} reuses {given.get('as')!r}, which is no layer")
        return module
    if kind == "Sequential":
        return _sequence(given.get("children"), path, seen)
    module = seen[path] = _construct(kind, given, path)
    return module


def _sequence(children: Any, path: str, seen: dict[str, nn.Module | None]) -> nn.Sequential:
    sequence = nn.Sequential()
    try:
        for name, child in children:
            sequence.add_module(name, _built(child, _join(path, name), seen))
    except (TypeError, ValueError, KeyError) as error:
        raise StructureError(f"children of module {path!r} are not described: {error}") from error
    return sequence


def _construct(kind: Any, given: dict[str, Any], path: str) -> nn.Module:
    if not isinstance(kind, str) or kind not in _TYPES:
        raise StructureError(f"module {path!r}: {unknown('layer', kind, _TYPES)}")
    if set(given) != set(_ARGUMENTS[_TYPES[kind]]):
        raise StructureError(
            f"module {path!r}: a {kind} is described by {_ARGUMENTS[_TYPES[kind]]}; got "
            f"{tuple(given)}"
        )
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    for name, hint in _hints(_TYPES[kind]).items():
        if name in values and not _is_a(values[name], hint):
            raise StructureError(
                f"module {path!r}: no {kind} has these arguments: {name}={values[name]!r}"
            )
    try:
        return _SIZED.get(kind, _TYPES[kind])(**values)
    except Exception as error:  # constructors raise many types of error for impossible arguments
        raise StructureError(f"module {path!r}: no {kind} has these arguments: {error}") from error


@lru_cache(maxsize=256)
def _hints(kind: type[nn.Module]) -> dict[str, Any]:
    """Return the types of a constructor's arguments; constructors themselves do not check them."""
    return get_type_hints(kind.__init__)


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type, as far as JSON can tell; 1 may stand for True or 1.0."""
    if get_origin(hint) in (Union, UnionType):
        return any(_is_a(value, each) for each in get_args(hint))
    if hint is float:  # None too: torch's own hints forget it for some momentums
        return value is None or isinstance(value, (int, float))
    if hint in (int, bool):
        return isinstance(value, int) and abs(value) < 1 << 63
    if get_origin(hint) in (list, Sequence):
        hint = tuple[get_args(hint)[0], ...]
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and _are(value, get_args(hint))
    return not isinstance(hint, type) or isinstance(value, hint)


def _are(values: tuple[Any, ...], hints: tuple[Any, ...]) -> bool:
    """Return whether values are of these types one by one, or all of the one type that is given."""
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = hints[:1] * len(values)
    return len(values) == len(hints) and all(map(_is_a, values, hints))


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
