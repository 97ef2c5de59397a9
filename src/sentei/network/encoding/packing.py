"""Turn a network, its groups and its mask into named tensors and plain data, as files hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from sentei.card import card_of
from sentei.errors import FileError, StructureError
from sentei.network.encoding.architecture import describe, tensors_of
from sentei.network.holders import public_numbers
from sentei.network.mask import Mask
from sentei.network.units import BRANCH, KINDS, Branch, Branches, Group, Listener, Neurons, Synapses
from sentei.network.zeros import check_form, stand_ins

FORMAT = 1  # of the file; raised with every change that an older sentei could not read
INDEX = "model.safetensors.index.json"  # of a folder of files, as other libraries name it
MASK = "sentei.mask/"  # what the names of a mask's tensors begin with

# safetensors' names for what torch can hold, in the order in which it lays tensors out.
_CODES: dict[torch.dtype, str] = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64",
    torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(_CODES)}
_ROLES = ("producers", "followers", "listeners")


def contents(model: nn.Module, mask: Mask | None = None) -> tuple[dict[str, Tensor], str]:
    """Return what the file of a network holds: tensors by name, and the rest as one JSON text.

    Args:
        model: on any device, the meta device too. A tensor with several names is stored once.
        mask: left out of the file if nothing in it is dead.

    Raises:
        FileError: a tensor whose name or dtype such a file cannot hold.
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in tensors_of(model).items():
        _check_storable(name, tensor)
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = tensor
    try:
        architecture = describe(model)
    except StructureError:
        architecture = None
    card = {"format": FORMAT, "sentei": release(), "architecture": architecture}
    card |= {"attributes": public_numbers(model), "tied": tied}
    if forms := stand_ins(model):
        card["zeros"] = forms
    if known := card_of(model).data():
        card["card"] = known
    if mask is not None and any(mask.count(group) < group.size for group in mask.groups):
        packed, card["mask"] = pack(mask)
        tensors |= {MASK + name: tensor for name, tensor in packed.items()}
    return tensors, json.dumps(card, sort_keys=True, separators=(",", ":"))


def layout(tensors: Mapping[str, Tensor], about: str) -> tuple[bytes, list[str]]:
    """Return the first bytes of a safetensors file, up to its data, and the order of its tensors.

    As the safetensors library writes them: eight bytes for the header's length, the header as JSON,
    padded with spaces to a multiple of eight; then the data, wider types first, then by name.
    """
    order = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": {"sentei": about}}
    begin = 0
    for name in order:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        place = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**place, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def safetensors_bytes(tensors: Mapping[str, Tensor], about: str) -> int:
    """Exact size of a safetensors file, header included; tensors may be on the meta device."""
    head, _ = layout(tensors, about)
    return len(head) + sum(t.numel() * t.element_size() for t in tensors.values())


def _check_storable(name: str, tensor: Tensor) -> None:
    if name.startswith(MASK) or name == "__metadata__":
        raise FileError(f"tensor {name!r} has a name that the file keeps for itself; rename it")
    if tensor.dtype not in _CODES:
        raise FileError(
            f"tensor {name!r} is {tensor.dtype}, which a safetensors file cannot hold; convert it "
            f"to one of {', '.join(str(dtype).removeprefix('torch.') for dtype in _CODES)}"
        )


@lru_cache(maxsize=1)
def release() -> str:
    """Return the number of this sentei's release; "source" where it is not installed."""
    try:
        return version("sentei")
    except PackageNotFoundError:  # run from its source, without having been installed
        return "source"


# Groups and masks. A mask takes one bit for each member.


