"""Find a configuration whose network has the sizes of a cut one, by trying its numbers.

Nothing is known of any architecture. The network of a configuration is built without memory, and
its outline is compared with that of the cut network: a number of the configuration that explains a
size before the cut is replaced by one that explains the size after it, and stays replaced if fewer
sizes differ than before.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

from sentei.errors import StructureError
from sentei.integrations.outlines import Outline, differing, distance

ATTEMPTS = 512  # how many networks are built
SHOWN = 3  # largest number of tensors in a message

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")  # the place in a list, in the name of a tensor

Path = tuple[str | int, ...]  # an attribute of a configuration; then attributes or places in it
Change = tuple[tuple[Path, Any], ...]
Build = Callable[[Any], Outline]


@dataclass(frozen=True)
class Fit:
    """A configuration, and how near its network comes to a cut one.

    Attributes:
        config: the configuration.
        outline: of its network.
        wanted: of the cut network.
        changes: that were made to the configuration from before the cut, in their order.
    """

    config: Any
    outline: Outline
    wanted: Outline
    changes: tuple[Change, ...] = ()

    @property
    def distance(self) -> int:
        """How far the network of the configuration is from the cut one; 0 if nothing differs."""
        return distance(self.outline, self.wanted)

    @property
    def unlike(self) -> list[str]:
        """Names of tensors that are missing, too many or of another shape."""
        now, wanted = self.outline.shapes, self.wanted.shapes
        return [n for n in dict.fromkeys((*wanted, *now)) if now.get(n) != wanted.get(n)]

    @property
    def changed(self) -> dict[str, Any]:
        """The numbers that were changed, by name."""
        return {".".join(map(str, path)): value for each in self.changes for path, value in each}


def fits(config: Any, built: Build, wanted: Outline) -> Iterator[Fit]:
    """Yield configurations whose network has the wanted sizes, the likeliest first.

    There may be several, such as fewer heads or smaller ones, of which one is right. If there is
    none, the nearest configuration is yielded alone.

    Args:
        config: of the network before the cut; it is not changed.
        built: returns the outline of a configuration's network; may raise anything.
        wanted: of the cut network.
    """
    found: list[Fit] = []
    for fit in _walks(Fit(config, built(copy.deepcopy(config)), wanted), _limited(built)):
        found.append(fit)
        if not fit.distance:
            yield fit
    found.sort(key=lambda fit: fit.distance)
    if found[0].distance:
        yield from [fit for fit in found if not fit.unlike] or found[:1]


def _limited(built: Build) -> Build:
    left = iter(range(ATTEMPTS))

    def build(config: Any) -> Outline:
        if next(left, None) is None:
            raise StructureError("so many configurations are not tried")
        return built(config)

    return build


def _walks(start: Fit, built: Build) -> Iterator[Fit]:
    """Yield where the search ends: by itself, without one of its changes, and two at a time."""
    first = _walk(start, built)
    yield first
    if _uneven(first):
        return
    for change in reversed(first.changes):
        yield _walk(start, built, banned=[change])
    stated = _stated(start, built)
    if stated and (explicit := _changed(start, stated, built)) is not None:
        again = _walk(explicit, built)
        yield again
        for change in reversed(again.changes[1:]):
            yield _walk(explicit, built, banned=[change])
    yield _walk(first, built, together=True)


def _walk(fit: Fit, built: Build, banned: Sequence[Change] = (), *, together: bool = False) -> Fit:
    """Change a configuration until its network has the wanted sizes, or nothing helps."""
    while fit.distance and (better := _step(fit, built, banned, together)):
        fit = better
    return fit


def _step(fit: Fit, built: Build, banned: Sequence[Change], together: bool) -> Fit | None:
    """Return the best change of the first kind of which any helps, or of two `together`."""
    undecided: list[Change] = []
    for changes in _kinds_of_changes(fit):
        better, same = _best(fit, built, (each for each in changes if each not in banned))
        if better is not None:
            return better
        undecided += same
    pairs = ((*a, *b) for a, b in combinations(undecided, 2) if _apart(a, b))
    return _best(fit, built, islice(pairs, ATTEMPTS))[0] if together else None


def _best(fit: Fit, built: Build, changes: Iterable[Change]) -> tuple[Fit | None, list[Change]]:
    """Return the nearest of some changes if one helps, and those that are refused or idle."""
    best, same = fit, []
    for change in changes:
        made = _changed(fit, change, built)
        if made is None or made.distance == fit.distance:
            same.append(change)
        elif made.distance < best.distance:
            best = made
    return (None if best is fit else best), same


def _changed(fit: Fit, change: Change, built: Build) -> Fit | None:
    """Return the fit with one change more; None if such a network is refused."""
    config = copy.deepcopy(fit.config)
    try:
        for path, value in change:
            _set_(config, path, value)
        return Fit(config, built(config), fit.wanted, (*fit.changes, change))
    except Exception:  # a constructor may refuse what it is given with any error
        return None


# Changes.


def _kinds_of_changes(fit: Fit) -> Iterator[list[Change]]:
    """Yield changes that may explain what differs, the most likely kinds first."""
    config, now, wanted = fit.config, fit.outline, fit.wanted
    numbers = list(_entries(config))
    sizes, attributes = differing(now, wanted)
    counts = [
        (len(now.kept[prefix]), found)
        for prefix, found in wanted.kept.items()
        if len(now.kept.get(prefix, found)) > len(found)
    ]
    yield _once(
        ((path, len(found)), *_shortened(config, old, found))
        for old, found in counts
        for path, value in numbers
        if type(value) is int and value == old
    )
    yield _once(
        ((path, new),)
        for old, new in (*sizes, *attributes)
        for path, value in numbers
        if type(value) is type(old) and value == old
    )
    yield _once(
        ((path, value * new // old),)
        for old, new in sizes
        for path, value in numbers
        if type(value) is int
        and value not in (0, old)
        and 0 in (old % value, value % old)
        and value * new % old == 0
        and value * new
    )
    derived = {
        new // v for _, new in sizes for _, v in numbers if type(v) is int and v and not new % v
    }
    yield _once(
        ((path, new),)
        for new in dict.fromkeys((*(new for _, new in sizes), *sorted(derived)))
        for path, value in numbers
        if value is None
    )


def _once(changes: Iterator[Change]) -> list[Change]:
    return list({repr(change): change for change in changes}.values())


def _shortened(config: Any, old: int, kept: Sequence[int]) -> Change:
    """Return the change that removes the entries of removed blocks from lists with one for each."""
    return tuple(
        ((name,), type(value)(value[place] for place in kept))
        for name, value in vars(config).items()
        if isinstance(value, (list, tuple)) and len(value) == old > max(kept, default=0)
    )


def _stated(start: Fit, built: Build) -> Change:
    """Return the numbers that a network derives, as changes that state them.

    A constructor may compute a number from others where the configuration has none, such as the
    size of a head from the width and the number of heads, so that these cannot change alone.
    """
    entries = list(_entries(start.config))
    values = [value for _, value in entries if type(value) is int and value > 1]
    sizes = {old for old, _ in differing(start.outline, start.wanted)[0]}
    derived = list(dict.fromkeys(s // v for s in sizes for v in values if s % v == 0 and s > v))
    found: list[tuple[Path, Any]] = []
    for path in (*_absent(start.config, built), *(p for p, value in entries if value is None)):
        same = []
        for place, value in enumerate(derived):
            made = _changed(start, ((path, value),), built)
            if made is not None and made.outline == start.outline:
                same.append(value)
            if place == 1 and len(same) == 2:
                break  # no size follows from it
        if len(same) == 1:
            found.append((path, same[0]))
    return tuple(found)


def _absent(config: Any, built: Build) -> list[Path]:
    """Return the attributes that a network's constructor asks for and its configuration lacks."""
    asked: dict[Path, None] = {}

    class Watched(type(config)):
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("_"):
                asked[name,] = None
            raise AttributeError(name)

    watched = copy.deepcopy(config)
    try:
        object.__setattr__(watched, "__class__", Watched)
        built(watched)
    except Exception:  # a class that cannot be extended so
        return []
    return list(asked)


