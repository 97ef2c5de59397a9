"""Collect traced units into groups: units that are alike in every place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sentei.network.tracing.decoding import MIXED, Tracer
from sentei.network.tracing.inputs import INPUT, Place
from sentei.network.tracing.links import Links, Signature, alike, roles
from sentei.network.tracing.recorded_statistics import is_statistic
from sentei.network.tracing.replay import OUTPUT, is_computed
from sentei.network.units import Listener, Neurons, tensor_of

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_OUTPUT = "they are part of an output of the network"
_EXPOSED = (
    f"{_OUTPUT}, and norms over them keep it so for all layers that add to them; where that output "
    "does not count, as the hidden states beside the logits, pass forward= with what does"
)
_TIED = (
    "an operation over all of them, such as a norm or a product, ties them together: none can be "
    "removed without the others"
)
_UNREAD = "no layer and no output reads them"
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def groups(tracer: Tracer) -> list[Neurons]:
    """Collect the units that can be removed into groups of units with the same signature."""
    found = []
    taken: dict[tuple[str, str], int] = defaultdict(int)
    for signature, units in alike(_roles(tracer), tracer.links):
        if not _is_offered(signature) or (len(units) == 1 and not _is_one_row(signature)):
            continue
        tensors = tuple(entry for entry in signature if not is_statistic(entry[1][0]))
        parts = _parts(tensors, units, tracer.links)
        kind = _kind(parts, tracer) if tensors == signature else "stream"
        if kind == "input":
            parts["follower"] = _from_selection_on(parts["follower"], tracer)
        name = parts["producer"][0].layer if parts["producer"] else parts["input"][0].parameter
        name = name or parts["producer"][0].parameter
        taken[kind, name] += 1
        count = taken[kind, name]
        found.append(
            Neurons(
                name if count == 1 else f"{name}:{count}",
                kind,
                len(units),
                *(tuple(parts[role]) for role in ("producer", "follower", "listener")),
            )
        )
    return found


def unread_rows(tracer: Tracer) -> dict[Place, torch.Tensor]:
    """Return the rows that no listener and no output reads, int64, by place; of weights and biases.

    Such as those of the last residual of a network that returns another sum.
    """
    links, found = tracer.links, {}
    read = links.has_readers
    for role, place in _roles(tracer):
        if role == "producer":
            rows = np.flatnonzero(~read[links.labels[links.nodes(place)]])
            found |= {place: torch.from_numpy(rows)} if len(rows) else {}
    return found


@dataclass(frozen=True)
class NotOffered:
    """Rows of a parameter that `find_units` does not offer, and why.

    Attributes:
        parameter: qualified name of the parameter.
        dim: its dimension that indexes the rows.
        reason: why they cannot be removed, or not one by one.
    """

    parameter: str
    dim: int
    reason: str


def left_out(tracer: Tracer, offered: Sequence[Neurons]) -> list[NotOffered]:
    """Return the parameters with rows that are in none of the offered groups, with the reasons.

    A parameter has an entry for each reason.
    """
    links, found = tracer.links, []
    held: dict[Place, set[int]] = defaultdict(set)
    for group in offered:
        for part in group.producers:
            held[part.parameter, part.dim] |= set(part.index.flatten().tolist())
    output, read = links.labels[links.offset[OUTPUT]], links.has_readers
    sources = [place for place in tracer.replay.sources if place[1] != INPUT]
    parameters = dict(tracer.replay.model.named_parameters())
    for name, dim in sources:
        if is_computed((name, dim)) and not tracer.own((name, dim)):
            held_in = tracer.replay.computed_from[name] & parameters.keys()
            found += [NotOffered(origin, dim, MIXED) for origin in sorted(held_in)]
    streams = _reaching_norms(tracer)
    for place in (own for source in sources for own in tracer.own(source)):
        for row, node in enumerate(links.nodes(place).tolist()):
            if row not in held[place]:
                label = links.labels[node]
                exposed = _EXPOSED if place in streams else _OUTPUT
                usual = exposed if label == output else _TIED if read[label] else _UNREAD
                why = links.barred.get(node, usual) if label == output else usual
                found.append(NotOffered(*place, why))
    return list(dict.fromkeys(found))


def _reaching_norms(tracer: Tracer) -> set[Place]:
    """Return the sources whose rows a norm over units reads."""
    parts = [tracer.replay.readers[place] for place in tracer.replay.statistics]
    return {
        own
        for place, columns in tracer.reached().items()
        if any(columns[part].any() for part in parts)
        for own in tracer.own(place)
    }


def _roles(tracer: Tracer) -> list[tuple[str, Place]]:
    """Return every place of the model's own tensors with its role.

    In the place of a weight that the network computes from others stand the weights it comes from.
    A place that computes or reads units does not follow as well.
    """
    found = [
        (_own_role(tracer, role, place, own), own)
        for role, place in roles(tracer.replay)
        for own in tracer.own(place)
    ]
    held = {place for role, place in found if role != "follower"}
    found += [("follower", place) for place in tracer.tensors.bound]
    return [each for each in dict.fromkeys(found) if each[0] != "follower" or each[1] not in held]


def _own_role(tracer: Tracer, role: str, place: Place, own: Place) -> str:
    """Return the role of a tensor that a weight may be computed from.

    A buffer beside parameters, such as a mask that a weight is multiplied by, follows: units are
    silenced by zeros in the parameters. A buffer that the weight is computed from alone does not.
    """
    if place == own:  # the network's input is such a place: no tensor of the model
        return role
    model, all_own = tracer.replay.model, tracer.own(place)
    trained = [isinstance(tensor_of(model, name), nn.Parameter) for name, _ in (own, *all_own)]
    return role if trained[0] or not any(trained) else "follower"


def _is_offered(signature: Signature) -> bool:
    """Return whether a unit with this signature can be pruned, if it is not part of an output."""
    roles = {role for role, _, _ in signature}
    if "input" in roles and any(is_statistic(name) for _, (name, _), _ in signature):
        return False  # the norm counts inputs that callers still pass
    # A unit that no listener reads is dead already: the sweep removes it, no criterion ranks it.
    return "listener" in roles and len(roles & {"producer", "input"}) == 1


def _is_one_row(signature: Signature) -> bool:
    """Return whether a unit has one row: it is a layer of one unit, not many tied by a norm."""
    return all(count == 1 for role, _, count in signature if role in ("producer", "input"))


def _parts(signature: Signature, units: np.ndarray, links: Links) -> dict[str, list[Listener]]:
    """Return the places of a group's units by role, as `Listener`s with one index row per unit."""
    parts: dict[str, list[Listener]] = defaultdict(list)
    rank = np.full(len(links.labels), -1)
    rank[units] = np.arange(len(units))
    for role, place, count in signature:
        unit = rank[links.labels[links.nodes(place)]]
        position = np.argsort(unit, kind="stable")[(unit < 0).sum() :].reshape(len(units), count)
        name, dim = place
        layer = "" if role == "input" else name.rpartition(".")[0]
        parts[role].append(Listener(layer, name, dim, torch.from_numpy(position)))
    return parts


