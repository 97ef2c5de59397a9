"""Cut a network to the shapes of a file's tensors, and load these tensors into it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.attention import FewerHeads
from sentei.network.counted_norm import CountedLayerNorm
from sentei.network.encoding.architecture import tensors_of
from sentei.network.holders import restore_numbers_
from sentei.network.layers import Select, refresh_
from sentei.network.zeros import Form, stand_in_

SHOWN = 5  # largest number of names in a message


def fit_to_tensors_(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    tied: Mapping[str, str],
    attributes: Mapping[str, Mapping[str, float]],
    zeros: Mapping[str, Form] | None = None,
) -> nn.Module:
    """Give a network the shapes, tensor values and integer attributes of a saved one, in place.

    Args:
        network: full-size or already small; changed in place. `Parameter` objects stay unless they
            are on the meta device.
        tensors: every parameter and persistent buffer by name, shared ones once.
        tied: for each further name of a shared tensor, its name in `tensors`.
        attributes: numbers that a cut may change, by path, as `public_numbers` returns them.
        zeros: the forms of the zeros in the place of the layers of removed branches, by path; no
            branch was removed if None.

    Returns:
        The network; a new module only if the network itself is a layer that needs a Select or fewer
            heads.

    Raises:
        StructureError: the tensors are not those of this network, whole or cut.
    """
    stand_in_(network, zeros or {})
    network = _with_selects(network, tensors, attributes)
    network = _with_fewer_heads(network, tensors)
    network = _with_counted_norms(network, attributes)
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
    restore_numbers_(network, attributes)
    return network


def _with_selects(
    network: nn.Module, tensors: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, float]]
) -> nn.Module:
    """Insert a Select before each layer that reads fewer inputs in the file."""
    own = tensors_of(network)
    keys = [key for key in tensors if f".{key}".endswith(".0.index") and key not in own]
    for key in sorted(keys, key=len):  # outer layers first: wrapping renames inner ones
        layer = key.removesuffix("0.index").removesuffix(".")
        dim = attributes.get(_join(layer, "0"), {}).get("dim")
        try:
            module = network.get_submodule(layer)
        except AttributeError:
            continue  # `_check_names` reports this key
        if dim is None or tensors[key].ndim != 1:
            continue
        device = next((t.device for t in module.parameters()), tensors[key].device)
        select = Select(tensors[key].to(device), int(dim))
        network = _replaced(network, layer, nn.Sequential(select, module))
    return network


def _with_fewer_heads(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Replace each nn.MultiheadAttention with tensors of other shapes in the file by FewerHeads."""
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


def _with_counted_norms(
    network: nn.Module, attributes: Mapping[str, Mapping[str, float]]
) -> nn.Module:
    """Replace each norm by one that counts removed units, where the file has a count for it."""
    for path, module in list(network.named_modules()):
        saved = attributes.get(path, {})
        has_scale = isinstance(module._parameters.get("weight"), nn.Parameter)
        if saved.keys() >= {"count", "width", "axis", "eps"} and has_scale:
            eps, axis = float(saved["eps"]), int(saved["axis"])
            centred = int(saved.get("centred", 1))
            try:
                counted = CountedLayerNorm.of(module, int(saved["count"]), eps, axis, centred)
            except ValueError as error:
                raise StructureError(f"the norm {path!r} cannot be rebuilt: {error}") from error
            network = _replaced(network, path, counted)
    return network


def _replaced(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put `module` at `path` and return the network, or return `module` if `path` is empty."""
    if not path:
        return module
    parent, name = _owner(path)
    network.get_submodule(parent).add_module(name, module)
    return network


def _check_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise StructureError if file and model do not have the same tensor names."""
    missing = [name for name in own if name not in given]
    foreign = [name for name in given if name not in own]
    if missing or foreign:
        raise StructureError(
            f"file and model must have the same tensors; the file lacks {_listed(missing)}, the "
            f"model lacks {_listed(foreign)}. Pass a model of the class that was saved."
        )


def _check_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise StructureError if a tensor is larger in the file or has another kind of dtype."""
    for name, tensor in own.items():
        in_file, in_model = tuple(given[name].shape), tuple(tensor.shape)
        if len(in_file) != len(in_model) or any(
            a > b for a, b in zip(in_file, in_model, strict=True)
        ):
            raise StructureError(
                f"a model can only be made smaller to fit: {name!r} has shape {in_file} in the "
                f"file, {in_model} in the model. Pass a model as large as the one that was pruned."
            )
        are_floating = tensor.is_floating_point(), given[name].is_floating_point()
        if are_floating == (True, True) or tensor.dtype == given[name].dtype:
            continue
        raise StructureError(
            f"{name!r} is {given[name].dtype} in the file and {tensor.dtype} in the model; only "
            "floating-point dtypes may differ. Pass a model with the saved dtypes."
        )


def _check_shared(own: Mapping[str, Tensor], sources: Mapping[str, str]) -> None:
    """Raise StructureError if the model shares a tensor that the file stores as two.

    Args:
        own: the tensors of the model by name.
        sources: for each name, the name under which the file stores its tensor.
    """
    first: dict[int, str] = {}
    for name, tensor in own.items():
        other = first.setdefault(id(tensor), name)
        if sources[name] != sources[other]:
            raise StructureError(
                f"the model uses one tensor as {other!r} and {name!r}; the file holds two. "
                "Pass a model that does not share them."
            )


def _put_(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer; a Parameter that is not on the meta device keeps its identity."""
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
    """Make `name` refer to the same tensor as `first`."""
    (layer, short), (source, original) = _owner(name), _owner(first)
    module, other = network.get_submodule(layer), network.get_submodule(source)
    if short in module._parameters:
        module._parameters[short] = other._parameters[original]
    else:
        module._buffers[short] = other._buffers[original]


def _owner(name: str) -> tuple[str, str]:
    layer, _, short = name.rpartition(".")
    return layer, short


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(names: list[str]) -> str:
    more = "" if len(names) <= SHOWN else f" and {len(names) - SHOWN} more"
    return (", ".join(map(repr, names[:SHOWN])) or "none") + more
