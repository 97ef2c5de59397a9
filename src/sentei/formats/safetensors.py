"""Save and load weights, architecture and mask in one safetensors file, without pickle.

Any safetensors reader can open these files. The metadata key "sentei" holds JSON: the version of
the format, the architecture if the network is nn.Sequential of torch's own layers, integer
attributes of the user's own modules, which names share a tensor, the network's `Card`, and the
parts of the mask that are not tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sentei import storage
from sentei.arguments import checked
from sentei.card import Card, set_card_
from sentei.errors import FileError, GroupError, StructureError
from sentei.formats.rebuilding import fit_to_tensors_
from sentei.network.belonging import check_tensors
from sentei.network.encoding.architecture import build, tensors_of
from sentei.network.encoding.carrying import carried
from sentei.network.encoding.packing import (
    FORMAT,
    INDEX,
    MASK,
    contents,
    layout,
    safetensors_bytes,
    unpack,
)
from sentei.network.encoding.size import skeleton
from sentei.network.mask import Mask
from sentei.network.zeros import Form, check_form

_UNREADABLE = (
    *(OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError),
    *(OverflowError, AttributeError),
)


@checked
def save(model: nn.Module, path: str | Path, mask: Mask | None = None) -> None:
    """Write a network to one file atomically: on any failure an old file stays as it was.

    Parameters and persistent buffers keep their dtypes; shared ones are stored once. The same
    network gives the same bytes. The network's `Card` (`sentei.set_card_`) is stored and loaded.

    Args:
        model: any network whose classes say what it computes; `torch.compile` and `DataParallel`
            around it are left out. nn.Sequential of torch's own layers can be loaded without its
            class.
        path: usually ends in ".safetensors".
        mask: of this network, for synapses that must stay dead in further training; the mask of a
            shrunk network is `mask.shrunk()`. A mask in which everything is alive is not stored.

    Raises:
        GroupError: the mask is not the model's.
        FileError: the file cannot be written, or the network has what a file cannot carry, such as
            hooks, quantised layers or parametrizations; it is named, with the remedy.
    """
    storage.writable(path)
    model = carried(model)
    if mask is not None:
        mask.check(model)
    tensors, about = contents(model, mask)
    head, order = layout(tensors, about)
    data = b"".join([head, *(_bytes(tensors[name]) for name in order)])
    planned = safetensors_bytes(tensors, about)
    if len(data) != planned:
        raise FileError(f"{path} would have {len(data)} bytes; {planned} were planned")
    storage.write(path, data)


@checked
def load(path: str | Path, into: nn.Module | None = None) -> nn.Module:
    """Load the network of a file, in evaluation mode, with the dtypes it was saved in.

    Args:
        path: a file that `save` wrote, or a folder that `each_block` wrote.
        into: a new model of the class that was saved, as large as before pruning; it is cut to the
            shapes in the file and filled. Needed only if the file does not describe the network.

    Returns:
        `into`, or a new network. The file does not store `requires_grad`; it stays as in `into`.

    Raises:
        FileError: the file is missing, damaged, not sentei's, too new or of another network;
            `into` stays as it was.
    """
    bare = None if into is None else carried(into, reading=True)
    file = _read(path)
    try:
        if bare is not None:
            # Try on the meta device first: an error is raised before `into` changes.
            meta = {name: torch.empty_like(t, device="meta") for name, t in file.tensors.items()}
            outline = skeleton(bare).to("meta")  # also the few tensors that keep values in one
            fit_to_tensors_(outline, meta, file.tied, file.attributes, file.zeros)
        network = _described(file) if bare is None else bare
        filled = fit_to_tensors_(network, file.tensors, file.tied, file.attributes, file.zeros)
        if file.card != Card():
            set_card_(filled, file.card)
        return (into if into is not None and filled is bare else filled).eval()
    except StructureError as error:
        raise FileError(f"{path} does not fit: {error}") from error


@checked
def load_mask(path: str | Path) -> Mask:
    """Load the mask of a file; an empty mask, without groups, if the file holds none.

    Raises:
        FileError: the file is missing, damaged, not sentei's or of a newer version.
    """
    return _read(path).mask()


@dataclass(frozen=True)
class Contents:
    """The contents of a file: sizes, versions, architecture, tensor shapes and mask.

    Attributes:
        bytes: size of the file.
        format: version of the file format.
        written_by: version of sentei that wrote it.
        architecture: the network as torch prints it; None if the file does not describe it.
        tensors: shapes by name, shared ones once.
        entries: number of entries in all tensors.
        mask: what is alive and dead in the network.
        card: what the network predicts.
    """

    bytes: int
    format: int
    written_by: str
    architecture: str | None
    tensors: Mapping[str, tuple[int, ...]]
    entries: int
    mask: Mask
    card: Card


@checked
def inspect(path: str | Path) -> Contents:
    """Return the contents of a file without running anything from it.

    Raises:
        FileError: the file is missing, damaged, not sentei's or of a newer version.
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
        card=file.card,
    )