def _from_selection_on(followers: list[Listener], tracer: Tracer) -> list[Listener]:
    """Return the followers of inputs that a cut changes: a selection, and those behind it.

    A cut puts a Select directly before the listener, or makes a selection that is there pass on
    less. All inputs still arrive at what comes before it (a Standardise, a batch norm).
    """
    behind = [part for part in followers if (part.parameter, part.dim) not in tracer.tensors.bound]
    selects = [(part.parameter, part.dim) in tracer.replay.selections for part in behind]
    return behind[selects.index(True) :] if any(selects) else []


def _kind(parts: dict[str, list[Listener]], tracer: Tracer) -> str:
    """Return the kind of a group: "input", "channel", "head" or "neuron"."""
    if not parts["producer"]:
        return "input"
    links = tracer.links
    used_by = {
        own: source.function
        for place, source in tracer.replay.sources.items()
        for own in tracer.own(place)
    }
    rows = [part for part in parts["producer"] if (part.parameter, part.dim) in used_by]
    if any(used_by[part.parameter, part.dim] in (*_CONVOLUTIONS, *_TRANSPOSED) for part in rows):
        return "channel"
    owners = [tracer.replay.model.get_submodule(part.layer) for part in rows]
    if any(isinstance(owner, (nn.RNNBase, nn.RNNCellBase)) for owner in owners):
        return "neuron"
    mixed = any(
        links.crowded[links.nodes((part.parameter, part.dim))[part.index]].any()
        for part in parts["listener"]
        if part.index.shape[1] > 1
    )
    return "head" if mixed and any(part.index.shape[1] > 1 for part in rows) else "neuron"
