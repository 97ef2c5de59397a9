"""`kind_of`: what an annotation accepts, as a test, a conversion and words for messages.

This file imports no torch: annotations bring their own classes.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from sentei.errors import visible

READ = "read by the function itself"  # Annotated[X, READ]: the function's own reader refuses

Fits = Callable[[Any], bool]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """What an argument may be.

    Attributes:
        words: completes "must be", such as "an nn.Module".
        fits: whether a value is of this kind.
        remedy: a sentence on where to get one; empty if `words` say it.
        convert: returns a value of this kind for one that is as good, such as an array for a
            tensor; any other value unchanged.
        classes: the classes whose objects fit, if objects of no other class do.
        item: the kind of the items of a sequence, or of the values of a mapping.
    """

    words: str
    fits: Fits
    remedy: str = ""
    convert: Callable[[Any], Any] = _same
    classes: tuple[type, ...] = ()
    item: Kind | None = None


# For classes by name: what to call them in a message, and where to get one.
_GROUPS = "Take groups from find_units(model, example) or find_synapses(model)"
_CLASSES = {
    "Module": (
        "a network, an nn.Module",
        "Pass the network itself, not its class, its state_dict, its file (load(path) reads a "
        "file) or what was exported from it (prune before you quantise or export); "
        "nn.Sequential(*layers) makes one network of several layers",
    ),
    "Sequential": ("an nn.Sequential", "Make it with training.mlp, or nn.Sequential(*layers)"),
    "Tensor": ("a tensor", "Make it with torch.as_tensor(values)"),
    "Optimizer": ("an optimizer", "Make it with torch.optim.Adam(model.parameters())"),
    "Neurons": ("a group of units", _GROUPS),
    "Synapses": ("a group of synapses", _GROUPS),
    "Branches": ("a group of residual branches", "Take it from find_units(..., depth=True)"),
    "Mask": ("a Mask", "Mask.full(groups) makes one, and every step has one: step.mask"),
    "Probe": ("a Probe", "Make it with Probe(model, data)"),
    "Limit": ("a limit", "Make it with a function such as units_at_most('50 %')"),
    "Split": ("a Split", "datasets.load returns one"),
    "_ScalingLike": ("a Scaling", "Make it with datasets.Scaling.of(inputs)"),
    "_CutLike": ("a Cut", "A proposal returns one"),
    "Samples": ("Samples", "Make them with datasets.Samples(inputs, targets)"),
    "Card": ("a Card", "Make it with Card(loss='cross_entropy')"),
    "Recipe": ("a Recipe", "Make it with Recipe(epochs=10)"),
    "MemoryBudget": ("a MemoryBudget", "Make it with MemoryBudget('c-int8', '32 KiB')"),
    **dict.fromkeys(
        ("Trajectory", "WeightRecord"),
        ("a Trajectory", "Make it with Trajectory(model), before training"),
    ),
}


def kind_of(hint: Any) -> Kind | None:
    """Return what an annotation accepts; None if that is anything, or not known here."""
    return _MAKERS.get(get_origin(hint), _of_class)(hint)


def shown(value: Any) -> str:
    """Return a value for a message: short, and what it is where its text does not say it."""
    name = visible(type(value).__name__)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = visible(repr(value))
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, type):
        return f"the class {visible(value.__name__)}"
    if inspect.isroutine(value):
        return f"the function {visible(value.__name__)}"
    if _has(value, "shape", "dtype"):
        return f"{_a(name)} of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        items = f"{len(value)} item{'' if len(value) == 1 else 's'}"
        return f"{_a(name)} of {items}" if value else f"an empty {name}"
    return f"{_a(name)} object"


def _has(value: Any, *names: str) -> bool:
    """Return whether objects of this class have these attributes; its own code does not run."""
    return all(hasattr(type(value), name) for name in names)


def _a(name: str) -> str:
    return f"a{'n' if name[:1].lower() in 'aeiou' else ''} {name}"


# Classes.


def _objects_of(kind: type, words: str, remedy: str = "") -> Kind:
    return Kind(words, lambda value: isinstance(value, kind), remedy, _same, (kind,))


def _is_bool(value: Any) -> bool:
    # numpy's own bool has a dtype, and is no Python bool.
    return isinstance(value, bool) or (_has(value, "dtype") and str(value.dtype) == "bool")


_NUMBERS: dict[Any, Kind] = {
    bool: Kind("True or False", _is_bool),
    int: Kind("a whole number", lambda v: isinstance(v, Integral) and not isinstance(v, bool)),
    float: Kind("a number", lambda v: isinstance(v, Real) and not isinstance(v, bool)),
    str: _objects_of(str, "a text"),
    NoneType: _objects_of(NoneType, "None"),
}


def _of_class(hint: Any) -> Kind | None:
    if hint in _NUMBERS:
        return _NUMBERS[hint]
    if not isinstance(hint, type) or hint in (Any, object):
        return None
    if issubclass(hint, PurePath):
        return _objects_of(os.PathLike, "a path")
    if getattr(hint, "_is_protocol", False):
        return _of_protocol(hint)
    words, remedy = _CLASSES.get(hint.__name__, (_a(hint.__name__), ""))
    kind = _objects_of(hint, words, remedy)
    return replace(kind, convert=_as_tensor) if hint.__name__ == "Tensor" else kind


def _of_protocol(hint: type) -> Kind:
    """Return the kind of objects that have the attributes of a protocol, or can be called as it."""
    if "__call__" in vars(hint):
        parameters = list(inspect.signature(hint.__call__).parameters)[1:]
        return _function(parameters, object)
    names = [name for name in vars(hint) if not name.startswith("_")]
    words, remedy = _CLASSES.get(hint.__name__, (f"an object with {' and '.join(names)}", ""))
    methods = {name: not isinstance(vars(hint)[name], property) for name in names}

    def fits(value: Any) -> bool:
        # A tensor has a method `mean`, and is no object that has a mean.
        return not isinstance(value, type) and all(
            hasattr(value, name) and callable(getattr(value, name)) == is_method
            for name, is_method in methods.items()
        )

    return Kind(words, fits, remedy)


def _as_tensor(value: Any) -> Any:
    """Return the tensor of a numpy array of numbers; anything else unchanged."""
    if type(value).__module__ != "numpy":
        return value
    import numpy as np
    import torch

    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        return value
    return torch.as_tensor(np.require(value, requirements=["C", "W"]))


# Functions.


def _of_callable(hint: Any) -> Kind:
    parameters, result = get_args(hint) or (..., Any)
    names = None if parameters is ... else [_name(each) for each in parameters]
    return _function(names, result)


def _function(parameters: Sequence[str] | None, result: Any) -> Kind:
    """Return the kind of functions of so many arguments.

    A class or a network is one only if it gives what the function has to return, as an optimizer's
    class does where an optimizer has to be made; elsewhere an object of the class was meant.
    """
    count = None if parameters is None else len(parameters)

    def fits(value: Any) -> bool:
        if isinstance(value, type):
            can_be = result is Any or (result is not object and _makes(value, result))
        elif _has(value, "forward", "named_parameters"):  # a network gives tensors
            can_be = result is Any or getattr(result, "__name__", "") == "Tensor"
        else:
            can_be = callable(value)
        return can_be and (count is None or _takes(value, count))

    words = "a function" if parameters is None else f"a function of ({', '.join(parameters)})"
    return Kind(words, fits)


def _makes(value: type, wanted: Any) -> bool:
    """Return whether objects of a class are what is wanted."""
    if getattr(wanted, "_is_protocol", False):
        return all(hasattr(value, n) for n in vars(wanted) if n == "__call__" or n[0] != "_")
    return isinstance(wanted, type) and issubclass(value, wanted)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Return whether a function can be called with so many arguments, as far as that is known."""
    # A module's own signature, (*args, **kwargs), says nothing.
    called = getattr(function, "forward", function) if _has(function, "forward") else function
    try:
        inspect.signature(called).bind(*[None] * count)
    except ValueError:  # no signature, as of functions in C
        return True
    except TypeError:
        return False
    return True


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else re.sub(r"[A-Za-z_.]+\.", "", str(hint))


