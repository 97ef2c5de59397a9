"""What a file can carry: parameters and buffers of modules whose class says what they compute.

Anything else that changes what a network computes, such as a hook, would be lost without a word.
`carried` finds it and names it, before a file is written and before a network is filled from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sentei.errors import FileError
from sentei.network.finished import exported, of_quantised_class
from sentei.shards import sharded

NESTED = 4  # how deep lists and dictionaries of a module are searched for tensors

# Wrappers that compute what the module in this attribute computes, by the full name of their class.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
}
# Those that remember the sizes of parameters, which a file may change.
_REMEMBERS_SIZES = ("torch.nn.parallel.distributed.DistributedDataParallel",)


@dataclass(frozen=True)
class Burden:
    """One kind of thing that a file cannot carry.

    Attributes:
        thing: what a module is or has, with {found} for the answer of `find`.
        remedy: what to do; {at} is the module in Python, {found} the answer of `find`.
        find: returns the name of what it finds in a module, or None.
        reading: whether it also hinders filling a network from a file.
    """

    thing: str
    remedy: str
    find: Callable[[nn.Module], str | None]
    reading: bool = True


def carried(model: nn.Module, *, reading: bool = False) -> nn.Module:
    """Return the network without wrappers around it; refuse what a file would lose.

    Opened are `torch.compile`, `DataParallel` and `DistributedDataParallel` around the whole
    network; they compute what the module in them computes.

    Args:
        model: the network; it is not changed.
        reading: whether it is to be filled from a file, instead of written to one.

    Raises:
        TypeError: not an nn.Module.
        FileError: names the module, what it has, and how to do without it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"a network is an nn.Module; got {type(model).__name__}. Pass the module itself."
        )
    path = "model"
    while (wrapper := _wrapper(model)) and not (reading and wrapper in _REMEMBERS_SIZES):
        _refuse(_HOOKS, model, "", path)
        path, model = f"{path}.{_WRAPPERS[wrapper]}", getattr(model, _WRAPPERS[wrapper])
    for burden in _BURDENS:
        if burden.reading or not reading:
            for name, module in model.named_modules():
                _refuse(burden, module, name, path)
    return model


def _refuse(burden: Burden, module: nn.Module, name: str, root: str) -> None:
    found = burden.find(module)
    if found is None:
        return
    where = f"module {name!r}, a {type(module).__name__}," if name else "the network itself"
    at = f"{root}.get_submodule({name!r})" if name else root
    raise FileError(
        "a file carries parameters and buffers, and nothing else that changes what a network "
        f"computes; {where} {burden.thing.format(found=found)}. "
        f"{burden.remedy.format(at=at, found=found)}"
    )


def _wrapper(module: nn.Module) -> str | None:
    return next((name for name in _classes(module) if name in _WRAPPERS), None)


def _classes(module: nn.Module) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]


def _of_class(*beginnings: str) -> Callable[[nn.Module], str | None]:
    """Find modules of a class whose full name begins with one of these."""
    return lambda module: next((n for n in _classes(module) if n.startswith(beginnings)), None)


def _hook_of(kind: type, attribute: str) -> Callable[[nn.Module], str | None]:
    """Find a forward pre-hook of this class; its attribute names the tensor that it computes."""
    return lambda module: next(
        (str(getattr(h, attribute)) for h in _hooks(module, "forward_pre") if isinstance(h, kind)),
        None,
    )


def _hooks(module: nn.Module, *kinds: str) -> list[Any]:
    """Return the functions that are registered as hooks of these kinds, such as "forward"."""
    held = (getattr(module, f"_{kind}_hooks", None) or {} for kind in kinds)
    return [hook for hooks in held for hook in hooks.values()]


def _hooked(*kinds: str) -> Callable[[nn.Module], str | None]:
    """Find hooks of these kinds, named by their functions."""
    return lambda module: ", ".join(map(_name, _hooks(module, *kinds))) or None


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _own_method(module: nn.Module) -> str | None:
    """Find a function that is set on the module itself and hides a method of its class."""
    return next(
        (
            name
            for name, value in vars(module).items()
            if callable(value) and _is_method(getattr(type(module), name, None))
        ),
        None,
    )


def _is_method(attribute: Any) -> bool:
    """Return whether a class's attribute is a method, not a default such as `act = F.relu`."""
    code = getattr(attribute, "__code__", None)
    return code is not None and code.co_varnames[:1] == ("self",)


def _overridden(*methods: str) -> Callable[[nn.Module], str | None]:
    """Find a class that has its own version of one of these methods of nn.Module."""
    return lambda module: next(
        (n for n in methods if getattr(type(module), n) is not getattr(nn.Module, n)), None
    )


def _parametrized(module: nn.Module) -> str | None:
    held = module._modules.get("parametrizations")
    return next(iter(held._modules), None) if isinstance(held, nn.ModuleDict) else None


def _tensor(fits: Callable[[Tensor], object]) -> Callable[[nn.Module], str | None]:
    """Find a parameter or buffer of the module that fits, by name."""
    return lambda module: next(
        (
            name
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None and fits(tensor)
        ),
        None,
    )


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


