"""A Keras callback that prunes connections or units of layers during `fit`, on any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from sentei.arguments import checked
from sentei.criteria import scores
from sentei.errors import CriterionError, StructureError
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons, Synapses
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
        "KERAS_BACKEND=torch to have it use the installed torch"
    ) from error

from sentei.integrations.keras_layers import (
    all_layers,
    chosen_layers,
    kernel_of,
    parts_of,
    synapses_of,
    units_of,
)

_REMEDY = "a Keras callback has none; choose one that reads weights only, such as 'magnitude'"


class PruneWhileTraining(keras.callbacks.Callback):
    """A Keras callback that prunes connections, or whole units, of layers while `fit` trains them.

        anneal = PruneWhileTraining(ranked("magnitude", linear(by="0.5 %"), within="group"),
                                    layers=["dense", "dense_1"])
        model.fit(images, classes, callbacks=[anneal])

    Dead weights are zero after every batch, and so is their state in the optimizer, except the sums
    of squares that Adagrad and Ftrl divide by.

    A second `fit` of the same model continues: dead weights stay dead, and updates are counted on.
    For another model the callback starts again. After a restart of the process, save what
    `state_dict` returns and give it to `load_state_dict` of a new callback.

    Args:
        propose: what to remove next. Its criterion may read weights only: "magnitude", "random",
            fixed scores, or a function of your own.
        layers: layers, or names of layers, of the model or of models inside it. If None, all that
            have a kernel and are not frozen.
        every: updates from one proposal to the next, or epochs such as "2 epochs".
        total: number of updates in all `fit` calls together, or of epochs; nothing is proposed
            after them. If None, the updates so far plus those of this `fit`; give it if you call
            `fit` several times.
        units: whether to remove whole units, by zeroing the weights that read them, instead of
            single connections. The model has to be Sequential, so that the layer that reads a unit
            is known.
        finish: proposals are made in this first part of `total` only.

    Attributes:
        mask: what is alive; None before training.
        cadence: the updates after which a cut is proposed; None before training.
        updates: number of updates of the optimizer.
        events: number of proposals that made a cut.

    Source: Bartoldson's poster, whose callback annealed both dense layers of a network of Keras.
    """

    @checked
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
        self._model_in_use: Any = None
        self._state: dict[str, Any] | None = None
        self._counted = 0
        self._kernels: dict[str, Any] = {}
        self._slots: dict[str, list[Any]] = {}
        self._factors: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the groups of the model that may be cut, unless this was done in an earlier `fit`.

        Raises:
            CriterionError: the proposal needs data to measure on.
            StructureError: a layer has no kernel of its own or is frozen, the layer that reads its
                units is unknown, there is nothing to prune, or the model makes several updates per
                execution.
            ValueError: no layer has a given name, with the nearest one; or the state belongs to
                other groups.
        """
        del logs
        network = self._network
        _check_compiled(network)
        if network is not self._model_in_use:
            self._start(network)
        if self._state is not None:
            self._go_on(self._state)
        self._slots, self.cadence = {}, None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the cadence in the first epoch of a `fit`, since only now its number is known.

        Raises:
            ScheduleError: `every` or `total` is not a count, or no update would have a proposal.
        """
        del logs
        if self.cadence is None:
            self.cadence = self._cadence_from(epoch)
            self._hold()
        self._counted = self._iterations()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Zero the dead weights again, and propose a cut if the cadence says so."""
        del batch, logs
        assert self.cadence is not None  # an epoch has begun
        new = self._iterations() - self._counted
        self._hold()
        # A batch makes no update if gradients are accumulated, or if a gradient was not finite.
        if new:
            self._counted += new
            self.updates += new
            if self.cadence.falls_on(self.updates):
                self._propose()

    def state_dict(self) -> dict[str, Any]:
        """Return the callback's state, to be saved with the model and its optimizer."""
        if self._state is not None or self.mask is None:
            return dict(self._state or {})
        dead = {f"{group.kind}/{group.name}": self.mask.dead(group) for group in self.groups}
        return {"updates": self.updates, "events": self.events, "dead": dead}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned; it is applied when training begins."""
        self._state = dict(state_dict) or None

    @property
    def _network(self) -> Any:
        # With JAX, variables have no values between batches; reading `model` restores them.
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
        _check_reads_weights_only(self.propose, _weights_probe(kernels, mask), groups[0])
        self._model_in_use, self.groups, self.mask, self._kernels = network, groups, mask, kernels
        self.updates = self.events = 0
        self._factors = {}

    def _go_on(self, state: Mapping[str, Any]) -> None:
        named = {f"{group.kind}/{group.name}": group for group in self.groups}
        if named.keys() != state["dead"].keys():
            differ = sorted(named.keys() ^ state["dead"].keys())
            raise ValueError(
                f"the state belongs to other groups; they differ in {differ[0]!r}. Give the "
                "callback the layers= and units= that it was saved with"
            )
        dead = {named[name]: positions for name, positions in state["dead"].items()}
        self._change(Mask.full(self.groups).without(dead))
        self.updates, self.events, self._state = state["updates"], state["events"], None

    def _cadence_from(self, epoch: int) -> Cadence:
        params = self.params or {}
        batches, epochs = params.get("steps"), params.get("epochs", 1) - epoch
        optimizer = self._network.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss-scaling optimizer
        each = optimizer.gradient_accumulation_steps or 1  # batches per update
        if batches is None:  # the data has no length
            return cadence(self.every, self.total, None, self.finish)
        total = self.updates + batches * epochs // each if self.total is None else self.total
        return cadence(self.every, total, max(batches // each, 1), self.finish)

    def _iterations(self) -> int:
        return int(cast("Any", ops.convert_to_numpy(self._network.optimizer.iterations)))

    def _propose(self) -> None:
        assert self.mask is not None  # training has begun
        assert self.cadence is not None
        start = sum(group.size for group in self.groups)
        remaining = sum(self.mask.count(group) for group in self.groups)
        progress = Progress(self.events + 1, self.cadence.proposals, start, remaining)
        probe = _weights_probe(self._kernels, self.mask)
        cut = self.propose(probe, self.groups, self.mask, progress)
        if cut is None:
            return
        self.events += 1
        self._change(self.mask.without(cut.doomed).with_(cut.regrown))
        self._hold()

    def _change(self, mask: Mask) -> None:
        self.mask = mask
        for name in {name for group in self.groups for name in _zeroed_kernels(group)}:
            kernel = self._kernels[name]
            alive = torch.ones(tuple(kernel.shape))
            mask.zero_(name, alive)
            self._factors[name] = ops.convert_to_tensor(alive.numpy(), dtype=kernel.dtype)

    def _hold(self) -> None:
        network = self._network
        if not self._slots and network.optimizer.built:
            self._slots = {
                name: _optimizer_state(network, self._kernels[name]) for name in self._factors
            }
        for name, factor in self._factors.items():
            for variable in (self._kernels[name], *self._slots.get(name, ())):
                variable.assign(ops.multiply(variable, factor))


class _Copy(nn.Module):
    """A torch module with copies of kernels of a Keras model, under the names used in groups."""

    def __init__(self, kernels: Mapping[str, Any]):
        super().__init__()
        for name, kernel in kernels.items():
            value = torch.tensor(ops.convert_to_numpy(kernel.value))
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _weights_probe(kernels: Mapping[str, Any], mask: Mask) -> Probe:
    return cast("Probe", LazyProbe(_Copy(kernels), mask, None, None, _REMEDY))


def _check_compiled(network: Any) -> None:
    if network.optimizer is None:
        raise StructureError(
            "pruning follows the updates of the model's optimizer, and this model has none; give "
            "compile() an optimizer"
        )
    if network.steps_per_execution != 1:
        raise StructureError(
            "dead weights have to be zeroed after every update, and this model makes several per "
            f"execution; compile it with steps_per_execution=1, not {network.steps_per_execution!r}"
        )


def _check_reads_weights_only(propose: Any, probe: Probe, group: Group) -> None:
    propose = getattr(propose, "propose", propose)  # inside only(...)
    if getattr(propose, "repair", None) is not None:
        raise CriterionError(
            f"repair={propose.repair!r} measures units, and a Keras callback has no data; leave "
            "repair= out"
        )
    if getattr(propose, "criterion", None) is not None:
        scores(propose.criterion, probe, group)


def _zeroed_kernels(group: Group) -> list[str]:
    if isinstance(group, Synapses):
        return [group.parameter]
    return [part.parameter for part in group.listeners] if isinstance(group, Neurons) else []


def _optimizer_state(model: Any, kernel: Any) -> list[Any]:
    """Return the optimizer's variables that hold a value for each weight of a kernel.

    Their names begin with the path of the kernel. If several paths fit, as those of the layers "a"
    and "a_kernel" may, the variable belongs to the longest.
    """
    paths = [_flat(variable) for variable in model.trainable_variables]
    found = []
    for variable in model.optimizer.variables:
        name = variable.path.rpartition("/")[2]
        owner = max((path for path in paths if name.startswith(path)), key=len, default="")
        # Adagrad and Ftrl divide by an "accumulator" that starts above zero. Zeroing it would give
        # 0 / 0 with Ftrl.
        kept = name == owner + "accumulator"
        if owner == _flat(kernel) and not kept and variable.shape == kernel.shape:
            found.append(variable)
    return found


def _flat(variable: Any) -> str:
    return variable.path.replace("/", "_") + "_"
