"""Repair a stream: fit each layer that reads it anew to what it computed before the cut.

Without some units, the norms over a stream divide all others by other statistics, and an error in
one block goes on to all later ones. So each layer is fitted on what it reads in the network that is
cut and already repaired before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sentei.criteria.repairs.compensation import DAMPING, refitted_on
from sentei.network.calls import recorded_names
from sentei.network.copying import copied
from sentei.network.folding import bias_of, fold_
from sentei.network.layout import Layout
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons, tensor_of
from sentei.probe.input_moments import (
    PairedMoments,
    layouts_of,
    paired_moments,
    reading_alike,
)
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Recording


def is_stream(group: Group) -> bool:
    """Return whether a group is a width that norms count."""
    return group.kind == "stream"


@torch.no_grad()
def refitted_listeners(
    probe: Probe,
    doomed: Mapping[Group, Tensor],
    mask: Mask,
    mix: Mapping[Listener, Tensor],
    updates: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return new weights and biases of the layers that read streams from which units are removed.

    Layers are fitted in the order in which they run: each gets the weights with which its outputs,
    on what it reads in the cut network, are closest to those of the network before the cut. A layer
    whose weight is tied, or is not used by matrix products or convolutions alone, keeps it. For
    each set of layers that read the same tensor, the network and the cut one run up to them.

    Args:
        probe: the network before the cut, and the samples.
        doomed: all that is removed; streams among it.
        mask: what is alive after the cut.
        mix: how removed units of other groups are replaced.
        updates: new weights of other layers.

    Returns:
        By parameter: the whole weight or bias.

    Source: least-squares reconstruction, layer after layer, as for channels by He, Zhang and Sun
    (2017, arXiv 1707.06168); damped towards the weights before the cut.
    """
    with probe.measuring() as recording:
        parts = _fitted(probe.model, recording, doomed)
        trial = _cut(probe.model, doomed, mask, mix, updates)
        cut = Recording(trial, probe.samples, probe.chosen, 0, recording.survey)
        layouts = layouts_of(recording, parts)
        changed: dict[str, Tensor] = {}
        for names in reading_alike(recording, layouts):
            moments = paired_moments(recording, cut, names[0], layouts[names[0]])
            for name in names:
                fitted = _solved(probe.model, parts[name], layouts[name], mask, moments)
                for parameter, value in fitted.items():
                    tensor_of(trial, parameter).copy_(value)
                changed.update(fitted)
        return changed


def _fitted(
    model: nn.Module, recording: Recording, doomed: Mapping[Group, Tensor]
) -> dict[str, Listener]:
    """Return the listeners of all streams among the groups, by the names that calls use.

    Tied weights compute units, too, and a listener that is not used has no inputs: both stay.
    """
    names, used = recorded_names(model), {call.weight for call in recording.survey.calls}
    streams = [g for g in doomed if isinstance(g, Neurons) and is_stream(g)]
    listeners = {part.parameter: part for group in streams for part in group.listeners}
    computing = [part.parameter for group in streams for part in group.producers]
    times = Counter(names[parameter] for parameter in {*listeners, *computing})
    tied = {name for name, count in times.items() if count > 1} | {names[p] for p in computing}
    found = {names[part.parameter]: part for part in listeners.values()}
    return {name: part for name, part in found.items() if name in used - tied}


def _cut(
    model: nn.Module,
    doomed: Mapping[Group, Tensor],
    mask: Mask,
    mix: Mapping[Listener, Tensor],
    updates: Mapping[str, Tensor],
) -> nn.Module:
    """Return a copy of a network with a cut and its other repairs applied."""
    trial = copied(model)
    for name, weight in updates.items():
        tensor_of(trial, name).copy_(weight)
    for group, units in doomed.items():
        own = {p: mix[p] for p in getattr(group, "listeners", ()) if p in mix}
        if own and isinstance(group, Neurons):
            fold_(trial, group, units, own)
    mask.apply_(trial)
    return trial


def _solved(
    model: nn.Module, part: Listener, layout: Layout, mask: Mask, moments: PairedMoments
) -> dict[str, Tensor]:
    """Return the weight and the bias of a layer that fit what it reads after a cut."""
    weight, bias = tensor_of(model, part.parameter), bias_of(model, part)
    own = layout.matrices(weight.detach().double())
    alive = layout.matrices(mask.living(part.parameter, weight.shape)).any(1).to(own.device)
    cross, products = moments.cross, moments.products
    squares = products.diagonal(dim1=1, dim2=2).mean(1)  # also of what does not vary
    held = DAMPING * torch.where(squares > 0, squares, 1.0)
    if bias is not None:  # it takes up the means; what is fitted is the rest
        cross = cross - moments.before[..., None] * moments.after[..., None, :]
        products = products - moments.after[..., None] * moments.after[..., None, :]
    fitted = refitted_on(own, cross, products, alive, held)
    found = {part.parameter: layout.weight(fitted).to(weight.dtype)}
    if bias is not None:
        lost = own @ moments.before[..., None] - fitted @ moments.after[..., None]
        found[f"{part.layer}.bias"] = (bias.double() + lost.flatten().reshape(bias.shape)).to(bias)
    return found