def _entries(config: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the numbers of a configuration, and what is None, also of configurations in it."""
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict") and hasattr(value, "__dict__"):
            yield from _entries(value, (*at, name))
        elif isinstance(value, (list, tuple)):
            yield from (((*at, name, i), item) for i, item in enumerate(value))
        else:
            yield (*at, name), value


def _set_(config: Any, path: Path, value: Any) -> None:
    """Set one entry of a configuration, or of a list or configuration in it."""
    name, *rest = path
    if not rest:
        setattr(config, str(name), value)
    elif isinstance(rest[0], int):
        items = list(getattr(config, str(name)))
        items[rest[0]] = value
        setattr(config, str(name), type(getattr(config, str(name)))(items))
    else:
        _set_(getattr(config, str(name)), tuple(rest), value)


def _apart(a: Change, b: Change) -> bool:
    return not {path for path, _ in a} & {path for path, _ in b}


# Words.


def why_not(fit: Fit) -> str | None:
    """Return why no configuration was found whose network has the wanted sizes; None if one was."""
    if not fit.unlike:
        return None
    uneven = _uneven(fit)
    if uneven:
        return f"layers differ: {_listed(uneven)}"
    nearest = [
        f"{fit.wanted.names.get(name, name)!r} is {_shape(fit.wanted.shapes.get(name))} and "
        f"{_shape(fit.outline.shapes.get(name))} by the nearest configuration"
        for name in _one_of_each_layer(fit.unlike)
    ]
    return f"no number of the configuration gives these sizes: {_listed(nearest)}"


def _uneven(fit: Fit) -> list[str]:
    """Say which layers of a list differ where those of a configuration are alike."""
    now = fit.outline.shapes
    shapes: dict[str, dict[str, list[str]]] = {
        _pattern(name): defaultdict(list) for name in _one_of_each_layer(fit.unlike)
    }
    for name in dict.fromkeys((*fit.wanted.shapes, *fit.outline.shapes)):
        if (pattern := _pattern(name)) in shapes:
            layer = ".".join(_LAYER.findall(fit.wanted.names.get(name, name)))
            shapes[pattern][_shape(fit.wanted.shapes.get(name))].append(layer)
    return [
        f"{pattern!r} is " + ", ".join(f"{s} in {' and '.join(at)}" for s, at in found.items())
        for pattern, found in shapes.items()
        if len(found) > 1 and len({s for n, s in now.items() if _pattern(n) == pattern}) < 2
    ]


def _one_of_each_layer(names: Sequence[str]) -> list[str]:
    """Return the first of the tensors of each layer."""
    return list({name.rpartition(".")[0]: name for name in reversed(names)}.values())[::-1]


def _pattern(name: str) -> str:
    return _LAYER.sub("*", name)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(shape)


def _listed(found: Sequence[str]) -> str:
    more = "" if len(found) <= SHOWN else f"; and {len(found) - SHOWN} more"
    return "; ".join(found[:SHOWN]) + more
