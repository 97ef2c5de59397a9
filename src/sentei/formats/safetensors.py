"""Self-describing safetensors files: weights, architecture and mask in one, without pickle.

Any safetensors reader can open them. The metadata key "sentei" holds JSON: the format's version,
the architecture if it is one of torch's own layers in a row, integers of the user's own modules,
which names share a tensor, and what of the mask is not a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sentei import storage
from sentei.errors import FileError, StructureError
from sentei.formats.rebuilding import fit_to_tensors_
from sentei.network.encoding.architecture import build, tensors_of
from sentei.network.encoding.packing import (
    FORMAT,
    MASK,
    contents,
    layout,
    safetensors_bytes,
    unpack,
)
from sentei.network.encoding.size import skeleton
from sentei.network.mask import Mask

_UNREADABLE = (
    *(OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError),
    *(OverflowError, AttributeError),
)


def save(model: nn.Module, path: str | Path, mask: Mask | None = None) -> None:
    """Write a network to one file, whole or not at all: an old file survives any failure.

    Parameters and persistent buffers are kept in their types, shared ones once. The same network
    gives the same bytes.

    Args:
        model: any; one of torch's own layers in a row can be loaded without its class.
        path: by custom ends in ".safetensors".
        mask: of this network, for synapses that are to stay dead when it is trained on; the mask of
            a shrunk network is `mask.shrunk()`. Nothing is stored of one in which all are alive.

    Raises:
        GroupError: the mask is not the model's.
        FileError: the file cannot be written, or the model holds what such a file cannot.
    """
    if mask is not None:
        mask.check(model)
    _check_plain(model)
    tensors, about = contents(model, mask)
    head, order = layout(tensors, about)
    data = b"".join([head, *(_bytes(tensors[name]) for name in order)])
    planned = safetensors_bytes(tensors, about)
    if len(data) != planned:
        raise FileError(f"{path} would have {len(data)} bytes where {planned} were planned")
    storage.write(path, data)


def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """The network of a file, in evaluation mode, with the types it was saved in.

    Args:
        path: a file that `save` wrote.
        into: a new model of the class that was saved, as large as it was before pruning; it is cut
            to fit and filled. Needed only where the file cannot describe the network by itself.

    Returns:
        `into`, or a new network. What requires no gradient is not recorded: it is as `into` has it.

    Raises:
        FileError: the file is missing, damaged, foreign or newer, or is not of this network; `into`
            is left as it was.
    """
    file = _read(path)
    try:
        if into is None:
            network = _described(file)
        else:
            # First without memory: whatever is wrong shows before `into` is touched.
            meta = {name: torch.empty_like(t, device="meta") for name, t in file.tensors.items()}
            fit_to_tensors_(skeleton(into), meta, file.tied, file.attributes)
            network = into
        return fit_to_tensors_(network, file.tensors, file.tied, file.attributes).eval()
    except StructureError as error:
        raise FileError(f"{path} does not fit: {error}") from error


def load_mask(path: str | Path) -> Mask:
    """The mask in a file; the empty one, in which everything is alive, if it holds none.

    Raises:
        FileError: the file is missing, damaged, foreign or newer.
    """
    return _read(path).mask()


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        bytes: size of the file.
        format: version of the file format.
        written_by: version of sentei that wrote it.
        architecture: the network in torch's words; None if it is of a class of its own.
        tensors: shapes by name, shared ones once.
        entries: numbers in them all.
        mask: what is dead in it.
    """

    bytes: int
    format: int
    written_by: str
    architecture: str | None
    tensors: Mapping[str, tuple[int, ...]]
    entries: int
    mask: Mask


def inspect(path: str | Path) -> Contents:
    """What a file holds, without running anything.

    Raises:
        FileError: the file is missing, damaged, foreign or newer.
    """
    file = _read(path)
    try:
        network = None if file.architecture is None else str(build(file.architecture))
    except StructureError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    return Contents(
        bytes=Path(path).stat().st_size,
        format=file.format,
        written_by=file.written_by,
        architecture=network,
        tensors={name: tuple(tensor.shape) for name, tensor in file.tensors.items()},
        entries=sum(tensor.numel() for tensor in file.tensors.values()),
        mask=file.mask(),
    )