# Containers.


def _of_union(hint: Any) -> Kind | None:
    found = [kind_of(each) for each in get_args(hint)]
    kinds = [kind for kind in found if kind is not None]
    if len(kinds) < len(found):
        return None
    tests = tuple(kind.fits for kind in kinds)
    classes = tuple(each for kind in kinds for each in kind.classes)
    only_classes = all(len(kind.classes) == 1 for kind in kinds)
    *first, last = dict.fromkeys(kind.words for kind in kinds)

    def convert(value: Any) -> Any:
        return next((new for k in kinds if k.fits(new := k.convert(value))), value)

    return Kind(
        f"{', '.join(first)} or {last}" if first else last,
        (lambda value: isinstance(value, classes))
        if only_classes
        else (lambda value: any(fits(value) for fits in tests)),
        next((kind.remedy for kind in kinds if kind.remedy), ""),
        convert,
        classes if only_classes else (),
        next((kind.item for kind in kinds if kind.item), None),
    )


def _of_items(hint: Any) -> Kind:
    """Return the kind of a Sequence, an Iterable or a list; an iterator is read into a list."""
    container, item = get_origin(hint), kind_of(get_args(hint)[0])

    def holds(value: Any) -> bool:
        if type(value) in (list, tuple) and container is not list:
            return True
        if not isinstance(value, container) or isinstance(value, (str, bytes, Iterator, Mapping)):
            return False
        return not _has(value, "shape") and not _has(value, "named_parameters")

    def convert(value: Any) -> Any:
        is_stream = isinstance(value, (Iterator, MappingView))
        is_stream |= container is Iterable and isinstance(value, Mapping)  # its keys
        return _converted(value, item) if is_stream or holds(value) else value

    words = "a list" if item is None else f"a list (each item: {item.words})"
    return _of_container(words, holds, convert, item)


