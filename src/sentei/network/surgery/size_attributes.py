"""Find and change integer attributes of modules that hold a size which a cut changes.

Where `forward` reads an integer of its module (`self.num_heads`, `self.inner`), the cut network
fails until that integer is changed too. Only attributes that are read while the network runs are
candidates; those nearest to the cut layers are tried first, and few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from torch import nn

from sentei.network.example import Example, undisturbed
from sentei.network.example import run as run_model
from sentei.network.mask import Mask
from sentei.network.units import Neurons

ATTEMPTS = 64  # how many patches are tried for one group before its cut is refused

Patch = tuple[tuple[str, str, int], ...]  # module, attribute, new value


def patches(model: nn.Module, mask: Mask, read: set[tuple[str, str]]) -> Iterator[Patch]:
    """Yield sets of new values for integers that equal a size before the cut, at most `ATTEMPTS`.

    First none, then one at a time, the nearest to the cut layers first; then two, and so on.

    Args:
        model: before the cut.
        mask: of the cut; only one group has dead units.
        read: (module, attribute) of the attributes that may be changed.
    """
    new = _new_sizes(model, mask)
    changes = [
        (_distance(path, mask), change)
        for path, module in model.named_modules()
        if _may_hold_sizes(path, module, mask)
        for change in _changes(path, module, new, read)
    ]
    nearest = [change for _, change in sorted(changes, key=lambda each: each[0])]
    tried = 0
    for count in range(len(nearest) + 1):
        for chosen in combinations(nearest, count):
            if tried == ATTEMPTS:
                return
            tried += 1
            yield tuple(each for change in chosen for each in change)


def _changes(
    path: str, module: nn.Module, new: Mapping[int, int], read: set[tuple[str, str]]
) -> Iterator[Patch]:
    """Yield the changes that one module may need, each by itself."""
    sizes = {
        attribute: new[value]
        for attribute, value in vars(module).items()
        if type(value) is int and value in new
    }
    if isinstance(module, nn.GroupNorm):  # its two counts belong together; it reads one of them
        if sizes:
            yield tuple((path, attribute, size) for attribute, size in sizes.items())
        return
    for attribute, size in sizes.items():
        if (path, attribute) in read:
            yield ((path, attribute, size),)


def _may_hold_sizes(path: str, module: nn.Module, mask: Mask) -> bool:
    """Return whether a module may hold sizes: user code around a cut, or a weightless GroupNorm."""
    if isinstance(module, nn.GroupNorm):
        return module.weight is None
    if type(module).__module__.startswith("torch.nn"):
        return False
    return any(_is_inside(layer, path) for layer in mask.touched)


def _is_inside(layer: str, path: str) -> bool:
    return not path or layer == path or layer.startswith(f"{path}.")


def _distance(path: str, mask: Mask) -> int:
    """Return how many modules lie between a module and the nearest cut layer inside it."""
    depth = path.count(".") + 1 if path else 0
    inside = [layer for layer in mask.touched if _is_inside(layer, path)]
    return min((layer.count(".") + 1 - depth for layer in inside), default=0)


def _new_sizes(model: nn.Module, mask: Mask) -> dict[int, int]:
    """Map each size before the cut to the size after it."""
    sizes: dict[int, int] = {}
    for (name, dim), removed in mask.gone.items():
        layer, _, short = name.rpartition(".")
        old = getattr(model.get_submodule(layer), short).shape[dim]
        sizes[old] = old - removed.numel()
    for group in mask.groups:
        if isinstance(group, Neurons) and mask.count(group) < group.size:
            sizes[group.size] = mask.count(group)
    return sizes


def apply_patch_(model: nn.Module, patch: Patch) -> nn.Module:
    """Set the attributes of a patch and return the network."""
    for path, attribute, value in patch:
        setattr(model.get_submodule(path), attribute, value)
    return model


def copy_sizes_(model: nn.Module, proof: nn.Module) -> None:
    """Copy every integer attribute from the certified copy `proof` to `model`, module by module."""
    own = dict(model.named_modules())
    for path, module in proof.named_modules():
        for attribute, value in vars(module).items():
            if type(value) is int and type(getattr(own.get(path), attribute, None)) is int:
                setattr(own[path], attribute, value)


def attributes_read(model: nn.Module, example: Example) -> set[tuple[str, str]]:
    """Run a network in evaluation and training mode; return the integer attributes that it reads.

    Returns:
        (module, attribute) pairs; all integer attributes if the network cannot be watched.
    """
    names = {id(module): path for path, module in model.named_modules()}
    every = {
        (path, attribute)
        for path, module in model.named_modules()
        for attribute, value in vars(module).items()
        if type(value) is int
    }
    read: set[tuple[str, str]] = set()
    try:
        with undisturbed(model), _watched(model, names, read):
            for training in (False, True):
                model.train(training)
                run_model(model, example)
    except Exception:  # it cannot run in training mode, or not with other classes
        return every
    return read & every


@contextmanager
def _watched(
    model: nn.Module, names: Mapping[int, str], read: set[tuple[str, str]]
) -> Iterator[None]:
    """Give all modules classes that note in `read` which attributes are read."""

    def watching(kind: type) -> type:
        def note(self: Any, name: str) -> Any:
            read.add((names.get(id(self), ""), name))
            return super(watcher, self).__getattribute__(name)

        watcher = type(
            kind.__name__, (kind,), {"__getattribute__": note, "__module__": kind.__module__}
        )
        return watcher

    modules = list(model.modules())
    kinds = {kind: watching(kind) for kind in {type(module) for module in modules}}
    before = [(module, type(module)) for module in modules]
    try:
        for module, kind in before:
            module.__class__ = kinds[kind]
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind
