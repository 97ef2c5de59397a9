"""Pruning while Keras trains: connections or units of chosen layers, on any of its backends."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from sentei.criteria.deferred import Deferred
from sentei.criteria.probe import Probe
from sentei.errors import StructureError, unknown
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons, Synapses
from sentei.pruning.proposals import Proposal
from sentei.pruning.schedules import Progress

try:
    import keras
    from keras import ops
except ImportError as error:
    raise ImportError(
        "sentei.integrations.keras needs Keras 3 and a backend: pip install 'sentei[keras]', and "
        "KERAS_BACKEND=torch to have it use the torch that is there"
    ) from error

# Layers that pass on each unit's own value, in the place where it was.
PASSING = (
    "Activation", "AlphaDropout", "BatchNormalization", "Dropout", "ELU", "GaussianDropout",
    "GaussianNoise", "LeakyReLU", "PReLU", "ReLU", "SpatialDropout1D", "SpatialDropout2D",
    "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
)  # fmt: skip
MIXING = ("Conv1D", "Conv2D", "Conv3D", "Dense")


class PruneWhileTraining(keras.callbacks.Callback):
    """Prunes connections, or whole units, of chosen layers while `fit` trains them.

    What is dead is zero after every batch, and so is what the optimizer remembers of it.

        anneal = PruneWhileTraining(ranked("magnitude", linear(by="0.5 %"), within="group"),
                                    layers=["dense", "dense_1"])
        model.fit(images, classes, callbacks=[anneal])

    Args:
        propose: what to remove next; its criterion may look at weights only.
        layers: names of layers, or layers; all that have a kernel if None.
        every: batches from one proposal to the next.
        total: batches in all; what `fit` says of itself if None.
        units: remove whole units, by zeroing what reads them, instead of single connections. In a
            Sequential model, where the layer that reads them is known.

    Attributes:
        mask: what is alive; None before training.
        updates: how many batches were seen.
        events: how many proposals were made.

    Source: Bartoldson's poster, whose callback annealed both dense layers of a network of Keras.

    Raises:
        StructureError: a layer has no kernel, or nobody is known to read its units.
        ValueError: a name that no layer has, with the nearest.
    """

    def __init__(
        self,
        propose: Proposal,
        layers: Sequence[Any] | None = None,
        every: int = 50,
        total: int | None = None,
        units: bool = False,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"every= is a number of batches from 1; got {every}")
        self.propose, self.layers, self.every, self.total = propose, layers, every, total
        self.units = units
        self.mask: Mask | None = None
        self.groups: list[Group] = []
        self.updates = self.events = 0
        self._kernels: dict[str, Any] = {}
        self._slots: dict[str, list[Any]] = {}
        self._factors: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Find what may be cut; a second `fit` goes on where the first one stopped."""
        del logs
        if self.mask is None:
            chosen = _chosen(self._network, self.layers)
            self.groups = _units(self._network, chosen) if self.units else _synapses(chosen)
            self.mask = Mask.full(self.groups)
        held = {name for group in self.groups for name in _held(group)}
        layers = {layer.name: layer for layer in self._network.layers}
        self._kernels = {name: layers[name.rpartition(".")[0]].kernel for name in sorted(held)}
        self._slots = {}
        batches, epochs = (int((self.params or {}).get(key) or 0) for key in ("steps", "epochs"))
        self.total = self.total or batches * epochs or None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hold what is dead, and propose when it is time."""
        del batch, logs
        self.updates += 1
        self._hold()
        if self.updates % self.every == 0:
            self._propose()

    @property
    def _network(self) -> Any:
        return self.model  # Keras sets it before training

    def _propose(self) -> None:
        assert self.mask is not None  # training has begun
        total = None if self.total is None else self.total // self.every
        start = sum(group.size for group in self.groups)
        alive = sum(self.mask.count(group) for group in self.groups)
        remedy = "a Keras callback sees none; choose a criterion that looks at weights"
        seen = Deferred(_Copy(self._network), self.mask, None, None, remedy)
        progress = Progress(self.events + 1, total, start, alive)
        cut = self.propose(cast("Probe", seen), self.groups, self.mask, progress)
        if cut is None:
            return
        self.events += 1
        self.mask = self.mask.without(cut.doomed).with_(cut.regrown)
        for name, kernel in self._kernels.items():
            alive = torch.ones(tuple(kernel.shape))
            self.mask.hush_(name, alive)
            self._factors[name] = ops.convert_to_tensor(alive.numpy(), dtype=kernel.dtype)
        self._hold()

    def _hold(self) -> None:
        for name, factor in self._factors.items():
            for variable in (self._kernels[name], *self._remembered(name)):
                variable.assign(ops.multiply(variable, factor))

    def _remembered(self, name: str) -> list[Any]:
        """What the optimizer remembers of a kernel: variables of its shape with its path inside."""
        if name not in self._slots:
            kernel = self._kernels[name]
            path = kernel.path.replace("/", "_") + "_"
            self._slots[name] = [
                variable
                for variable in self._network.optimizer.variables
                if path in variable.path and variable.shape == kernel.shape
            ]
        return self._slots[name]


class _Copy(nn.Module):
    """The kernels and biases of a Keras model, as torch modules of the layers' names."""

    def __init__(self, model: Any):
        super().__init__()
        for layer in model.layers:
            copied = nn.Module()
            for weight in layer.weights:
                value = torch.tensor(ops.convert_to_numpy(weight.value))
                if value.is_floating_point():
                    copied.register_parameter(weight.name, nn.Parameter(value, requires_grad=False))
            self.add_module(layer.name, copied)


