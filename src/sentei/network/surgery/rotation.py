"""Rotate the units of a stream, so that each is a mix of all of them, with the same outputs.

A root mean square does not change when the units of a stream are rotated, and a layer that reads
them can be rotated back. What stands in between are a norm's scale and shift, which go into the
layers behind it, and a layer norm's mean: a layer norm of a stream without mean is an RMS norm, and
what computes the stream can leave its mean out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.calls import Call, Calls, recorded_names
from sentei.network.counted_norm import CountedLayerNorm
from sentei.network.folding import bias_of
from sentei.network.surgery.counts import Way, may_be_norm, way_of
from sentei.network.units import Listener, Neurons, tensor_of
from sentei.running import Example, run


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over a stream, and what reads its result.

    Attributes:
        path: its name.
        way: how its parameters are used.
        listeners: the parts of layers that read its result.
    """

    path: str
    way: Way
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a stream, by what a rotation does to them.

    Attributes:
        norms: the norms over it.
        computing: what computes units or is added to them; each tensor once.
        scales: what multiplies the units of single layers, with what these layers compute.
        reading: what reads units.
    """

    norms: tuple[Norm, ...]
    computing: tuple[Listener, ...]
    scales: tuple[tuple[Listener, tuple[Listener, ...]], ...]
    reading: tuple[Listener, ...]


def parts_of(model: nn.Module, group: Neurons, example: Example) -> Parts:
    """Find out what the parts of a stream do, by doubling each of them.

    A layer reads a norm's result if what it reads doubles with the result. A follower is the scale
    of a layer if doubling it changes what all layers read as doubling the layer's results does.

    Raises:
        StructureError: a weight is tied, or a norm's result is not read by layers of its own.
    """
    reading = _listeners(model, group)
    ways, others = _ways(model, group)
    before = _reads(model, reading, example)
    norms, owner = [], {}
    for path, way in ways.items():
        module = model.get_submodule(path)
        hook = module.register_forward_hook(_twice)
        try:
            after = _reads(model, reading, example)
        finally:
            hook.remove()
        own = [name for name in before if _near(2 * before[name], after[name])]
        if not own or any(owner.setdefault(name, path) != path for name in own):
            raise StructureError(
                f"a stream is rotated if layers read what each of its norms returns; no layer "
                f"reads the result of {path!r} alone. Norms behind a sum, whose results go on in "
                "the stream, keep its units apart: prune it as it is."
            )
        norms.append(Norm(path, way, tuple(reading[name] for name in own)))
    scales = [*_scales(model, group, others, reading, example)]
    scaling = [scale for scale, _ in scales]
    names = recorded_names(model)
    every = (*group.producers, *(part for part in others if part not in scaling))
    computing = {(names[part.parameter], part.dim): part for part in every}
    return Parts(tuple(norms), tuple(computing.values()), tuple(scales), tuple(reading.values()))


def _ways(model: nn.Module, group: Neurons) -> tuple[dict[str, Way], list[Listener]]:
    """Return the norms over a stream by path, and the followers that belong to no norm."""
    known: dict[type, Way] = {}
    some = torch.arange(group.size) % 3 != 0
    ways: dict[str, Way] = {}
    for part in group.followers:
        module = may_be_norm(model, part)
        if isinstance(module, CountedLayerNorm) and module.centred:
            raise StructureError(
                f"a layer norm that counts removed units, such as {part.layer!r}, has no mean of "
                "its own; rotate the network before the first cut"
            )
        way = Way() if module is None else way_of(module, some, known)
        if way.axis or (way.scale and part.parameter == f"{part.layer}.{way.scale}"):
            ways[part.layer] = way
    return ways, [part for part in group.followers if part.layer not in ways]


def _scales(
    model: nn.Module,
    group: Neurons,
    others: list[Listener],
    reading: dict[str, Listener],
    example: Example,
) -> Iterator[tuple[Listener, tuple[Listener, ...]]]:
    """Yield followers that multiply the results of one layer, with the parts that compute these."""
    layers: dict[str, list[Listener]] = {}
    for part in group.producers:
        layers.setdefault(part.layer, []).append(part)
    doubled = {}
    for part in others:
        if tensor_of(model, part.parameter).numel() != group.size:
            continue
        doubled = doubled or {
            layer: _reads(model, reading, example, own) for layer, own in layers.items()
        }
        changed = _reads(model, reading, example, [part])
        same = [
            layer
            for layer, reads in doubled.items()
            if all(_near(reads[name], changed[name]) for name in reads)
        ]
        if len(same) == 1:
            yield part, tuple(layers[same[0]])


def _listeners(model: nn.Module, group: Neurons) -> dict[str, Listener]:
    """Return a stream's listeners by the names that calls use, if each can be changed alone."""
    names = recorded_names(model)
    computing = {names[part.parameter] for part in group.producers}
    times = Counter(names[part.parameter] for part in group.listeners)
    for part in group.listeners:
        name = names[part.parameter]
        if name in computing or times[name] > 1:
            raise StructureError(
                f"a stream is rotated by changing what computes and what reads it in different "
                f"ways; {part.parameter!r} is tied to other weights. Untie it before: "
                f"layer.weight = nn.Parameter(layer.weight.detach().clone())"
            )
    return {names[part.parameter]: part for part in group.listeners}


