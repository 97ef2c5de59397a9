"""Weights in safetensors files: read when they are needed, written one block after the other."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sentei import storage
from sentei.errors import FileError
from sentei.network.encoding.packing import INDEX, contents


class WeightFiles:
    """The tensors of safetensors files, which the system reads when their numbers are needed.

    Args:
        path: one file, or a folder of them.

    Raises:
        FileError: there are none, or one is no safetensors file.
    """

    def __init__(self, path: str | Path):
        given = Path(path)
        files = sorted(given.glob("*.safetensors")) if given.is_dir() else [given]
        if not files:
            raise FileError(
                f"weights={path} must hold safetensors files; there is none in this folder"
            )
        try:
            opened = [safe_open(file, framework="pt") for file in files]
        except Exception as error:
            raise FileError(
                f"weights={path} cannot be read as safetensors: {error}. Name a file that "
                "safetensors.torch.save_file wrote, or a folder of them"
            ) from error
        self._of = {name: file for file in opened for name in file.keys()}  # noqa: SIM118

    def load_(self, model: nn.Module, prefix: str = "", without: tuple[str, ...] = ()) -> None:
        """Give a part of a network the tensors of the files.

        Args:
            model: the network.
            prefix: the name of the part; the whole network if empty.
            without: names of parts that get none.

        Raises:
            FileError: tensors are missing from the files, or have other shapes.
        """
        part = model.get_submodule(prefix) if prefix else model
        start = f"{prefix}." if prefix else ""
        left_out = tuple(f"{name}." for name in without)
        names = [n for n in part.state_dict() if not f"{start}{n}".startswith(left_out)]
        # A tied tensor is often stored once, under its first name.
        given = {
            n: self._of[start + n].get_tensor(start + n) for n in names if start + n in self._of
        }
        tied = _tied(part)
        lacking = [n for n in names if n not in given and not tied.get(n, set()) & given.keys()]
        if lacking:
            raise FileError(
                f"the files of weights have to hold every tensor of the network; {lacking[0]!r} of "
                f"{prefix or 'the network'} is missing, with {len(lacking) - 1} others"
            )
        for name, tensor in given.items():
            _put_(part, name, tensor)


def _tied(module: nn.Module) -> dict[str, set[str]]:
    """Return for each name of a shared tensor its other names."""
    names: dict[int, set[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), set()).add(name)
    return {name: others - {name} for others in names.values() for name in others}


def _put_(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of another, under all names that it has in the module."""
    own = module.state_dict(keep_vars=True)[name]
    if own.shape != tensor.shape:
        raise FileError(
            f"a tensor of the files must have the network's shape; {name!r} has "
            f"{tuple(tensor.shape)}, and the network {tuple(own.shape)}"
        )
    new = nn.Parameter(tensor, own.requires_grad) if isinstance(own, nn.Parameter) else tensor
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for key, value in held.items():
                if value is own:
                    held[key] = new  # pyright: ignore[reportArgumentType]


class Shards:
    """A folder of safetensors files that is complete when its index is written.

    Args:
        folder: new or empty.

    Raises:
        FileError: the folder holds something, or cannot be written.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        storage.writable_folder(self._folder)
        if self._folder.exists() and any(self._folder.iterdir()):
            raise FileError(f"out={folder} must be a new or an empty folder; it holds files")
        self._file_of: dict[str, str] = {}

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Write tensors to the next file; one with several names is written once."""
        name = f"model-{len(set(self._file_of.values())) + 1:05}.safetensors"
        names = {id(tensor): name for name, tensor in reversed(tensors.items())}
        data = {n: t.detach().contiguous() for n, t in tensors.items() if names[id(t)] == n}
        storage.write(self._folder / name, save(data, {"format": "pt"}))
        self._file_of |= dict.fromkeys(data, name)

    def finish(self, model: nn.Module) -> None:
        """Write the index: which tensor is in which file, and what a file knows of a network."""
        tensors, about = contents(model)
        size = sum(tensor.nbytes for tensor in tensors.values())
        files = {name: self._file_of[name] for name in tensors}
        index = {"metadata": {"total_size": size, "sentei": about}, "weight_map": files}
        storage.write(self._folder / INDEX, json.dumps(index, indent=1).encode())
