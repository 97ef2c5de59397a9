"""Find and change integer attributes of modules that hold a size which a cut changes.

Where `forward` reads an integer of its module (`self.num_heads`, `self.inner`), the cut network
fails until that integer is changed too. Candidates are tried until the certificate passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from torch import nn

from sentei.network.mask import Mask
from sentei.network.units import Neurons

ATTEMPTS = 64  # how many patches are tried before a cut is refused

Patch = tuple[tuple[str, str, int], ...]


def candidate_patches(model: nn.Module, mask: Mask) -> Iterator[Patch]:
    """Yield sets of new values for integer attributes that equal a size before the cut.

    The first set changes all of them; then come sets of one, of two, and so on, up to
    `ATTEMPTS` sets.
    """
    changed = _new_sizes(model, mask)
    found = [
        (path, attribute, changed[value])
        for path, module in model.named_modules()
        if _may_hold_sizes(path, module, mask)
        for attribute, value in vars(module).items()
        if type(value) is int and value in changed
    ]
    tried = 0
    for size in (len(found), *range(1, len(found))):
        for patch in combinations(found, size):
            if tried == ATTEMPTS or not patch:
                return
            tried += 1
            yield patch


def _may_hold_sizes(path: str, module: nn.Module, mask: Mask) -> bool:
    """Return whether a module may hold sizes: user code around a cut, or a weightless GroupNorm."""
    if isinstance(module, nn.GroupNorm):
        return module.weight is None
    if type(module).__module__.startswith("torch.nn"):
        return False
    return any(layer.startswith(f"{path}.") or not path for layer in mask.touched)


def _new_sizes(model: nn.Module, mask: Mask) -> dict[int, int]:
    """Map each size before the cut to the size after it."""
    sizes: dict[int, int] = {}
    for (name, dim), removed in mask.gone.items():
        old = _size(model, name, dim)
        sizes[old] = old - removed.numel()
    for group in mask.groups:
        if isinstance(group, Neurons) and mask.count(group) < group.size:
            sizes[group.size] = mask.count(group)
    return sizes


def copy_sizes_(model: nn.Module, proof: nn.Module) -> None:
    """Copy every integer attribute from the certified copy `proof` to `model`, module by module."""
    own = dict(model.named_modules())
    for path, module in proof.named_modules():
        for attribute, value in vars(module).items():
            if type(value) is int and type(getattr(own.get(path), attribute, None)) is int:
                setattr(own[path], attribute, value)


def _size(model: nn.Module, name: str, dim: int) -> int:
    layer, _, short = name.rpartition(".")
    return getattr(model.get_submodule(layer), short).shape[dim]
