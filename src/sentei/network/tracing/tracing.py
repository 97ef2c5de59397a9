"""Find the groups of prunable units of any network by running it: `find_units`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from sentei.arguments import checked
from sentei.errors import StructureError
from sentei.network.example import Example, check, resized, rows, undisturbed
from sentei.network.tracing.decoding import Tracer
from sentei.network.tracing.inputs import INPUT, Place
from sentei.network.tracing.links import Links
from sentei.network.tracing.replay import OUTPUT, Replay
from sentei.network.units import Listener, Neurons

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

Signature = tuple[tuple[str, Place, int], ...]  # (role, place, positions of a unit there)


@checked
def find_units(model: nn.Module, example: Example, inputs: bool = False) -> list[Neurons]:
    """Find the groups of interchangeable units of a network: neurons, channels, heads, inputs.

    The model runs once, and again in training mode, where it may use other layers. Then its
    recorded activations are replayed with NaN written into the
    outputs of chosen weight rows: the columns that read NaN read these rows. Neither the types of
    the layers nor the source of `forward` matter. Not offered are units that are part of an output,
    units that are added to single elements of the model's input, units that no column reads, and
    units that a norm over all of them (layer norm) ties together into one. The model's weights,
    buffers, modes and the random state stay unchanged.

    Args:
        model: any module that uses its weights through torch's own functions.
        example: what to run it on: a tensor, a tuple of arguments or a dict of keywords. At most
            two samples are used.
        inputs: whether to offer input features too, in groups of kind "input" without producers.

    Returns:
        The groups in the order of their first producers; indices are int64 on the CPU.

    Raises:
        StructureError: the network cannot be followed (no use of a weight is seen, its calls depend
            on values, or an operation hides which columns read which rows).
        DataError: the example does not run.
    """
    with undisturbed(model), _on_one_thread():
        replay = record(model, example, inputs=inputs)
        links = Tracer(replay).trace()
    return _groups(replay, links)


@contextmanager
def _on_one_thread() -> Iterator[None]:
    # A replay is thousands of small operations. On a busy machine, several threads that wait for
    # each other at every operation have taken twenty times as long as one thread.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def record(model: nn.Module, example: Example, *, inputs: bool) -> Replay:
    """Record the model's forward pass over the example, on one sample if the model allows it.

    Raises:
        StructureError: the model has lazy layers that have not run yet, or cannot be followed.
        DataError: the example does not run.
    """
    lazy = [name for name, value in model.named_parameters() if is_lazy(value)]
    if lazy:
        raise StructureError(
            f"every weight must have its shape; {lazy[0]!r} is lazy and gets its shape from the "
            "first input: run the model once before tracing it"
        )
    example = dict(example) if isinstance(example, Mapping) else example
    try:
        # One sample shows as much as many, unless a `squeeze()` removes a batch dimension of one.
        try:
            replay = Replay(model, _few(example, 1), inputs=inputs)
        except Exception:
            replay = Replay(model, _few(example, 2), inputs=inputs)
        if not replay.differs_in_training():
            return replay
        return Replay(model, replay.example, inputs=inputs, training=True)
    except StructureError:
        raise
    except Exception as error:
        check(model, example)
        raise StructureError(f"the network cannot be followed: {error}") from error


def _few(example: Example, samples: int) -> Example:
    """Return the first samples of an example; all of it if its tensors differ in length."""
    count = rows(example)
    return resized(example, lambda t: t[:samples]) if count and count > samples else example


def _groups(replay: Replay, links: Links) -> list[Neurons]:
    """Collect the units that can be removed into groups of units with the same signature."""
    roles = _roles(replay)
    units_by_signature: dict[Signature, list[int]] = defaultdict(list)
    for unit, signature in _signatures(roles, links).items():
        if _is_offered(signature, unit == links.labels[links.offset[OUTPUT]]):
            units_by_signature[signature].append(unit)
    found = []
    taken: dict[tuple[str, str], int] = defaultdict(int)
    for signature, units in units_by_signature.items():
        if len(units) == 1 and not _is_one_row(signature):
            continue
        parts = _parts(signature, np.array(units), links)
        kind = _kind(parts, replay, links)
        if kind == "input":
            parts["follower"] = _from_selection_on(parts["follower"], replay)
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


def _roles(replay: Replay) -> list[tuple[str, Place]]:
    """Return every place with its role ("input", "producer", "follower", "listener").

    Producers and inputs come first. The biases of a producer are producers too.
    """
    aligned_with = defaultdict(list)
    for first, second in replay.aligned:
        aligned_with[first].append(second)
    roles = []
    for place in replay.sources:
        role = "input" if place[1] == INPUT else "producer"
        roles += [(role, place), *((role, other) for other in aligned_with[place])]
    for place in replay.readers:
        if place in replay.listeners:
            roles.append(("listener", place))
        elif place != OUTPUT:
            roles += [("follower", place), *(("follower", other) for other in aligned_with[place])]
    return list(dict.fromkeys(roles))


def _signatures(roles: list[tuple[str, Place]], links: Links) -> dict[int, Signature]:
    """Return the signature of each unit by its label, in the order of the units' first positions.

    The signature holds each place where the unit has positions, with its role and how many.
    """
    entries: dict[int, list[tuple[str, Place, int]]] = defaultdict(list)
    for role, place in roles:
        labels = links.labels[links.nodes(place)]
        units, first, count = np.unique(labels, return_index=True, return_counts=True)
        for at in np.argsort(first):
            entries[int(units[at])].append((role, place, int(count[at])))
    return {unit: tuple(signature) for unit, signature in entries.items()}


def _is_offered(signature: Signature, reaches_output: bool) -> bool:
    """Return whether a unit with this signature can be pruned."""
    roles = {role for role, _, _ in signature}
    # A unit that no listener reads is dead already: the sweep removes it, no criterion ranks it.
    return not reaches_output and "listener" in roles and len(roles & {"producer", "input"}) == 1


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


def _from_selection_on(followers: list[Listener], replay: Replay) -> list[Listener]:
    """Return the followers of inputs that a cut changes: a selection, and those behind it.

    A cut puts a Select directly before the listener, or makes a selection that is there pass on
    less. All inputs still arrive at what comes before it (a Standardise, a batch norm).
    """
    selects = [(part.parameter, part.dim) in replay.selections for part in followers]
    return followers[selects.index(True) :] if any(selects) else []


def _kind(parts: dict[str, list[Listener]], replay: Replay, links: Links) -> str:
    """Return the kind of a group: "input", "channel", "head" or "neuron"."""
    if not parts["producer"]:
        return "input"
    used_by = {place: source.function for place, source in replay.sources.items()}
    rows = [part for part in parts["producer"] if (part.parameter, part.dim) in used_by]
    if any(used_by[part.parameter, part.dim] in (*_CONVOLUTIONS, *_TRANSPOSED) for part in rows):
        return "channel"
    mixed = any(
        links.crowded[links.nodes((part.parameter, part.dim))[part.index]].any()
        for part in parts["listener"]
        if part.index.shape[1] > 1
    )
    return "head" if mixed and any(part.index.shape[1] > 1 for part in rows) else "neuron"
