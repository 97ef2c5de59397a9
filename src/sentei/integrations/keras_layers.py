"""Find the layers of a Keras model that may be pruned, and the layers that read their units."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import keras
import torch
from torch import Tensor

from sentei.errors import StructureError, unknown
from sentei.network.units import Group, Listener, Neurons, Synapses

# Layers that handle each unit by itself and keep its position.
PASSING = (
    "Activation", "AlphaDropout", "BatchNormalization", "Dropout", "ELU", "GaussianDropout",
    "GaussianNoise", "LeakyReLU", "PReLU", "ReLU", "SpatialDropout1D", "SpatialDropout2D",
    "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
)  # fmt: skip
# Layers whose kernel has shape (..., inputs, outputs); transposed convolutions have another.
MIXING = ("Conv1D", "Conv2D", "Conv3D", "Dense")


def all_layers(model: Any) -> list[Any]:
    """Return the layers of a model in order, each once, with nested models replaced by theirs."""
    nested = [all_layers(one) if isinstance(one, keras.Model) else [one] for one in model.layers]
    return list(dict.fromkeys(layer for layers in nested for layer in layers))


def kernel_of(layer: Any) -> Any:
    """Return the kernel variable of a layer; None if it has none.

    Raises:
        StructureError: the kernel is computed from other variables.
    """
    kernel = getattr(layer, "kernel", None)
    if kernel is None or isinstance(kernel, keras.Variable):
        return kernel
    raise StructureError(
        f"the kernel of layer {layer.name!r} is computed from other weights (LoRA, or quantization)"
        ", so that its zeros would not last; name other layers in layers=, or prune before "
        "enable_lora() or quantize()"
    )


def place_of(kernel: Any) -> str:
    """Return a kernel's name in groups: its path without dots, which torch reads as modules."""
    return kernel.path.replace(".", "//")


def chosen_layers(model: Any, asked: Sequence[Any] | None) -> list[Any]:
    """Return the layers to prune.

    Args:
        model: the Keras model.
        asked: layers, or names of layers; all layers that train a kernel if None.

    Raises:
        StructureError: a layer is frozen, has no kernel of its own, or shares its name.
        ValueError: no layer has a given name, with the nearest one.
    """
    layers = all_layers(model)
    if asked is None:
        return [layer for layer in layers if _may_be_pruned(layer)]
    names = [layer.name for layer in layers]
    chosen = []
    for one in asked:
        name = one if isinstance(one, str) else one.name
        if name not in names:
            raise ValueError(unknown("layer", name, names))
        if names.count(name) > 1:
            raise StructureError(f"several layers are named {name!r}; give each its own name")
        chosen.append(layers[names.index(name)])
        _check_prunable(chosen[-1])
    return chosen


def _may_be_pruned(layer: Any) -> bool:
    kernel = kernel_of(layer)
    if kernel is None and any(one.name.endswith("kernel") for one in layer.trainable_weights):
        raise StructureError(
            f"layer {layer.name!r}, a {type(layer).__name__}, has kernels inside it that this "
            "callback cannot prune; name the layers to prune in layers="
        )
    return kernel is not None and _trains(layer)


def _trains(layer: Any) -> bool:
    kernel = kernel_of(layer)
    return any(kernel is one for one in layer.trainable_weights)


def _check_prunable(layer: Any) -> None:
    if kernel_of(layer) is None:
        raise StructureError(
            f"layer {layer.name!r}, a {type(layer).__name__}, has no kernel to prune; name "
            "dense or convolutional layers"
        )
    if not _trains(layer):
        raise StructureError(
            f"layer {layer.name!r} is frozen, and frozen layers are not pruned; set its "
            "trainable = True and compile again, or leave it out of layers="
        )


def synapses_of(layers: Sequence[Any]) -> list[Group]:
    """Return one group of synapses for the kernel of each layer."""
    kernels = [(layer.name, layer.kernel) for layer in layers]
    return [Synapses(n, prod(k.shape), place_of(k), tuple(k.shape)) for n, k in kernels]


def units_of(model: Any, layers: Sequence[Any], named: bool) -> list[Group]:
    """Return one group of units for each layer, with the layer that reads them.

    Args:
        model: a keras.Sequential.
        layers: the layers whose units may be removed.
        named: whether the user named the layers. If not, layers whose units are read by no layer or
            by a frozen one are left out instead of refused.

    Raises:
        StructureError: the layer that reads the units is unknown or, if `named`, frozen or missing.
    """
    if not isinstance(model, keras.Sequential):
        raise StructureError(
            "units are followed from layer to layer of a keras.Sequential; this is a "
            f"{type(model).__name__}. Prune its connections instead (units=False)."
        )
    found: list[Group] = []
    for layer in layers:
        if type(layer).__name__ not in MIXING or layer not in model.layers:
            nested = "" if layer in model.layers else " of a model inside it"
            raise StructureError(
                f"units are followed from layers {', '.join(MIXING)} of the model itself; "
                f"{layer.name!r} is a {type(layer).__name__}{nested}. Name other layers in "
                "layers=, or prune connections (units=False)."
            )
        reader, columns = _reader(model, layer)
        if reader is not None and _trains(reader):
            found.append(_neurons(layer, reader, columns))
        elif named:
            why = "they are the outputs" if reader is None else f"{reader.name!r} is frozen"
            raise StructureError(
                f"no weights that read the units of layer {layer.name!r} can be zeroed, since "
                f"{why}; leave it out of layers=, or prune its connections (units=False)"
            )
    return found


def _neurons(layer: Any, reader: Any, columns: Tensor) -> Neurons:
    size, last = layer.kernel.shape[-1], len(layer.kernel.shape) - 1
    producer = Listener(layer.name, place_of(layer.kernel), last, _one_each(size))
    listener = Listener(reader.name, place_of(reader.kernel), len(reader.kernel.shape) - 2, columns)
    kind = "neuron" if type(layer).__name__ == "Dense" else "channel"
    return Neurons(layer.name, kind, size, (producer,), (), (listener,))


def _reader(model: Any, layer: Any) -> tuple[Any, Tensor]:
    """Return the layer that reads a layer's units, None for the last layer, and the rows it reads.

    The rows have shape (units, rows per unit): positions along the input axis of its kernel.
    """
    size = layer.kernel.shape[-1]
    columns, order = _one_each(size), getattr(layer, "data_format", "channels_last")
    for after in model.layers[model.layers.index(layer) + 1 :]:
        kind = type(after).__name__
        same = getattr(after, "data_format", order) == order
        if same and kind in MIXING and after.kernel.shape[-2] == columns.numel():
            return after, columns
        if same and kind == "Flatten":
            places = after.output.shape[-1] // size  # channels come last: all channels per place
            columns = torch.arange(places)[None, :] * size + columns
        elif not same or kind not in PASSING:
            raise StructureError(
                f"layer {after.name!r}, a {kind}, stands between the units of {layer.name!r} and "
                f"the layer that reads them; leave {layer.name!r} out, or prune connections "
                "(units=False)"
            )
    return None, columns


def _one_each(size: int) -> Tensor:
    return torch.arange(size).reshape(size, 1)


def parts_of(group: Group) -> list[tuple[str, str]]:
    """Return the (layer name, kernel name) pairs of a group."""
    if isinstance(group, Synapses):
        return [(group.name, group.parameter)]
    parts = (*group.producers, *group.listeners) if isinstance(group, Neurons) else ()
    return [(part.layer, part.parameter) for part in parts]
