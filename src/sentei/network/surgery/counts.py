"""Let norms over units count the units that a cut removes, so that they divide as before it.

A norm divides by statistics of all units of a stream. In the masked network dead units are zeros
that are counted; in the cut one they are gone. A root mean square of fewer entries is larger by a
factor that a norm's scale and its eps take up. A layer norm is replaced by one that counts. Which
of this a hand-written norm needs is found by trying it alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sentei.network.counted_norm import CountedLayerNorm
from sentei.network.holders import small_numbers
from sentei.network.mask import Mask
from sentei.network.units import Listener, Neurons, tensor_of

SCALES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of inputs on which norms are tried: eps matters for some
AXES = (-1, -3)  # of units, in rows and in pictures
TRIED = 1e-5  # largest difference, relative to the largest value: some norms compute in float32


@dataclass(frozen=True)
class Way:
    """How a norm keeps the count of its units.

    Attributes:
        scale: name of the parameter that scales units, and is divided; "" for none.
        stored: what is subtracted from the scale where it is stored.
        eps: name of the attribute that is added to a square; "" for none.
        axis: dimension of the units of a layer norm, which is replaced; 0 if it is not.
    """

    scale: str = ""
    stored: float = 0.0
    eps: str = ""
    axis: int = 0


def counting_norms_(model: nn.Module, mask: Mask) -> Callable[[], None]:
    """Prepare the norms over a stream for a cut: replace those that have to count.

    Args:
        model: before the cut.
        mask: of the cut.

    Returns:
        What to do after the cut: scale the others.
    """
    known: dict[type, Way] = {}
    later: list[tuple[nn.Module, Way, float]] = []
    for path, (norm, alive) in _norms(model, mask).items():
        way = way_of(norm, alive, known)
        if way.axis:
            parent, _, child = path.rpartition(".")
            counted = CountedLayerNorm.of(norm, len(alive), getattr(norm, way.eps), way.axis)
            setattr(model.get_submodule(parent), child, counted)
        elif way.scale:
            later.append((norm, way, len(alive) / int(alive.sum())))

    def recount_() -> None:
        for each in later:
            _rescale_(*each)

    return recount_


def _norms(model: nn.Module, mask: Mask) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return the modules that may be norms over units that a cut removes, by path.

    Each comes with which of its units stay, (width,) bool.
    """
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    for group in mask.groups:
        if isinstance(group, Neurons) and group.kind == "stream" and mask.dead(group).numel():
            for part in group.followers:
                module = may_be_norm(model, part)
                if module is not None:
                    gone, scale = (
                        mask.gone[part.parameter, part.dim],
                        tensor_of(model, part.parameter),
                    )
                    alive = torch.ones(len(scale), dtype=torch.bool).index_fill(0, gone, False)
                    if 0 < int(alive.sum()) < len(alive):
                        found.setdefault(part.layer, (module, alive))
    return found


def may_be_norm(model: nn.Module, part: Listener) -> nn.Module | None:
    """Return the module of a follower if it holds no other modules and this is a scale of it."""
    module = model.get_submodule(part.layer)
    scale = module._parameters.get(part.parameter.rpartition(".")[2])
    is_last = bool(part.layer) and next(module.children(), None) is None
    return module if is_last and scale is not None and scale.ndim == 1 else None


def way_of(norm: nn.Module, alive: Tensor, known: dict[type, Way]) -> Way:
    """Return how a norm keeps its count; as it is, if nothing else is found."""
    if type(norm) is nn.LayerNorm:
        return Way(eps="eps", axis=-1)
    if type(norm) is nn.RMSNorm:
        return Way(scale="weight", eps="eps")
    if type(norm).__module__.startswith(("torch.nn", "sentei")) or next(norm.parameters()).is_meta:
        return Way()
    first = [known[type(norm)]] if type(norm) in known else []
    found = _found(norm, alive, [*first, *_ways(norm)])
    if found is not None:
        known[type(norm)] = found
    return found or Way()


def _ways(norm: nn.Module) -> Iterator[Way]:
    """Yield what a norm may need, the plainest first."""
    yield Way()
    small = small_numbers(norm)
    for eps in (*small, ""):
        for scale in norm._parameters:
            for stored in (0.0, 1.0):
                yield Way(scale, stored, eps)
    if norm._parameters.keys() <= {"weight", "bias"}:
        for eps in small:
            yield from (Way(eps=eps, axis=axis) for axis in AXES)


@torch.no_grad()
def _found(norm: nn.Module, alive: Tensor, ways: list[Way]) -> Way | None:
    """Return the first way in which a norm without some units computes what it does with zeros."""
    random = torch.Generator().manual_seed(0)
    own = copy.deepcopy(norm).cpu().double()
    for parameter in own.parameters():
        parameter.copy_(torch.rand(parameter.shape, generator=random) + 0.5)
    keep = alive.nonzero().flatten()
    for axis in AXES:
        x = torch.randn(1, len(SCALES), len(alive), generator=random, dtype=torch.float64)
        x = x * alive * torch.tensor(SCALES, dtype=torch.float64)[:, None]
        x = x if axis == -1 else x.reshape(len(SCALES), -1, 1, 1).repeat(1, 1, 2, 2)
        try:
            want = own(x).index_select(axis, keep)
        except Exception:  # it takes another form of input, or is no norm
            continue
        for way in ways:
            try:
                got = _cut(own, way, keep)(x.index_select(axis, keep))
                worst = (got - want).abs().amax() / want.abs().amax()
            except Exception:
                continue
            if worst < TRIED:
                return way
    return None


def _cut(norm: nn.Module, way: Way, keep: Tensor) -> nn.Module:
    """Return a copy of a norm with some of its units, which keeps the count in one way."""
    width = len(next(norm.parameters()))
    cut = copy.deepcopy(norm)
    if way.axis:
        cut = CountedLayerNorm.of(cut, width, getattr(cut, way.eps), way.axis)
    for parameter in cut.parameters():
        parameter.data = parameter.data.index_select(0, keep)
    if way.axis:
        return cut
    if hasattr(cut, "normalized_shape"):  # of a subclass of torch's own
        setattr(cut, "normalized_shape", (len(keep),))  # noqa: B010 - modules hold tensors for pyright
    if way.scale:
        _rescale_(cut, way, width / len(keep))
    return cut


@torch.no_grad()
def _rescale_(norm: nn.Module, way: Way, more: float) -> None:
    """Let a root mean square of fewer units divide as that of `more` times as many."""
    weight = norm._parameters[way.scale]
    assert weight is not None
    weight.data = (weight.data + way.stored) * math.sqrt(more) - way.stored
    if way.eps:
        eps = getattr(norm, way.eps)
        setattr(norm, way.eps, (torch.finfo(weight.dtype).eps if eps is None else eps) * more)