@dataclass(frozen=True)
class _File:
    """The parts of a file: their types are checked, their agreement with each other is not."""

    path: Path
    tensors: dict[str, Tensor]
    mask_tensors: dict[str, Tensor]
    format: int
    written_by: str
    architecture: dict[str, Any] | None
    attributes: dict[str, dict[str, int]]
    zeros: dict[str, Form]
    tied: dict[str, str]
    mask_entries: list[Any]
    card: Card

    def mask(self) -> Mask:
        """Unpack the mask; refuse one that is not of the tensors in the file."""
        # Each tensor entry is in a few groups at most: those of its row, its column, its synapse.
        most = 4 * sum(tensor.numel() for tensor in self.tensors.values())
        try:
            mask = unpack(self.mask_tensors, self.mask_entries, most)
            check_tensors(self.named(), mask.groups)
        except (FileError, GroupError) as error:
            raise FileError(f"{self.path} is damaged: {error}") from error
        return mask

    def named(self) -> dict[str, Tensor]:
        """Return the network's tensors by name; shared ones appear under each name."""
        shared = {name: self.tensors[first] for name, first in self.tied.items()}
        return {**self.tensors, **shared}


def _read(path: str | Path) -> _File:
    """Read a file and check the types of its metadata."""
    path = Path(path)
    try:
        about, stored = _stored_in_folder(path) if path.is_dir() else _stored(path)
        card = _card(path, about)
    except _UNREADABLE as error:
        raise FileError(
            f"{path} cannot be read as a safetensors file: {error}. If it exists, it is truncated "
            "or damaged; save it again."
        ) from error
    own = {name: tensor for name, tensor in stored.items() if not name.startswith(MASK)}
    packed = {name.removeprefix(MASK): t for name, t in stored.items() if name.startswith(MASK)}
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
        attributes=_typed(path, card, "attributes", dict, _is_numbers),
        zeros=_typed(path, card, "zeros", dict, _is_form),
        tied=tied,
        mask_entries=_typed(path, card, "mask", list, lambda entry: isinstance(entry, dict)),
        card=_known(path, card),
    )


def _stored(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file."""
    with safe_open(path, "pt") as file:
        # Clone, because the library maps tensors from the file, and they change with it.
        return file.metadata() or {}, {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118


def _stored_in_folder(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a folder of files with an index."""
    index = json.loads((path / INDEX).read_text())
    files = {name: _stored(path / name)[1] for name in {*index["weight_map"].values()}}
    return index["metadata"], {n: files[file][n] for n, file in index["weight_map"].items()}


def _card(path: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """Parse the JSON in the metadata; check that this version of sentei can read the format."""
    if "sentei" not in about:
        raise FileError(
            f"{path} is a safetensors file, but sentei did not write it: its metadata has no key "
            "'sentei'. Load its tensors into your model, then use sentei.save."
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
    """Return a value of the metadata; raise FileError unless it is a `kind` whose items fit."""
    value = card.get(key, kind())
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, kind) or not all(fits(item) for item in items):
        raise FileError(
            f"{path} is damaged: {key!r} in its metadata is no valid {kind.__name__}. Save it "
            "again."
        )
    return value


def _known(path: Path, card: Mapping[str, Any]) -> Card:
    """Return what the metadata says the network predicts."""
    try:
        return Card.from_data(card.get("card", {}))
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}. Save it again.") from error


def _is_numbers(values: Any) -> bool:
    numbers = values.values() if isinstance(values, dict) else [None]
    return all(type(n) is int or (type(n) is float and math.isfinite(n)) for n in numbers)


def _is_form(form: Any) -> bool:
    try:
        check_form(form)
    except ValueError:
        return False
    return form is not None


def _described(file: _File) -> nn.Module:
    """Build the network that the file describes on the meta device; check its tensor shapes."""
    if file.architecture is None:
        raise StructureError(
            "the file does not describe its network, which is not nn.Sequential of torch's own "
            "layers; pass a new model of its class as load(path, into=model)"
        )
    network = build(file.architecture)
    for name, tensor in tensors_of(network).items():
        stored = file.tensors.get(file.tied.get(name, name))
        if stored is None or stored.shape != tensor.shape:
            found = "missing" if stored is None else f"of shape {tuple(stored.shape)}"
            raise StructureError(
                f"tensor {name!r} should have shape {tuple(tensor.shape)} and is {found}: the file "
                "is damaged; save it again"
            )
    return network


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
