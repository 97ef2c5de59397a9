"""Which way of leaving units out fits a group: the fast one where it is right, else the general."""

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
    recording: Recording, group: Group, members: Tensor, ending: CandidateLosses
) -> Engine:
    """The engine for a group, after it was tried.

    Raises:
        StructureError: a group of units that not even the general engine is right for.
    """
    if isinstance(group, Neurons):
        return unit_engine(recording, listeners_of(recording.model, group), members, ending)
    return synapse_engine(recording, group, ending)


def unit_engine(
    recording: Recording, listeners: Mapping[str, Listener], units: Tensor, ending: CandidateLosses
) -> Chain | Gates:
    """The engine for a group of units, after it told the loss without one of the `units` correctly.

    Raises:
        StructureError: not even the general one does.
    """
    model, survey = recording.model, recording.survey
    chain = find_chain(recording, listeners, ending)
    if chain is not None and agrees_with_model(recording, chain, listeners, units):
        return chain
    gates = Gates(model, survey, listeners, recording.per_sample)
    if agrees_with_model(recording, gates, listeners, units):
        return gates
    raise StructureError(
        "the loss without a unit must be what the network gives with the unit's columns zeroed in "
        f"its listeners, and is not; a weight of {', '.join(sorted(listeners))} is used in a way "
        "that cannot be seen. Leave the group out."
    )


def synapse_engine(recording: Recording, group: Synapses, ending: CandidateLosses) -> SynapseGates:
    """What measures along the gates of a group's synapses, after its chain, if any, was tried."""
    model = recording.model
    name = names_of(model)[id(model.get_parameter(group.parameter))]
    chain = None
    if len(group.shape) == 2:
        columns = Listener(group.name, name, 1, torch.arange(group.shape[1])[:, None])
        found = find_chain(recording, {name: columns}, ending)
        heard = torch.arange(group.shape[1])
        if found is not None and agrees_with_model(recording, found, {name: columns}, heard):
            chain = found
    return SynapseGates(model, name, recording.per_sample, chain)


def agrees_with_model(
    recording: Recording, engine: Chain | Gates, listeners: Mapping[str, Listener], units: Tensor
) -> bool:
    """Whether the network itself, with the loudest unit's columns zeroed, agrees with an engine."""
    sample = recording.check_pass
    recording.complete_(sample, engine.need)
    recording.complete_(sample, "outputs")
    assert sample.losses is not None
    loudest = units[largest_weight_read(recording.model, listeners)[units].argmax().cpu()][None]
    zeroed = {
        name: recording.model.get_parameter(name).index_fill(
            part.dim, part.index[loudest].flatten().to(recording.device), 0.0
        )
        for name, part in listeners.items()
    }
    real = output_with_weights(recording.model, zeroed, sample.samples)
    told = per_sample_losses(recording.per_sample, real, sample.samples.targets)
    rise = (told.double().sum() - sample.losses.double().sum()).item()
    apart = abs(engine.rises(sample, loudest)[0].item() - rise) / len(told)
    # A loss that is not finite is nobody's error here: the answer itself will say so.
    return not apart > tolerance(real) * max(1.0, told.abs().mean().item())


def output_with_weights(
    model: nn.Module, zeroed: Mapping[str, Tensor], samples: ProbeData
) -> Tensor:
    """What the model puts out with other weights in some places; the model is not touched."""

    class Zeroed(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return functional_call(model, dict(zeroed), args, kwargs)

    return tensors(run(Zeroed(), samples.inputs))[0]


def parameters_read(model: nn.Module, group: Group) -> set[str]:
    """The parameters that a cut of the group changes, by the names under which calls use them."""
    names = names_of(model)
    parts = group.listeners if isinstance(group, Neurons) else (group,)
    return {names[id(model.get_parameter(part.parameter))] for part in parts}


def listeners_of(model: nn.Module, group: Neurons) -> dict[str, Listener]:
    """What reads a group, by the names under which calls use it."""
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
    """The mixes for listeners, by the names under which calls use them."""
    names = names_of(model)
    return {names[id(model.get_parameter(part.parameter))]: rows for part, rows in mix.items()}


def largest_weight_read(model: nn.Module, listeners: Mapping[str, Listener]) -> Tensor:
    """(size,) largest weight with which anything listens to each unit; 0 for a dead unit."""
    loudest = []
    for name, part in listeners.items():
        weight = model.get_parameter(name).detach().abs()
        other = [dim for dim in range(weight.ndim) if dim != part.dim]
        columns = weight.amax(other) if other else weight
        loudest.append(columns[part.index.to(weight.device)].amax(1))
    return torch.stack(loudest).amax(0)


def can_matter(model: nn.Module, group: Group) -> Tensor:
    """(size,) bool: which members anything could come of: units that are heard, weights not 0."""
    if isinstance(group, Neurons):
        return largest_weight_read(model, listeners_of(model, group)).cpu() > 0
    return model.get_parameter(group.parameter).detach().flatten().cpu() != 0


def check_recording(recording: Recording) -> None:
    """Refuse to answer from a record that the network does not bear out.

    Raises:
        StaleError: weights changed unannounced.
    """
    sample = recording.check_pass
    recording.complete_(sample, "outputs")
    recorded, real = sample.outputs, model_output(recording.model, sample.samples)
    assert recorded is not None
    apart = (recorded - real).abs().max().item() if real.numel() else 0.0
    scale = max(1.0, real.abs().max().item()) if real.numel() else 1.0
    if apart > scale * tolerance(real):
        raise StaleError(
            f"weights may change only with the Probe's knowledge; recorded outputs are off by "
            f"{apart:.3g}. Call probe.cut_(cut) after a cut and probe.forget_() after training "
            "or any other change."
        )


def tolerance(outputs: Tensor) -> float:
    """How far apart two ways of computing the same numbers may be, as a part of their size."""
    return TOLERANCE.get(outputs.dtype, 1e-4) / 10
