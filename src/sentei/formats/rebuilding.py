"""Making a network fit the tensors of a file: the cuts that a saved network has been through."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.attention import FewerHeads
from sentei.network.encoding.architecture import is_foreign, tensors_of
from sentei.network.layers import Select, refresh_

SHOWN = 5  # names in a message


def fit_to_tensors_(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    tied: Mapping[str, str],
    attributes: Mapping[str, Mapping[str, int]],
) -> nn.Module:
    """Give a network the shapes, the values and the integers of a saved one.

    Args:
        network: full-size or already small; changed in place. `Parameter` objects stay unless they
            are on the meta device.
        tensors: every parameter and persistent buffer by name, shared ones once.
        tied: other names of shared ones.
        attributes: integers of modules that are not torch's own, by path.

    Returns:
        The network; a new module only if it is itself a layer that needs a Select or fewer heads.

    Raises:
        StructureError: the tensors are not those of such a network, cut or whole.
    """
    network = _with_selects(network, tensors, attributes)
    network = _with_fewer_heads(network, tensors)
    given = {**tensors, **{name: tensors[first] for name, first in tied.items()}}
    own = tensors_of(network)
    _check_names(own, given)
    _check_shapes(own, given)
    _check_shared(own, {**{name: name for name in tensors}, **tied})
    cut = {_owner(name)[0] for name in own if own[name].shape != given[name].shape}
    for name in own:
        _put_(network, name, given[name])
    for name, first in tied.items():
        _tie_(network, name, first)
    for layer in cut:
        refresh_(network.get_submodule(layer))
    _restore_(network, attributes)
    return network


def _with_selects(
    network: nn.Module, tensors: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, int]]
) -> nn.Module:
    """The network with a Select before each layer that reads fewer inputs in the file."""
    own = tensors_of(network)
    keys = [key for key in tensors if f".{key}".endswith(".0.index") and key not in own]
    for key in sorted(keys, key=len):  # outer layers first: they rename what is within
        layer = key.removesuffix("0.index").removesuffix(".")
        dim = attributes.get(_join(layer, "0"), {}).get("dim")
        try:
            module = network.get_submodule(layer)
        except AttributeError:
            continue  # named among the unknown keys
        if dim is None or tensors[key].ndim != 1:
            continue
        device = next((t.device for t in module.parameters()), tensors[key].device)
        select = Select(tensors[key].to(device), dim)
        network = _replaced(network, layer, nn.Sequential(select, module))
    return network


def _with_fewer_heads(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network with `FewerHeads` where the file's attention has lost some."""
    for path, module in list(network.named_modules()):
        if type(module) is nn.MultiheadAttention and any(
            _join(path, name) in tensors and tensors[_join(path, name)].shape != own.shape
            for name, own in module.named_parameters()
        ):
            try:
                network = _replaced(network, path, FewerHeads(module))
            except NotImplementedError as error:
                raise StructureError(f"{path!r} cannot have fewer heads: {error}") from error
    return network


def _replaced(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent, name = _owner(path)
    network.get_submodule(parent).add_module(name, module)
    return network


def _check_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = [name for name in own if name not in given]
    foreign = [name for name in given if name not in own]
    if missing or foreign:
        raise StructureError(
            f"file and model must have the same tensors; the file lacks {_listed(missing)}, the "
            f"model lacks {_listed(foreign)}. Pass a model of the class that was saved."
        )


def _check_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name, tensor in own.items():
        held, found = tuple(given[name].shape), tuple(tensor.shape)
        if len(held) != len(found) or any(a > b for a, b in zip(held, found, strict=True)):
            raise StructureError(
                f"a model can only be made smaller to fit: {name!r} has shape {held} in the file, "
                f"{found} in the model. Pass a model as large as the one that was pruned."
            )
        floating = tensor.is_floating_point(), given[name].is_floating_point()
        if floating == (True, True) or tensor.dtype == given[name].dtype:
            continue
        raise StructureError(
            f"{name!r} is {given[name].dtype} in the file and {tensor.dtype} in the model; only "
            "one floating-point type may stand for another. Pass a model of the saved types."
        )


def _check_shared(own: Mapping[str, Tensor], sources: Mapping[str, str]) -> None:
    first: dict[int, str] = {}
    for name, tensor in own.items():
        other = first.setdefault(id(tensor), name)
        if sources[name] != sources[other]:
            raise StructureError(
                f"the model uses one tensor as {other!r} and {name!r}; the file holds two. "
                "Pass a model that does not share them."
            )


def _put_(network: nn.Module, name: str, tensor: Tensor) -> None:
    layer, short = _owner(name)
    module = network.get_submodule(layer)
    old = module._parameters.get(short)
    if old is None:
        buffer = module.get_buffer(short)
        module._buffers[short] = tensor if buffer.is_meta else tensor.to(buffer.device)
    elif old.is_meta:
        module._parameters[short] = nn.Parameter(tensor, old.requires_grad)
    else:
        old.grad = None
        old.data = tensor.to(old.device)


def _tie_(network: nn.Module, name: str, first: str) -> None:
    (layer, short), (source, original) = _owner(name), _owner(first)
    module, other = network.get_submodule(layer), network.get_submodule(source)
    if short in module._parameters:
        module._parameters[short] = other._parameters[original]
    else:
        module._buffers[short] = other._buffers[original]


def _restore_(network: nn.Module, attributes: Mapping[str, Mapping[str, int]]) -> None:
    for path, module in network.named_modules():
        for name, value in attributes.get(path, {}).items():
            is_public = is_foreign(module) and not name.startswith("_")
            if is_public and type(vars(module).get(name)) is int:
                setattr(module, name, value)


def _owner(name: str) -> tuple[str, str]:
    layer, _, short = name.rpartition(".")
    return layer, short


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(names: list[str]) -> str:
    more = "" if len(names) <= SHOWN else f" and {len(names) - SHOWN} more"
    return (", ".join(map(repr, names[:SHOWN])) or "none") + more
