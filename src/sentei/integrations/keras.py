"""Pruning while Keras trains: connections or units of chosen layers, on any of its backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from sentei.criteria import scores
from sentei.errors import CriterionError, StructureError
from sentei.network.mask import Mask
from sentei.network.units import Group, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Proposal
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.while_training.cadence import Cadence, cadence
from sentei.pruning.while_training.lazy_probe import LazyProbe

try:
    import keras
    from keras import ops
except ImportError as error:
    raise ImportError(
        "sentei.integrations.keras needs Keras 3 and a backend: pip install 'sentei[keras]', and "
        "KERAS_BACKEND=torch to have it use the torch that is there"
    ) from error

from sentei.integrations.keras_layers import (
    all_layers,
    chosen_layers,
    kernel_of,
    parts_of,
    synapses_of,
    units_of,
)

_REMEDY = "a Keras callback sees none; choose one that looks at weights, such as 'magnitude'"


class PruneWhileTraining(keras.callbacks.Callback):
    """Prunes connections, or whole units, of chosen layers while `fit` trains them.

    What is dead is zero after every batch, and so is what the optimizer remembers of it; only the
    sums of squares that Adagrad and Ftrl divide by stay.

        anneal = PruneWhileTraining(ranked("magnitude", linear(by="0.5 %"), within="group"),
                                    layers=["dense", "dense_1"])
        model.fit(images, classes, callbacks=[anneal])

    A second `fit` of the same model goes on: the dead stay dead, and updates are counted further.
    Another model starts anew. After a restart, give a new callback what `state_dict` said before.

    Args:
        propose: what to remove next; its criterion looks at weights only: "magnitude", "random",
            fixed scores, or a function of your own.
        layers: names of layers, or layers, of the model or of models inside it. If None, all that
            have a kernel and are not frozen.
        every: updates from one proposal to the next, or epochs such as "2 epochs".
        total: updates in all, or epochs, of every `fit` together; nothing is proposed after them.
            If None, what was done before and what this `fit` says of itself: who calls `fit`
            several times gives it.
        units: remove whole units, by zeroing what reads them, instead of single connections. In a
            Sequential model, where the layer that reads them is known.
        finish: proposals are made in this first part of `total` only.

    Attributes:
        mask: what is alive; None before training.
        cadence: when something is proposed; None before training.
        updates: how many the optimizer has made.
        events: how many proposals were made.

    Source: Bartoldson's poster, whose callback annealed both dense layers of a network of Keras.
    """

    def __init__(
        self,
        propose: Proposal,
        layers: Sequence[Any] | None = None,
        every: int | str = 50,
        total: int | str | None = None,
        units: bool = False,
        finish: float = 1.0,
    ):
        super().__init__()
        self.propose, self.layers, self.units = propose, layers, units
        self.every, self.total, self.finish = every, total, finish
        self.mask: Mask | None = None
        self.cadence: Cadence | None = None
        self.groups: list[Group] = []
        self.updates = self.events = 0
        self._known: Any = None
        self._state: dict[str, Any] | None = None
        self._counted = 0
        self._kernels: dict[str, Any] = {}
        self._slots: dict[str, list[Any]] = {}
        self._factors: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Find what may be cut, unless this model is known.

        Raises:
            CriterionError: what proposes would measure.
            StructureError: a layer has no kernel of its own or is frozen, nobody is known to read
                its units, nothing is left to prune, or several updates are made at once.
            ValueError: a name that no layer has, with the nearest; a state of other groups.
        """
        del logs
        network = self._network
        _refuse_unsteady(network)
        if network is not self._known:
            self._start(network)
        if self._state is not None:
            self._go_on(self._state)
        self._slots, self.cadence = {}, None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Say when something is proposed: only now it is known at which epoch `fit` begins.

        Raises:
            ScheduleError: `every` or `total` is no count, or nothing would ever be proposed.
        """
        del logs
        if self.cadence is None:
            self.cadence = self._paced(epoch)
            self._hold()
        self._counted = self._iterations()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hold what is dead, and propose when it is time."""
        del batch, logs
        assert self.cadence is not None  # an epoch has begun
        new = self._iterations() - self._counted
        self._hold()
        # A batch is no update where gradients are accumulated, or one was not finite.
        if new:
            self._counted += new
            self.updates += new
            if self.cadence.falls_on(self.updates):
                self._propose()

    def state_dict(self) -> dict[str, Any]:
        """What the next updates depend on besides the model and its optimizer."""
        if self._state is not None or self.mask is None:
            return dict(self._state or {})
        dead = {f"{group.kind}/{group.name}": self.mask.dead(group) for group in self.groups}
        return {"updates": self.updates, "events": self.events, "dead": dead}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state when training begins."""
        self._state = dict(state_dict) or None

    @property
    def _network(self) -> Any:
        # JAX takes the variables' values away between batches; reading `model` brings them back.
        return self.model

    def _start(self, network: Any) -> None:
        chosen = chosen_layers(network, self.layers)
        named = self.layers is not None
        groups = units_of(network, chosen, named) if self.units else synapses_of(chosen)
        if not groups:
            raise StructureError(
                "there is nothing to prune: layers= has to name layers with a kernel, or be None "
                f"for all that are not frozen; got layers={self.layers!r}, units={self.units}"
            )
        mask = Mask.full(groups)
        layers = {layer.name: layer for layer in (*all_layers(network), *network.layers)}
        kernels = {
            place: kernel_of(layers[name]) for group in groups for name, place in parts_of(group)
        }
        _refuse_measuring(self.propose, _evidence(kernels, mask), groups[0])
        self._known, self.groups, self.mask, self._kernels = network, groups, mask, kernels
        self.updates = self.events = 0
        self._factors = {}

    def _go_on(self, state: Mapping[str, Any]) -> None:
        named = {f"{group.kind}/{group.name}": group for group in self.groups}
        if named.keys() != state["dead"].keys():
            other = sorted(named.keys() ^ state["dead"].keys())
            raise ValueError(
                f"the state is that of other groups; they differ in {other[0]!r}. Give the "
                "callback the layers= and units= that it was saved with"
            )
        dead = {named[name]: positions for name, positions in state["dead"].items()}
        self._change(Mask.full(self.groups).without(dead))
        self.updates, self.events, self._state = state["updates"], state["events"], None

    def _paced(self, epoch: int) -> Cadence:
        said = self.params or {}
        batches, left = said.get("steps"), said.get("epochs", 1) - epoch
        optimizer = self._network.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
        each = optimizer.gradient_accumulation_steps or 1
        if batches is None:  # `fit` does not know how long an epoch is
            return cadence(self.every, self.total, None, self.finish)
        total = self.updates + batches * left // each if self.total is None else self.total
        return cadence(self.every, total, max(batches // each, 1), self.finish)

    def _iterations(self) -> int:
        return int(cast("Any", ops.convert_to_numpy(self._network.optimizer.iterations)))

    def _propose(self) -> None:
        assert self.mask is not None  # training has begun
        assert self.cadence is not None
        start = sum(group.size for group in self.groups)
        remaining = sum(self.mask.count(group) for group in self.groups)
        progress = Progress(self.events + 1, self.cadence.proposals, start, remaining)
        cut = self.propose(_evidence(self._kernels, self.mask), self.groups, self.mask, progress)
        if cut is None:
            return
        self.events += 1
        self._change(self.mask.without(cut.doomed).with_(cut.regrown))
        self._hold()

    def _change(self, mask: Mask) -> None:
        self.mask = mask
        for name in {name for group in self.groups for name in _held(group)}:
            kernel = self._kernels[name]
            alive = torch.ones(tuple(kernel.shape))
            mask.zero_(name, alive)
            self._factors[name] = ops.convert_to_tensor(alive.numpy(), dtype=kernel.dtype)

    def _hold(self) -> None:
        network = self._network
        if not self._slots and network.optimizer.built:
            self._slots = {
                name: _remembered(network, self._kernels[name]) for name in self._factors
            }
        for name, factor in self._factors.items():
            for variable in (self._kernels[name], *self._slots.get(name, ())):
                variable.assign(ops.multiply(variable, factor))


class _Copy(nn.Module):
    """Some kernels of a Keras model as they are now, under the names that groups give them."""

    def __init__(self, kernels: Mapping[str, Any]):
        super().__init__()
        for name, kernel in kernels.items():
            value = torch.tensor(ops.convert_to_numpy(kernel.value))
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _evidence(kernels: Mapping[str, Any], mask: Mask) -> Probe:
    return cast("Probe", LazyProbe(_Copy(kernels), mask, None, None, _REMEDY))


def _refuse_unsteady(network: Any) -> None:
    if network.optimizer is None:
        raise StructureError(
            "pruning goes along with the optimizer of the model, and this one has none; give "
            "compile() an optimizer"
        )
    if network.steps_per_execution != 1:
        raise StructureError(
            "what is dead has to be held after every update, and this model makes several at "
            f"once; compile it with steps_per_execution=1, not {network.steps_per_execution!r}"
        )


def _refuse_measuring(propose: Any, seen: Probe, group: Group) -> None:
    propose = getattr(propose, "propose", propose)  # inside only(...)
    if getattr(propose, "repair", None) is not None:
        raise CriterionError(
            f"repair={propose.repair!r} measures units, and a Keras callback sees no data; leave "
            "repair= out"
        )
    if getattr(propose, "criterion", None) is not None:
        scores(propose.criterion, seen, group)


def _held(group: Group) -> list[str]:
    if isinstance(group, Synapses):
        return [group.parameter]
    return [part.parameter for part in group.listeners]


def _remembered(model: Any, kernel: Any) -> list[Any]:
    """What the optimizer remembers of each weight of a kernel: variables that begin with its path.

    So do those of a layer "a_kernel" with the path of layer "a": the longest path is the owner's.
    """
    paths = [_flat(variable) for variable in model.trainable_variables]
    found = []
    for variable in model.optimizer.variables:
        name = variable.path.rpartition("/")[2]
        owner = max((path for path in paths if name.startswith(path)), key=len, default="")
        # Adagrad and Ftrl divide by an "accumulator" that begins above zero: 0 / 0 with Ftrl.
        kept = name == owner + "accumulator"
        if owner == _flat(kernel) and not kept and variable.shape == kernel.shape:
            found.append(variable)
    return found


def _flat(variable: Any) -> str:
    return variable.path.replace("/", "_") + "_"