_PLAIN = Tensor, torch._C.TensorBase, nn.Parameter  # classes whose tensors are their entries


def _is_packed(tensor: Tensor) -> bool:
    """Return whether the numbers of a tensor are not simply its entries, one after another."""
    dispatch = (
        next(kind for kind in type(tensor).__mro__ if name in vars(kind))
        for name in ("__torch_function__", "__torch_dispatch__")
    )
    own = any(kind not in _PLAIN for kind in dispatch)
    return own or tensor.layout != torch.strided or tensor.is_quantized


def _unregistered(module: nn.Module) -> str | None:
    """Find what trains or is a layer and yet is no part of the module.

    Tensors that are computed (kept activations) are no state, and a class may make tables of
    numbers in its constructor; so only a Parameter, a leaf that is trained, or a module with such
    tensors counts, or any tensor that was set on one of torch's own layers.
    """
    known = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    is_torchs = type(module).__module__.startswith("torch.nn.")
    for name, value in vars(module).items():
        if name in _MACHINERY:
            continue
        for item in _within(value, NESTED):
            if isinstance(item, nn.Module):
                lost = module not in item.modules() and any(
                    id(tensor) not in known for tensor in (*item.parameters(), *item.buffers())
                )
            else:
                lost = id(item) not in known and (
                    isinstance(item, nn.Parameter)
                    or (item.is_leaf and (item.requires_grad or is_torchs))
                )
            if lost:
                return name
    return None


_MACHINERY = frozenset(vars(nn.Module()))


def _within(value: Any, deep: int) -> Iterator[Tensor | nn.Module]:
    """Yield the tensors and modules in a value, in lists, tuples and dictionaries too."""
    if isinstance(value, (Tensor, nn.Module)):
        yield value
    elif isinstance(value, (list, tuple, set, dict)) and deep:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _within(item, deep - 1)


_HOOKS = Burden(
    "has a forward hook: {found}",
    "Remove it with the handle that registering it returned, or write what it does into a module "
    "of its own.",
    _hooked("forward", "forward_pre"),
)

# What is looked for, the most specific first: what shards or quantises a module also hooks it.
_BURDENS = (
    Burden(
        "is in shards on several devices: {found}",
        "Gather its weights into a plain network (torch.distributed.checkpoint.state_dict with "
        "full_state_dict=True), and use that.",
        sharded,
    ),
    Burden(
        "is a {found}",
        "Use the network that was scripted or traced.",
        _of_class("torch.jit."),
    ),
    Burden(
        "is a {found}",
        "Use the network that was exported, not what the export returned; prune before you export.",
        exported,
    ),
    Burden(
        "is quantised: a {found}",
        "Use the network in floating point: prune before you quantise, and quantise after loading, "
        "or export int8 as C.",
        of_quantised_class,
    ),
    Burden(
        "is wrapped: a {found}",
        "Use what is in it, in its place: {at}._orig_mod or {at}.module.",
        _wrapper,
    ),
    Burden(
        "has no tensor {found!r} yet",
        "Run the network once on an example, so that its lazy layers get their sizes.",
        _tensor(_is_lazy),
    ),
    Burden(
        "has the tensor {found!r} on the meta device, without numbers",
        "Load its weights first.",
        _tensor(lambda tensor: tensor.is_meta),
        reading=False,
    ),
    Burden(
        "holds its tensor {found!r} packed, sparse or quantised",
        "Convert it to a plain tensor, such as with .dequantize() or .to_dense(); prune before you "
        "quantise.",
        _tensor(_is_packed),
    ),
    Burden(
        "computes {found!r} from a mask of torch.nn.utils.prune",
        "Call torch.nn.utils.prune.remove({at}, {found!r}); its zeros stay in the weights.",
        _hook_of(BasePruningMethod, "_tensor_name"),
    ),
    Burden(
        "computes {found!r} by an old weight norm",
        "Call torch.nn.utils.remove_weight_norm({at}, {found!r}).",
        _hook_of(WeightNorm, "name"),
    ),
    Burden(
        "computes {found!r} by an old spectral norm",
        "Call torch.nn.utils.remove_spectral_norm({at}, {found!r}).",
        _hook_of(SpectralNorm, "name"),
    ),
    Burden(
        "computes {found!r} by a parametrization",
        "Call torch.nn.utils.parametrize.remove_parametrizations({at}, {found!r}).",
        _parametrized,
    ),
    _HOOKS,
    Burden(
        "has a hook that changes its state: {found}",
        "Remove it with the handle that registering it returned, or keep that state in buffers.",
        _hooked("state_dict", "state_dict_pre"),
    ),
    Burden(
        "has a {found!r} of its own in place of that of its class",
        "Delete it (del {at}.{found}), or write a class with this method.",
        _own_method,
    ),
    Burden(
        "has extra state ({found})",
        "Register it as buffers.",
        _overridden("get_extra_state", "_save_to_state_dict"),
    ),
    Burden(
        "keeps weights or layers in {found!r} that are no part of it",
        "Register them: a Parameter or a module as an attribute, several in an nn.ParameterList or "
        "nn.ModuleList, other tensors with register_buffer.",
        _unregistered,
    ),
)