def _chosen(model: Any, asked: Sequence[Any] | None) -> list[Any]:
    layers = {layer.name: layer for layer in model.layers}
    if asked is None:
        return [layer for layer in model.layers if getattr(layer, "kernel", None) is not None]
    chosen = []
    for one in asked:
        name = one if isinstance(one, str) else one.name
        if name not in layers:
            raise ValueError(unknown("layer", name, layers))
        if getattr(layers[name], "kernel", None) is None:
            raise StructureError(
                f"layer {name!r}, a {type(layers[name]).__name__}, has no kernel to prune; name "
                "dense or convolutional layers"
            )
        chosen.append(layers[name])
    return chosen


def _synapses(layers: Sequence[Any]) -> list[Group]:
    shapes = [(layer.name, tuple(layer.kernel.shape)) for layer in layers]
    return [Synapses(name, prod(shape), f"{name}.kernel", shape) for name, shape in shapes]


def _units(model: Any, layers: Sequence[Any]) -> list[Group]:
    if not isinstance(model, keras.Sequential):
        raise StructureError(
            "units are followed from layer to layer of a keras.Sequential; this is a "
            f"{type(model).__name__}. Prune its connections instead (units=False)."
        )
    found: list[Group] = []
    for layer in layers:
        size = layer.kernel.shape[-1]
        reader, columns = _reader(model, layer, size)
        if reader is None:
            continue  # the outputs of the network
        last = layer.kernel.ndim - 1
        producer = Listener(layer.name, f"{layer.name}.kernel", last, _one_each(size))
        axis = reader.kernel.ndim - 2
        listener = Listener(reader.name, f"{reader.name}.kernel", axis, columns)
        kind = "neuron" if type(layer).__name__ == "Dense" else "channel"
        found.append(Neurons(layer.name, kind, size, (producer,), (), (listener,)))
    return found


def _reader(model: Any, layer: Any, size: int) -> tuple[Any, Tensor]:
    """The layer that reads a layer's units, and at which rows; None for the last layer."""
    columns = _one_each(size)
    for after in model.layers[model.layers.index(layer) + 1 :]:
        kind = type(after).__name__
        if kind in MIXING and getattr(after, "groups", 1) == 1:
            return after, columns
        if kind == "Flatten" and getattr(layer, "data_format", None) != "channels_first":
            places = after.output.shape[-1] // size  # channels come last: place by place
            columns = torch.arange(places)[None, :] * size + columns
        elif kind not in PASSING:
            raise StructureError(
                f"layer {after.name!r}, a {kind}, stands between the units of {layer.name!r} and "
                "whoever reads them; leave that layer out, or prune its connections (units=False)"
            )
    return None, columns


def _one_each(size: int) -> Tensor:
    return torch.arange(size).reshape(size, 1)


def _held(group: Group) -> list[str]:
    if isinstance(group, Synapses):
        return [group.parameter]
    return [part.parameter for part in group.listeners]
