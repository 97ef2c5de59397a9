"""Choose how to measure a group's units: by the fastest engine that measures them exactly.

These are `Chain`, `Gates` and, for any network, `WholePasses`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sentei.errors import GroupError, StaleError
from sentei.losses import per_sample_losses
from sentei.nests import tensors
from sentei.network.calls import recorded_names
from sentei.network.surgery.comparing import TOLERANCE
from sentei.network.units import Branch, Branches, Group, Listener, Neurons, Synapses, tensor_of
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.chain import find_chain
from sentei.probe.engines.gates import Gates
from sentei.probe.engines.streams import Streams
from sentei.probe.engines.synapses import SynapseGates
from sentei.probe.engines.whole_passes import BranchPasses, WholePasses
from sentei.probe.recording.recording import (
    Need,
    Pass,
    Recording,
    Slope,
    completed,
)


class Engine(Protocol):
    """Computes sums over a block of samples for each of some members of one group."""

    @property
    def need(self) -> Need:
        """What a pass must record before the other methods are called on it."""
        ...

    def slopes(self, block: Pass, members: Tensor, asked: Slope, /) -> Tensor:
        """Return the derivative of the summed loss along each member's gate, (k,) float64."""
        ...

    def curvatures(self, block: Pass, members: Tensor, kind: str, /) -> Tensor:
        """Return the second derivative of the summed loss along each gate, (k,) float64."""
        ...


class UnitEngine(Engine, Protocol):
    """An engine for a group of units, which also computes the loss without a unit."""

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of the summed loss with each unit removed alone, (k,) float64."""
        ...

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """Return the rises after each unit is repaired by its row of the mix, (k,) float64."""
        ...

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """Return the rise with each unit's gate at each gain, (k, g) float64."""
        ...

    def rises_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of each sample's loss with each unit removed alone, (k, n)."""
        ...

    def slopes_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the derivative of each sample's loss along each unit's gate, (k, n)."""
        ...


@dataclass(eq=False)
class Engines:
    """The engines of one recording's groups, each chosen when it is first needed.

    Attributes:
        recording: the recording of the network.
        losses: the loss on many candidates.
        chosen: the engines so far.
    """

    recording: Recording
    losses: CandidateLosses
    chosen: dict[Group, Engine] = field(default_factory=dict)

    def engine_for(self, group: Group, members: Tensor) -> tuple[Tensor, Engine | None]:
        """Return which members have to be measured, and the engine that measures them.

        The others cannot change the loss: units that only zeros read, and synapses that are zero.

        Args:
            group: a group of units or of synapses.
            members: (k,) positions.

        Returns:
            (k,) bool, and the engine; None if there is nothing to measure.

        """
        weights = largest_weights(self.recording.model, group)[members]
        matter = weights != 0  # NaN matters: measuring it raises a LossError
        if not matter.any():
            return matter, None
        if group not in self.chosen:
            self.chosen[group] = self._choose(group, int(members[weights.argmax()]))
        return matter, self.chosen[group]

    def _choose(self, group: Group, member: int) -> Engine:
        """Choose the engine for a group; a chain, or gates for units, is checked on one member.

        A chain for synapses is one for the columns of their weight.
        """
        recording = self.recording
        if isinstance(group, Branches):
            return BranchPasses(recording, group)
        listeners = listeners_of(recording.model, group)
        if group.kind == "stream":
            parts = silencing(recording.model, group)
            return Streams(WholePasses(recording, parts), self._gates(listeners))
        unit = torch.tensor([_column(group, member)])
        zeroed = zeroed_columns(recording.model, listeners, unit)
        chain = find_chain(recording, listeners, self.losses)
        if chain is not None and not agrees_with_model(recording, chain, zeroed, unit):
            chain = None
        if isinstance(group, Synapses):
            return SynapseGates(recording, next(iter(listeners)), chain)
        if chain is not None:
            return chain
        gates = self._gates(listeners)
        if isinstance(gates, Gates) and not agrees_with_model(recording, gates, zeroed, unit):
            return WholePasses(recording, {name: (part,) for name, part in listeners.items()})
        return gates

    def _gates(self, listeners: Mapping[str, Listener]) -> Gates | WholePasses:
        """Return an engine with gates at the inputs of listeners, or at their columns."""
        survey = self.recording.survey
        if survey.elsewhere.isdisjoint(listeners) and any(map(survey.users, listeners)):
            return Gates(self.recording, listeners)
        return WholePasses(self.recording, {name: (part,) for name, part in listeners.items()})


def agrees_with_model(
    recording: Recording, engine: UnitEngine, zeroed: Mapping[str, Tensor], unit: Tensor
) -> bool:
    """Whether an engine measures the same rise in loss as the network with a unit's columns zeroed.

    Args:
        recording: the recording; its check samples are used.
        engine: the engine to check.
        zeroed: the weights of the listeners without the unit's columns.
        unit: (1,) the unit.
    """
    sample = recording.check_pass
    recording.complete_(sample, engine.need)
    recording.complete_(sample, "outputs")
    outputs = recording.output(sample.samples, zeroed)
    losses = per_sample_losses(recording.per_sample, outputs, sample.samples.targets)
    rise = (losses.double().sum() - completed(sample.losses).double().sum()).item()
    difference = abs(engine.rises(sample, unit)[0].item() - rise) / len(losses)
    # A NaN passes here on purpose: the measurement itself raises a LossError with the samples.
    return not difference > tolerance(outputs) * max(1.0, losses.abs().mean().item())


def zeroed_columns(
    model: nn.Module, listeners: Mapping[str, Listener], unit: Tensor
) -> dict[str, Tensor]:
    """Return the listeners' weights with the columns that read a unit, (1,), set to zero."""
    return {
        name: weight.index_fill(part.dim, part.index[unit].flatten().to(weight.device), 0.0)
        for name, part in listeners.items()
        for weight in [tensor_of(model, name)]
    }