@dataclass(frozen=True)
class _File:
    """What was read, its parts of the right types but not yet compared with each other."""

    path: Path
    tensors: dict[str, Tensor]
    mask_tensors: dict[str, Tensor]
    format: int
    written_by: str
    architecture: dict[str, Any] | None
    attributes: dict[str, dict[str, int]]
    tied: dict[str, str]
    mask_entries: list[Any]

    def mask(self) -> Mask:
        # Each entry of a tensor is in at most a few groups: its row, its column, its synapse.
        most = 4 * sum(tensor.numel() for tensor in self.tensors.values())
        try:
            return unpack(self.mask_tensors, self.mask_entries, most)
        except FileError as error:
            raise FileError(f"{self.path}: {error}") from error


def _read(path: str | Path) -> _File:
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            card = _card(path, file.metadata() or {})
            # Clones: the library's tensors are windows into the file, and change with it.
            held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise FileError(
            f"{path} cannot be read as a safetensors file: {error}. If it is there it is "
            "truncated or damaged; save it again."
        ) from error
    own = {name: tensor for name, tensor in held.items() if not name.startswith(MASK)}
    packed = {name.removeprefix(MASK): t for name, t in held.items() if name.startswith(MASK)}
    tied = _typed(path, card, "tied", dict, lambda v: isinstance(v, str) and v in own)
    if own.keys() & tied.keys():
        raise FileError(f"{path} is damaged: it holds {sorted(own.keys() & tied.keys())[0]} twice")
    return _File(
        path=path,
        tensors=own,
        mask_tensors=packed,
        format=card["format"],
        written_by=str(card.get("sentei")),
        architecture=card.get("architecture"),
        attributes=_typed(path, card, "attributes", dict, _is_integers),
        tied=tied,
        mask_entries=_typed(path, card, "mask", list, lambda entry: isinstance(entry, dict)),
    )


def _card(path: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """The JSON in the metadata, of a version that this sentei can read."""
    if "sentei" not in about:
        raise FileError(
            f"{path} is a safetensors file, but sentei did not write it: it says nothing of the "
            "network. Load its tensors into your model, then use sentei.save."
        )
    try:
        card = json.loads(about["sentei"])
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: {error}. Save it again.") from error
    format = card.get("format") if isinstance(card, dict) else None
    if type(format) is not int or format < 1:
        raise FileError(f"{path} is damaged: its format is {format!r}. Save it again.")
    if format > FORMAT:
        raise FileError(
            f"{path} has format {format}, and this sentei reads formats up to {FORMAT}; "
            "install a newer sentei"
        )
    return card


def _typed(
    path: Path, card: Mapping[str, Any], key: str, kind: type, fits: Callable[[Any], bool]
) -> Any:
    value = card.get(key, kind())
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, kind) or not all(fits(item) for item in items):
        raise FileError(f"{path} is damaged: {key!r} in its metadata is no {kind.__name__}")
    return value


def _is_integers(values: Any) -> bool:
    return isinstance(values, dict) and all(type(value) is int for value in values.values())


def _described(file: _File) -> nn.Module:
    """The network that the file describes, on the meta device, of the shapes that it holds."""
    if file.architecture is None:
        raise StructureError(
            "it holds a network that is not torch's own layers in a row, and cannot build it; "
            "pass a new model of its class as load(path, into=model)"
        )
    network = build(file.architecture)
    for name, tensor in tensors_of(network).items():
        held = file.tensors.get(file.tied.get(name, name))
        if held is None or held.shape != tensor.shape:
            found = "missing" if held is None else f"of shape {tuple(held.shape)}"
            raise StructureError(
                f"tensor {name!r} should have shape {tuple(tensor.shape)} and is {found}: the file "
                "is damaged; save it again"
            )
    return network


def _check_plain(model: nn.Module) -> None:
    """Refuse state that is not in tensors, which would be lost."""
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise FileError(
                f"a file holds parameters and buffers; module {path!r} has extra state of its own. "
                "Register it as buffers."
            )


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
