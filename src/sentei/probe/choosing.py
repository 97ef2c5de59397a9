"""Choose how to measure a group's units: the fast engine `Chain` where exact, else `Gates`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sentei.errors import StaleError, StructureError
from sentei.network.calls import names_of
from sentei.network.example import run, tensors
from sentei.network.surgery.certificate import TOLERANCE
from sentei.network.units import Group, Listener, Neurons, Synapses
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.chain import Chain, find_chain
from sentei.probe.engines.gates import Gates
from sentei.probe.engines.synapses import SynapseGates
from sentei.probe.recording.data import ProbeData
from sentei.probe.recording.recording import Recording, model_output, per_sample_losses

Engine = Chain | Gates | SynapseGates


def engine_for(
    recording: Recording, group: Group, members: Tensor, losses: CandidateLosses
) -> Engine:
    """Choose the engine for a group and check it against the network.

    Raises:
        StructureError: no engine measures this group of units correctly.
    """
    if isinstance(group, Neurons):
        return unit_engine(recording, listeners_of(recording.model, group), members, losses)
    return synapse_engine(recording, group, losses)


def unit_engine(
    recording: Recording, listeners: Mapping[str, Listener], units: Tensor, losses: CandidateLosses
) -> Chain | Gates:
    """Choose the engine for a group of units: `Chain` if it agrees with the network, else `Gates`.

    Each is checked on the loss without one of the `units`, see `agrees_with_model`.

    Raises:
        StructureError: neither agrees with the network.
    """
    model, survey = recording.model, recording.survey
    chain = find_chain(recording, listeners, losses)
    if chain is not None and agrees_with_model(recording, chain, listeners, units):
        return chain
    gates = Gates(model, survey, listeners, recording.per_sample)
    if agrees_with_model(recording, gates, listeners, units):
        return gates
    raise StructureError(
        "the measured loss without a unit must equal the network's own loss with the unit's "
        "columns set to zero in its listeners; it differs, so the network uses a weight of "
        f"{', '.join(sorted(listeners))} in a way that sentei cannot trace. Leave the group out."
    )


def synapse_engine(recording: Recording, group: Synapses, losses: CandidateLosses) -> SynapseGates:
    """Build the engine for a group of synapses, with a chain if one agrees with the network."""
    model = recording.model
    name = names_of(model)[id(model.get_parameter(group.parameter))]
    chain = None
    if len(group.shape) == 2:
        columns = Listener(group.name, name, 1, torch.arange(group.shape[1])[:, None])
        found = find_chain(recording, {name: columns}, losses)
        inputs = torch.arange(group.shape[1])
        if found is not None and agrees_with_model(recording, found, {name: columns}, inputs):
            chain = found
    return SynapseGates(model, name, recording.per_sample, chain)


def agrees_with_model(
    recording: Recording, engine: Chain | Gates, listeners: Mapping[str, Listener], units: Tensor
) -> bool:
    """Whether an engine measures the same rise in loss as the network with a unit's columns zeroed.

    The check removes the unit of `units` that is read with the largest weight, on the recording's
    check samples.
    """
    sample = recording.check_pass
    recording.complete_(sample, engine.need)
    recording.complete_(sample, "outputs")
    assert sample.losses is not None
    unit = units[largest_weight_read(recording.model, listeners)[units].argmax().cpu()][None]
    zeroed = {
        name: recording.model.get_parameter(name).index_fill(
            part.dim, part.index[unit].flatten().to(recording.device), 0.0
        )
        for name, part in listeners.items()
    }
    outputs = output_with_weights(recording.model, zeroed, sample.samples)
    losses = per_sample_losses(recording.per_sample, outputs, sample.samples.targets)
    rise = (losses.double().sum() - sample.losses.double().sum()).item()
    difference = abs(engine.rises(sample, unit)[0].item() - rise) / len(losses)
    # A NaN passes here on purpose: the measurement itself raises a LossError with the samples.
    return not difference > tolerance(outputs) * max(1.0, losses.abs().mean().item())


def output_with_weights(
    model: nn.Module, zeroed: Mapping[str, Tensor], samples: ProbeData
) -> Tensor:
    """Run the model with some weights replaced and return its output; the model does not change."""

    class Zeroed(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return functional_call(model, dict(zeroed), args, kwargs)

    return tensors(run(Zeroed(), samples.inputs))[0]


def parameters_read(model: nn.Module, group: Group) -> set[str]:
    """Return the names of the parameters that a cut of the group changes, as calls use them."""
    names = names_of(model)
    parts = group.listeners if isinstance(group, Neurons) else (group,)
    return {names[id(model.get_parameter(part.parameter))] for part in parts}


def listeners_of(model: nn.Module, group: Neurons) -> dict[str, Listener]:
    """Return a group's listeners by the parameter names under which calls use them.

    Listeners of the same parameter and dimension are joined into one with all their columns.
    """
    names = names_of(model)
    found: dict[str, Listener] = {}
    for part in group.listeners:
        name = names[id(model.get_parameter(part.parameter))]
        if name in found and found[name].dim == part.dim:
            index = torch.cat([found[name].index, part.index], 1)
            found[name] = replace(part, index=index)
        else:
            found[name] = part
    return found


def mixes_by_name(model: nn.Module, mix: Mapping[Listener, Tensor]) -> dict[str, Tensor]:
    """Return the mixes by the parameter names under which calls use their listeners."""
    names = names_of(model)
    return {names[id(model.get_parameter(part.parameter))]: rows for part, rows in mix.items()}


def largest_weight_read(model: nn.Module, listeners: Mapping[str, Listener]) -> Tensor:
    """(size,) largest absolute weight that reads each unit; 0 for a dead unit."""
    largest = []
    for name, part in listeners.items():
        weight = model.get_parameter(name).detach().abs()
        other = [dim for dim in range(weight.ndim) if dim != part.dim]
        columns = weight.amax(other) if other else weight
        largest.append(columns[part.index.to(weight.device)].amax(1))
    return torch.stack(largest).amax(0)


def can_matter(model: nn.Module, group: Group) -> Tensor:
    """Whether removing each member can change the loss, (size,) bool.

    It can for units that a nonzero weight reads, and for nonzero synapses.
    """
    if isinstance(group, Neurons):
        return largest_weight_read(model, listeners_of(model, group)).cpu() > 0
    return model.get_parameter(group.parameter).detach().flatten().cpu() != 0


def check_recording(recording: Recording) -> None:
    """Raise StaleError if the network's outputs differ from the recorded ones.

    The outputs are compared on the recording's check samples.

    Raises:
        StaleError: weights changed after the Probe recorded the outputs.
    """
    sample = recording.check_pass
    recording.complete_(sample, "outputs")
    recorded, current = sample.outputs, model_output(recording.model, sample.samples)
    assert recorded is not None
    difference = (recorded - current).abs().max().item() if current.numel() else 0.0
    scale = max(1.0, current.abs().max().item()) if current.numel() else 1.0
    if difference > scale * tolerance(current):
        raise StaleError(
            "weights changed since this Probe recorded the network's outputs: the outputs now "
            f"differ by up to {difference:.3g}. Call probe.update_(cut) after applying a cut, and "
            "probe.forget_() after training or any other change of weights."
        )


def tolerance(outputs: Tensor) -> float:
    """The largest relative difference allowed between two computations of the same outputs."""
    return TOLERANCE.get(outputs.dtype, 1e-4) / 10
