"""`Outline`: what of a network follows from its configuration, and how far two are apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Outline:
    """What of a network follows from its configuration.

    Attributes:
        shapes: of each parameter and persistent buffer. Where blocks of a list hold no tensor, the
            numbers in names are those of the blocks that do, counted anew.
        numbers: attributes of modules, such as the eps of a norm or a number of heads.
        names: for each name in `shapes`, the name in the network.
        kept: for each list of blocks, the places of those that hold tensors.
    """

    shapes: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, float]
    names: Mapping[str, str]
    kept: Mapping[str, tuple[int, ...]]


def outline(model: nn.Module) -> Outline:
    """Return the outline of a network, which may be on the meta device.

    No configuration says what `shrink` puts into the place of a removed layer: sentei's own modules
    without parameters. Their buffers are left out.
    """
    ours = tuple(f"{path}." for path, module in model.named_modules() if _is_ours(module))
    tensors = {n: t for n, t in model.state_dict().items() if not n.startswith(ours)}
    places: dict[str, set[int]] = defaultdict(set)
    for name in tensors:
        for prefix, place in _numbers(name):
            places[prefix].add(place)
    kept = {prefix: tuple(sorted(found)) for prefix, found in places.items()}
    own = {_counted(name, kept): name for name in tensors}
    numbers = {
        f"{_counted(path, kept)}.{attribute}": value
        for path, module in model.named_modules()
        if all(place in kept.get(prefix, ()) for prefix, place in _numbers(path))
        for attribute, value in vars(module).items()
        if type(value) in (int, float) and not attribute.startswith("_")
    }
    shapes = {name: tuple(tensors[theirs].shape) for name, theirs in own.items()}
    return Outline(shapes, numbers, own, {_counted(p, kept): found for p, found in kept.items()})


def differing(now: Outline, wanted: Outline) -> tuple[list[tuple[int, int]], list[tuple]]:
    """Return (before, after) of the sizes, and of the numbers of modules, that differ.

    The most frequent come first.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for name, shape in wanted.shapes.items():
        before = now.shapes.get(name, ())
        if len(before) == len(shape):
            sizes.update((a, b) for a, b in zip(before, shape, strict=True) if a != b)
    numbers = Counter(
        (now.numbers[name], value)
        for name, value in wanted.numbers.items()
        if now.numbers.get(name, value) != value
    )
    return [each for each, _ in sizes.most_common()], [each for each, _ in numbers.most_common()]


def distance(now: Outline, wanted: Outline) -> int:
    """Return how far two outlines are apart; a tensor counts more than a float."""
    far = 0
    for name in now.shapes.keys() | wanted.shapes.keys():
        a, b = now.shapes.get(name), wanted.shapes.get(name)
        if a is None or b is None or len(a) != len(b):
            far += 2
        else:
            far += 2 * sum(x != y for x, y in zip(a, b, strict=True))
    # Integers of modules may be left over from before the cut; a float is read by what has it.
    shared = (n for n, value in wanted.numbers.items() if type(value) is float)
    return far + sum(
        now.numbers.get(name, wanted.numbers[name]) != wanted.numbers[name] for name in shared
    )


def _is_ours(module: nn.Module) -> bool:
    own = type(module).__module__.startswith("sentei.")
    return own and next(module.parameters(), None) is None


def _numbers(name: str) -> Iterator[tuple[str, int]]:
    """Yield the lists that a name goes through: the name of each, and the place in it."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            yield ".".join(parts[:i]), int(part)


def _counted(name: str, kept: Mapping[str, tuple[int, ...]]) -> str:
    """Return a name with the numbers in it counted among those that are kept."""
    parts = name.split(".")
    for i, part in enumerate(list(parts)):
        own = ".".join(name.split(".")[:i])
        if part.isdigit() and own in kept:
            parts[i] = str(kept[own].index(int(part)))
    return ".".join(parts)