def _of_container(
    words: str, holds: Fits, convert: Callable[[Any], Any], item: Kind | None
) -> Kind:
    if item is None:
        return Kind(words, holds, convert=convert)
    each = item.fits
    fits = lambda value: holds(value) and all(map(each, items_of(value)))  # noqa: E731
    return Kind(words, fits, item.remedy, convert, item=item)


def items_of(value: Any) -> Iterable[Any]:
    """Return the items of a list, or the values of a mapping."""
    return value.values() if isinstance(value, Mapping) else value


def _converted(values: Iterable[Any], item: Kind | None) -> list[Any]:
    """Return the items, converted, up to the first that does not fit: a stream may have no end."""
    found = []
    for value in values:
        found.append(settled(value, item))
        if item is not None and not item.fits(found[-1]):
            break
    return found


def settled(value: Any, kind: Kind | None) -> Any:
    """Return a value, converted if it does not fit as it is."""
    return value if kind is None or kind.fits(value) else kind.convert(value)


def _of_tuple(hint: Any) -> Kind:
    """Return the kind of tuples; lists are converted."""
    given = get_args(hint)
    if len(given) == 2 and given[1] is ...:
        item = kind_of(given[0])
        words = "a tuple" if item is None else f"a tuple (each item: {item.words})"
        convert = lambda v: tuple(_converted(v, item)) if isinstance(v, (list, tuple)) else v  # noqa: E731
        return _of_container(words, lambda value: isinstance(value, tuple), convert, item)
    kinds = [kind_of(each) for each in given]
    words = ", ".join("anything" if kind is None else kind.words for kind in kinds)

    def fits(value: Any) -> bool:
        if not isinstance(value, tuple) or len(value) != len(kinds):
            return False
        return all(k is None or k.fits(v) for k, v in zip(kinds, value, strict=True))

    def pair(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            return value
        return tuple(map(settled, value, kinds))

    return Kind(f"a tuple ({words})", fits, convert=pair)


def _of_mapping(hint: Any) -> Kind:
    container = get_origin(hint)
    key, value = (kind_of(each) for each in get_args(hint))
    keys = None if key is None else key.fits

    def holds(given: Any) -> bool:
        return isinstance(given, container) and (keys is None or all(map(keys, given)))

    def convert(given: Any) -> Any:
        if not holds(given) or value is None:
            return given
        return {name: settled(each, value) for name, each in given.items()}

    words = f"a dict from {'anything' if key is None else key.words}"
    words += f" to {'anything' if value is None else value.words}"
    kind = _of_container(words, holds, convert, value)
    return replace(kind, remedy=kind.remedy or ("" if key is None else key.remedy))


def _of_annotated(hint: Any) -> Kind | None:
    kind, words = kind_of(get_args(hint)[0]), get_args(hint)[1]
    return None if kind is None or words == READ else replace(kind, words=words, remedy="")


_MAKERS: dict[Any, Callable[[Any], Kind | None]] = {
    Annotated: _of_annotated,
    Callable: _of_callable,
    Union: _of_union,
    UnionType: _of_union,
    tuple: _of_tuple,
    **dict.fromkeys((Iterable, Sequence, list), _of_items),
    **dict.fromkeys((Mapping, dict), _of_mapping),
}