def zeroed_in(model: nn.Module, group: Group) -> set[str]:
    """Return the names under which calls use the parameters that a cut of a group changes."""
    if isinstance(group, Branches):
        names = recorded_names(model)
        return {names[name] for branch in group.branches for name in branch.parameters}
    return {*listeners_of(model, group)}


def listeners_of(model: nn.Module, group: Neurons | Synapses) -> dict[str, Listener]:
    """Return a group's listeners by the parameter names under which calls use them.

    Listeners of the same parameter and dimension are joined into one with all their columns. For
    synapses: all columns of their weight.
    """
    names = recorded_names(model)
    if isinstance(group, Synapses):
        name, columns = names[group.parameter], torch.arange(group.shape[1])
        return {name: Listener(group.name, name, 1, columns[:, None])}
    found: dict[str, Listener] = {}
    for part in group.listeners:
        name = names[part.parameter]
        if name in found and found[name].dim == part.dim:
            index = torch.cat([found[name].index, part.index], 1)
            found[name] = replace(part, index=index)
        else:
            found[name] = part
    return found


def silencing(model: nn.Module, group: Group) -> dict[str, list[Listener]]:
    """Return the parts of a stream that are zero without a unit, by the names that calls use."""
    names = recorded_names(model)
    found: dict[str, list[Listener]] = defaultdict(list)
    if isinstance(group, Neurons):
        for part in dict.fromkeys((*group.producers, *group.followers, *group.listeners)):
            found[names[part.parameter]].append(part)
    return found


def _column(group: Neurons | Synapses, member: int) -> int:
    """Return the unit itself, or the column of the weight that a synapse is in."""
    if isinstance(group, Neurons):
        return member
    return member // math.prod(group.shape[2:]) % group.shape[1]


def mixes_by_name(model: nn.Module, mix: Mapping[Listener, Tensor]) -> dict[str, Tensor]:
    """Return the mixes by the parameter names under which calls use their listeners.

    Raises:
        GroupError: there is no mix, or one of a listener that the model does not have.
    """
    names = recorded_names(model)
    missing = [part.parameter for part in mix if part.parameter not in names]
    if missing or not mix:
        raise GroupError(
            f"mix= has a mix for each listener of the group; it has {missing or 'none'}. Take it "
            "from a repair."
        )
    return {names[part.parameter]: rows for part, rows in mix.items()}


def largest_weights(model: nn.Module, group: Group) -> Tensor:
    """(size,) the largest absolute weight of each member: that reads a unit, or is the synapse.

    Norms count the units of a stream even if no layer reads them.
    """
    if isinstance(group, Branches):
        return torch.stack([_largest(model, branch) for branch in group.branches])
    if group.kind == "stream":
        return torch.ones(group.size)
    if isinstance(group, Neurons):
        return largest_weight_read(model, listeners_of(model, group)).cpu()
    return model.get_parameter(group.parameter).detach().abs().flatten().cpu()


def largest_weight_read(model: nn.Module, listeners: Mapping[str, Listener]) -> Tensor:
    """(size,) largest absolute weight that reads each unit; 0 for a dead unit."""
    largest = []
    for name, part in listeners.items():
        weight = tensor_of(model, name).detach().abs()
        other = [dim for dim in range(weight.ndim) if dim != part.dim]
        columns = weight.amax(other) if other else weight
        largest.append(columns[part.index.to(weight.device)].amax(1))
    return torch.stack(largest).amax(0)


def _largest(model: nn.Module, branch: Branch) -> Tensor:
    """Return the largest absolute entry of the parameters that silence a branch, ()."""
    each = [tensor_of(model, name).detach().abs().amax().double() for name in branch.parameters]
    return torch.stack(each).amax().cpu()


def check_recording(recording: Recording) -> None:
    """Raise StaleError if the network's outputs differ from the recorded ones.

    The outputs are compared on the recording's check samples.

    Raises:
        StaleError: weights changed after the Probe recorded the outputs.
    """
    sample = recording.check_pass
    recording.complete_(sample, "outputs")
    current = recording.output(sample.samples)
    pairs = list(zip(tensors(sample.outputs), tensors(current), strict=True))
    if not pairs:  # only the loss knows what these outputs are
        losses = per_sample_losses(recording.per_sample, current, sample.samples.targets)
        pairs = [(completed(sample.losses), losses)]
    difference = max(apart(*pair) for pair in pairs)
    if difference > 1:
        raise StaleError(
            "weights changed since this Probe recorded the network's outputs: the outputs now "
            f"differ by {difference:.3g} times what rounding explains. Call probe.update_(mask) "
            "after applying a cut, and probe.forget_() after training or any other change of "
            "weights."
        )


def apart(recorded: Tensor, current: Tensor) -> float:
    """Return the largest difference of two computations, as a multiple of what is tolerated."""
    if recorded.dtype == torch.bool or not current.numel():
        return 0.0 if torch.equal(recorded, current) else math.inf
    largest, scale = (recorded - current).abs().max().item(), current.abs().max().item()
    return largest / (max(1.0, scale) * tolerance(current))


def tolerance(outputs: Any) -> float:
    """The largest relative difference allowed between two computations of the same outputs."""
    dtype = next((tensor.dtype for tensor in tensors(outputs)), torch.float32)
    return TOLERANCE.get(dtype, 1e-4) / 10