@torch.no_grad()
def _reads(
    model: nn.Module,
    parts: dict[str, Listener],
    example: Example,
    twice: Sequence[Listener] = (),
) -> dict[str, Tensor]:
    """Return what each listener reads of the stream, (n,), of all its calls.

    Args:
        model: the network.
        parts: the listeners by the names that calls use.
        example: inputs.
        twice: parts that are doubled for this run.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in parts}

    def note(call: Call) -> Tensor:
        part = parts.get(call.weight)
        if part is not None and call.use.columns == part.dim:
            units = call.input.movedim(call.axis, 0)[part.index.flatten().to(call.input.device)]
            found[call.weight].append(units.flatten())
        return call()

    own = [tensor_of(model, part.parameter) for part in twice]
    for tensor in own:
        tensor.mul_(2)
    try:
        with Calls(model, note):
            run(model, example)
    finally:
        for tensor in own:
            tensor.div_(2)  # exact: a power of two
    return {name: torch.cat(read) for name, read in found.items() if read}


def _twice(module: nn.Module, args: object, result: Tensor) -> Tensor:  # noqa: ARG001
    return 2 * result


def _near(wanted: Tensor, found: Tensor) -> bool:
    return bool(wanted.any()) and torch.allclose(wanted, found, rtol=1e-4)


@torch.no_grad()
def absorb_(model: nn.Module, parts: Parts) -> None:
    """Move scales and shifts into the layers beside them, and the means out of the stream.

    Layer norms become RMS norms. A shift stays in the norm if a layer behind it has no bias.

    Raises:
        StructureError: such a norm has scales of zero.
    """
    for scale, layer in parts.scales:
        gain = tensor_of(model, scale.parameter)
        for part in layer:
            _mix_(model, part, torch.diag(gain.flatten().double()))
        gain.fill_(1)
    for norm in parts.norms:
        module = model.get_submodule(norm.path)
        weight = _scale(module, norm.way)
        shift = module._parameters.get("bias")
        if shift is not None and shift.any():
            _absorb_shift_(model, norm, weight, shift)
        for part in norm.listeners:
            _mix_(model, part, torch.diag(weight))
        _set_scale_(model, norm)
    if any(norm.way.axis for norm in parts.norms):
        for part in parts.computing:
            size = len(part.index)
            _mix_(model, part, torch.eye(size, dtype=torch.float64) - 1 / size)


def _scale(norm: nn.Module, way: Way) -> Tensor:
    weight = norm._parameters[way.scale or "weight"]
    assert weight is not None
    return weight.detach().double() + way.stored


def _absorb_shift_(model: nn.Module, norm: Norm, weight: Tensor, shift: nn.Parameter) -> None:
    """Move a shift into the biases behind a norm; else keep it in terms of units without scale."""
    tensors = [tensor_of(model, part.parameter) for part in norm.listeners]
    biases = [bias_of(model, part) for part in norm.listeners]
    if all(bias is not None for bias in biases) and all(each.ndim == 2 for each in tensors):
        for part, columns, bias in zip(norm.listeners, tensors, biases, strict=True):
            assert bias is not None
            own = columns.movedim(part.dim, 0)[part.index.to(columns.device)].double().sum(1)
            bias.add_((shift.double() @ own).to(bias))
        shift.zero_()
    elif weight.all():
        shift.copy_(shift.double() / weight)
    else:
        raise StructureError(
            f"the norm {norm.path!r} has units with a shift and no scale, and a layer behind it "
            "has no bias to hold the shift. Give that layer a bias of zeros before."
        )


def _set_scale_(model: nn.Module, norm: Norm) -> None:
    """Set a norm's scale to one; put an RMS norm in the place of a layer norm."""
    module, way = model.get_submodule(norm.path), norm.way
    if not way.axis:
        scale = module._parameters[way.scale]
        assert scale is not None
        scale.fill_(1 - way.stored)
        return
    parent, _, child = norm.path.rpartition(".")
    weight = module._parameters["weight"]
    assert weight is not None
    weight.fill_(1)
    plain = CountedLayerNorm.of(module, len(weight), getattr(module, way.eps), way.axis, centred=0)
    setattr(model.get_submodule(parent), child, plain)


@torch.no_grad()
def rotate_(model: nn.Module, parts: Parts, basis: Tensor) -> None:
    """Express a stream in another basis, after `absorb_`.

    Args:
        model: changed in place.
        parts: the parts of the stream.
        basis: (size, size) orthogonal, float64; each column is a new unit.
    """
    for part in (*parts.computing, *parts.reading):
        _mix_(model, part, basis.T)
    for norm in parts.norms:
        shift = model.get_submodule(norm.path)._parameters.get("bias")
        if shift is not None:
            shift.copy_((basis.T.to(shift.device) @ shift.double()).to(shift))


def _mix_(model: nn.Module, part: Listener, mix: Tensor) -> None:
    """Replace a part's units by mixes of them, (size, size): those of row i become unit i."""
    tensor = tensor_of(model, part.parameter)
    index = part.index.to(tensor.device)
    units = tensor.movedim(part.dim, 0)
    mixed = torch.tensordot(mix.to(tensor.device), units[index].double(), 1)
    units = units.index_copy(0, index.flatten(), mixed.to(tensor).flatten(0, 1))
    tensor.copy_(units.movedim(0, part.dim))
