"""Find and change integer attributes that hold a size which a cut changes.

Where `forward` reads an integer of its module (`self.num_heads`, `self.inner`) or of a
configuration (`self.config.num_heads`), the cut network fails until that integer is changed too.
Only attributes that are read while the network runs are candidates; those nearest to the cut layers
are tried first, and few at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, combinations, islice
from typing import Any

from torch import nn

from sentei.network.example import undisturbed
from sentei.network.holders import holders, integers, is_foreign
from sentei.network.mask import Mask
from sentei.network.units import Listener, Neurons
from sentei.running import Example
from sentei.running import run as run_model

ATTEMPTS = 64  # how many patches are tried for one group before its cut is refused
ATTEMPTS_TOGETHER = 16  # and for several groups at once, which may be tried one by one later

Patch = tuple[tuple[str, str, int], ...]  # path of the holder, attribute, new value
Attributes = Callable[[], set[tuple[str, str]]]
_SHARED = 1000  # the distance of a configuration, which is farther away than every module


def patches(model: nn.Module, mask: Mask, read: Attributes) -> Iterator[Patch]:
    """Yield sets of new values for integers that equal a size before the cut.

    First none, then one at a time, the nearest to the cut layers first; then two, and so on. Where
    several groups are cut, an attribute changes in all layers of one class together.

    Args:
        model: before the cut.
        mask: of the cut.
        read: returns (path of the holder, attribute) of the attributes that may be changed.
    """
    yield ()
    cut = _cut(mask)
    together = len(cut) > 1
    changes: dict[tuple, list[Patch]] = defaultdict(list)
    for path, holder in holders(model).items():
        if _may_hold_sizes(path, holder, mask):
            around = _around(cut, path)
            own, multiples = _new_sizes(model, mask, around), _new_multiples(mask, around)
            for change in _changes(path, holder, {**multiples, **own}, read()):
                _, attribute, _ = change[0]
                is_own = integers(holder)[attribute] in own
                alike = type(holder) if together else path
                changes[_distance(path, mask), not is_own, alike, attribute].append(change)
    nearest = [tuple(chain(*changes[key])) for key in sorted(changes, key=lambda key: key[:2])]
    sets = (
        tuple(chain(*chosen))
        for count in range(1, len(nearest) + 1)
        for chosen in combinations(nearest, count)
    )
    yield from islice(sets, (ATTEMPTS_TOGETHER if together else ATTEMPTS) - 1)


def _changes(
    path: str, holder: Any, new: Mapping[int, int], read: set[tuple[str, str]]
) -> Iterator[Patch]:
    """Yield the changes that one object may need, each by itself."""
    sizes = {name: new[value] for name, value in integers(holder).items() if value in new}
    if isinstance(holder, nn.GroupNorm):  # its two counts belong together; it reads one of them
        if sizes:
            yield tuple((path, attribute, size) for attribute, size in sizes.items())
        return
    for attribute, size in sizes.items():
        if (path, attribute) in read:
            yield ((path, attribute, size),)


def _may_hold_sizes(path: str, holder: Any, mask: Mask) -> bool:
    """Return whether an object may hold sizes that a cut changes.

    It is user code around the cut, a configuration, or a group norm without weights.
    """
    if isinstance(holder, nn.GroupNorm):
        return holder.weight is None
    if not is_foreign(holder) or type(holder).__module__.startswith("sentei."):
        return False  # their sizes follow their tensors
    is_module = isinstance(holder, nn.Module)
    return not is_module or any(_is_inside(layer, path) for layer in mask.touched)


def _is_inside(layer: str, path: str) -> bool:
    return not path or layer == path or layer.startswith(f"{path}.")


def _distance(path: str, mask: Mask) -> int:
    """Return how many modules lie between an object and the nearest cut layer inside it."""
    if ":" in path:
        return _SHARED
    depth = path.count(".") + 1 if path else 0
    inside = [layer for layer in mask.touched if _is_inside(layer, path)]
    return min((layer.count(".") + 1 - depth for layer in inside), default=0)


def _around(cut: Sequence[Neurons], path: str) -> Sequence[Neurons]:
    """Return the groups whose sizes an object may hold: those with layers inside it, if any."""
    if ":" in path:
        return cut
    inside = [g for g in cut if any(_is_inside(part.layer, path) for part in _parts(g))]
    return inside or cut


def _new_sizes(model: nn.Module, mask: Mask, cut: Sequence[Neurons]) -> dict[int, int]:
    """Map each size before the cut to the size after it.

    A size that is not the same for all groups afterwards is left out.
    """
    sizes: dict[int, set[int]] = defaultdict(set)
    for group in cut:
        own: dict[int, int] = {}
        for part in _parts(group):
            layer, _, short = part.parameter.rpartition(".")
            old = getattr(model.get_submodule(layer), short).shape[part.dim]
            own[old] = old - mask.gone[part.parameter, part.dim].numel()
        own[group.size] = mask.count(group)
        for old, new in own.items():
            sizes[old].add(new)
    return {old: new.pop() for old, new in sizes.items() if len(new) == 1}


def _new_multiples(mask: Mask, cut: Sequence[Neurons]) -> dict[int, int]:
    """Map whole multiples of unit counts to those after the cut, such as query heads of key heads.

    Each unit has as many of the counted things, at most as many as it has rows or columns.
    """
    return {
        group.size * each: mask.count(group) * each
        for group in cut
        for part in (*group.producers, *group.listeners)
        for each in range(1, part.index.shape[1] + 1)
        if part.index.shape[1] % each == 0
    }


def _cut(mask: Mask) -> list[Neurons]:
    groups = (group for group in mask.groups if isinstance(group, Neurons))
    return [group for group in groups if mask.count(group) < group.size]


def _parts(group: Neurons) -> tuple[Listener, ...]:
    return (*group.producers, *group.followers, *group.listeners)


def apply_patch_(model: nn.Module, patch: Patch) -> nn.Module:
    """Set the attributes of a patch and return the network."""
    at = holders(model)
    for path, attribute, value in patch:
        if path in at:  # else it belongs to a branch that has been removed
            setattr(at[path], attribute, value)
    return model


def copy_sizes_(model: nn.Module, proof: nn.Module) -> None:
    """Copy every integer attribute from the certified copy `proof` to `model`, one by one."""
    own = holders(model)
    for path, holder in holders(proof).items():
        for attribute, value in integers(holder).items():
            if path in own and integers(own[path]).get(attribute, value) != value:
                setattr(own[path], attribute, value)


def attributes_read(model: nn.Module, example: Example) -> set[tuple[str, str]]:
    """Run a network in evaluation and training mode; return the integer attributes that it reads.

    Returns:
        (path of the holder, attribute) pairs; all integer attributes if the network cannot be
        watched.
    """
    found = holders(model)
    every = {(path, name) for path, holder in found.items() for name in integers(holder)}
    read: set[tuple[str, str]] = set()
    try:
        with undisturbed(model), _watched(found, read):
            for training in (False, True):
                model.train(training)
                run_model(model, example)
    except Exception:  # it cannot run in training mode, or not with other classes
        return every
    return read & every


@contextmanager
def _watched(found: Mapping[str, Any], read: set[tuple[str, str]]) -> Iterator[None]:
    """Give all holders classes that note in `read` which attributes are read."""
    names = {id(holder): path for path, holder in found.items()}

    def watching(kind: type) -> type:
        def note(self: Any, name: str) -> Any:
            path = names.get(id(self), "")
            read.add((path, name))
            value = super(watcher, self).__getattribute__(name)
            if ":" in path and type(value) is int:  # a configuration may have several names for one
                read.update((path, other) for other in _equal(found[path], value))
            return value

        watcher = type(
            kind.__name__, (kind,), {"__getattribute__": note, "__module__": kind.__module__}
        )
        return watcher

    before = [(holder, type(holder)) for holder in found.values()]
    kinds = {kind: watching(kind) for kind in {kind for _, kind in before}}
    try:
        for holder, kind in before:
            object.__setattr__(holder, "__class__", kinds[kind])
        yield
    finally:
        for holder, kind in before:
            object.__setattr__(holder, "__class__", kind)


def _equal(holder: Any, value: int) -> list[str]:
    """Return the names of the attributes of an object that hold a number."""
    held: dict[str, Any] = object.__getattribute__(holder, "__dict__")
    return [name for name, other in held.items() if type(other) is int and other == value]