def pack(mask: Mask, *, places: bool = True) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Turn a mask into tensors and JSON-able data.

    Args:
        mask: any; of an outline the tensors are on the meta device.
        places: store the slices of groups that have a dead unit (they take far more room than the
            mask itself). Without them the mask can be compared and counted but not applied; give
            its dead members to the groups of `find_units` again.

    Returns:
        For each group i that has dead members, "i/alive" (ceil(size / 8),) uint8, and its slices as
        in `pack_groups`; and one entry for each group.
    """
    tensors: dict[str, Tensor] = {}
    entries = []
    for i, group in enumerate(mask.groups):
        dies = mask.count(group) < group.size
        entry = _entry(group, i, tensors, places=places and dies)
        entry["alive"] = mask.count(group)
        if dies:
            tensors[f"{i}/alive"] = packed(mask, group)
        entries.append(entry)
    return tensors, entries


def packed(mask: Mask, group: Group) -> Tensor:
    """Return which members of a group are alive, a bit for each, (ceil(size / 8),) uint8."""
    if mask.outlines:
        return torch.empty(-(-group.size // 8), dtype=torch.uint8, device="meta")
    return torch.from_numpy(numpy.packbits(mask.alive(group).numpy()))


def pack_groups(groups: Sequence[Group]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Turn groups into tensors and JSON-able data, slices included.

    Returns:
        For group i of units, the positions of its units along each parameter, (size, columns)
        int32, as "i/producers/j", "i/followers/j" and "i/listeners/j"; and one entry for each
        group.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, [_entry(group, i, tensors, places=True) for i, group in enumerate(groups)]


def unpack_groups(tensors: Mapping[str, Tensor], entries: Any) -> list[Group]:
    """Return the groups that `pack_groups` was given.

    Raises:
        FileError: `tensors` and `entries` are not what `pack_groups` returns.
    """
    try:
        if any(entry["kind"] in KINDS and "places" not in entry for entry in entries):
            raise ValueError("a group of units has no places")
        return [_group(entry, i, tensors) for i, entry in enumerate(entries)]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FileError(
            f"groups are stored with the slices of their units; these are damaged: {error}"
        ) from error


def unpack(tensors: Mapping[str, Tensor], entries: Any, most: int | None = None) -> Mask:
    """Return the mask that `pack` was given.

    Args:
        tensors: the first value that `pack` returned.
        entries: the second.
        most: how many members all groups may have together. More are refused before memory is
            allocated for them.

    Raises:
        FileError: `tensors` and `entries` are not what `pack` returns.
    """
    try:
        groups = [_group(entry, i, tensors) for i, entry in enumerate(entries)]
        total = sum(group.size for group in groups)
        if most is not None and total > most:
            raise ValueError(f"its groups have {total} members where {most} are possible")
        dead = {g: _dead(g, entries[i], tensors.get(f"{i}/alive")) for i, g in enumerate(groups)}
        return Mask.full(groups).without(dead)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise FileError(
            f"a mask is stored as groups and their dead members; this one is damaged: {error}. "
            "Save it again from the network it belongs to."
        ) from error


def _entry(group: Group, i: int, tensors: dict[str, Tensor], *, places: bool) -> dict[str, Any]:
    """Describe group i as JSON-able data; its slices, if asked for, go into `tensors`."""
    entry = {"kind": group.kind, "name": group.name, "size": group.size}
    if isinstance(group, Synapses):
        entry |= {"parameter": group.parameter, "shape": list(group.shape)}
    elif isinstance(group, Branches):
        entry["branches"] = [asdict(branch) for branch in group.branches]
    elif places:
        entry["places"] = {role: _places(group, role, i, tensors) for role in _ROLES}
    return entry


def _places(group: Neurons, role: str, i: int, tensors: dict[str, Tensor]) -> list[list[Any]]:
    parts: tuple[Listener, ...] = getattr(group, role)
    for j, part in enumerate(parts):
        tensors[f"{i}/{role}/{j}"] = part.index.int()
    return [[part.layer, part.parameter, part.dim] for part in parts]


def _group(entry: dict[str, Any], i: int, tensors: Mapping[str, Tensor]) -> Group:
    name, size = _word(entry["name"]), _count(entry["size"])
    if entry["kind"] == "synapse":
        shape = tuple(_count(length) for length in entry["shape"])
        if math.prod(shape) != size:
            raise ValueError(f"{size} synapses do not fill shape {shape}")
        return Synapses(name, size, _word(entry["parameter"]), shape)
    if entry["kind"] == BRANCH:
        return _branches(name, size, entry["branches"])
    if entry["kind"] not in KINDS:
        raise ValueError(f"{entry['kind']!r} is no kind of group")
    places = entry.get("places", dict.fromkeys(_ROLES, ()))
    parts = {
        role: tuple(
            _part(where, tensors[f"{i}/{role}/{j}"], size) for j, where in enumerate(places[role])
        )
        for role in _ROLES
    }
    return Neurons(name, entry["kind"], size, **parts)


def _branches(name: str, size: int, stored: Any) -> Branches:
    if len(stored) != size:
        raise ValueError(f"{len(stored)} branches are described where {size} are counted")
    return Branches(name, size, tuple(map(_branch, stored)))


def _branch(stored: Any) -> Branch:
    zeros = {_word(path): form for path, form in stored["zeros"].items()}
    for form in zeros.values():
        check_form(form)
    parameters, gates = (tuple(map(_word, stored[key])) for key in ("parameters", "gates"))
    return Branch(_word(stored["name"]), parameters, gates, zeros)


def _dead(group: Group, entry: dict[str, Any], packed: Tensor | None) -> Tensor:
    if packed is None:
        if entry["alive"] != group.size:
            raise ValueError(f"the dead members of {group.kind} group {group.name!r} are missing")
        return torch.empty(0, dtype=torch.int64)
    if packed.dtype != torch.uint8 or packed.shape != (-(-group.size // 8),):
        raise ValueError(f"{group.size} members need as many bits; got shape {tuple(packed.shape)}")
    alive = numpy.unpackbits(packed.numpy(), count=group.size)
    if alive.sum() != entry["alive"]:
        raise ValueError(f"{entry['alive']} of {group.name!r} should be alive; {alive.sum()} are")
    return torch.from_numpy(numpy.flatnonzero(alive == 0))


def _part(where: Any, index: Tensor, size: int) -> Listener:
    layer, parameter, dim = where
    if index.dtype != torch.int32 or index.ndim != 2 or len(index) != size:
        raise ValueError(f"places of {size} units cannot have shape {tuple(index.shape)}")
    if index.numel() and int(index.min()) < 0:
        raise ValueError("places are counted from 0")
    return Listener(_word(layer), _word(parameter), _count(dim), index.long())


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value
