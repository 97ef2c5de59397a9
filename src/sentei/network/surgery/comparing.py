"""Compare what two networks computed: every tensor of their outputs, and the results of layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sentei.errors import CertificateError
from sentei.network.surgery.observing import GONE, Observed

Pair = tuple[str, Any, Any]  # a name; the masked network's value and the other network's
Marks = Sequence[Tensor]  # for each layer, where its results belong to alive units
_DEPTH = 12  # of nested outputs

# Largest difference allowed in a tensor, relative to its largest absolute value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
TWIN_TOLERANCE = {**TOLERANCE, torch.float64: 1e-7}
# In training mode, statistics of a batch of few samples make twins less exact.
TRAINING_TOLERANCE = {**TWIN_TOLERANCE, torch.float32: 4e-3}
CAST = 1e-5  # in float64, where the network turns it into float32 inside
_NORM = "layer_norm"
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def paired(
    want: Observed, got: Observed, marks: Marks | None, where: str
) -> tuple[list[Pair], list[str]]:
    """Return what two networks computed in pairs: the leaves of their outputs, and their layers.

    Args:
        want: what the masked network computed.
        got: what the other one computed.
        marks: where the results of the masked one's layers belong to alive units; outputs alone if
            None.
        where: the mode, for messages.

    Returns:
        The pairs, and what could not be compared.

    Raises:
        CertificateError: the outputs are built differently, or tensors differ in shape or dtype.
    """
    pairs, left_out = _output_pairs(want.outputs, got.outputs, where)
    if marks is not None:
        layers, unknown = _layer_pairs(want, got, marks, where)
        return [*pairs, *layers], [*left_out, *unknown]
    return pairs, left_out


def _output_pairs(want: Any, got: Any, where: str) -> tuple[list[Pair], list[str]]:
    mine, theirs = dict(leaves(want, "output")), dict(leaves(got, "output"))
    if mine.keys() != theirs.keys():
        names = ", ".join(sorted(mine.keys() ^ theirs.keys())[:4])
        raise CertificateError(
            f"the shrunk network must return what the masked one returns; in {where} only one of "
            f"them returns {names}"
        )
    pairs, left_out = [], []
    for name, a in mine.items():
        b = theirs[name]
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.layout == torch.strided:
            _check_form(name, a, b, where)
            pairs.append((name, a, b))
        elif isinstance(a, _PLAIN) and type(a) is type(b):
            pairs.append((name, a, b))
        else:
            left_out.append(f"{name} ({type(a).__name__})")
    return pairs, left_out


def _check_form(name: str, a: Tensor, b: Tensor, where: str) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        forms = [f"{tuple(t.shape)} {t.dtype}" for t in (b, a)]
        raise CertificateError(
            f"the shrunk network must output the same shapes as the masked one; in {where} "
            f"{name} is {forms[0]} instead of {forms[1]}"
        )


def fit(marks: Marks, seen: Observed) -> bool:
    """Return whether marks that were found on other inputs say where layers' results are alive."""
    return len(marks) == len(seen.layers) and all(
        mark is GONE
        or (
            mark.ndim == result.ndim
            and all(of in (1, size) for of, size in zip(mark.shape, result.shape, strict=True))
        )
        for mark, (_, result) in zip(marks, seen.layers, strict=True)
    )


def _layer_pairs(
    want: Observed, got: Observed, marks: Marks, where: str
) -> tuple[list[Pair], list[str]]:
    """Return the results of layers in pairs, at the positions of alive units."""
    mine = [(n, *each) for n, each in enumerate(want.layers) if marks[n] is not GONE]
    theirs = [(n, *each) for n, each in enumerate(got.layers)]
    pairs, left_out = [], []
    if _names(mine) != _names(theirs):
        mine, theirs = ([each for each in layers if each[1] != _NORM] for layers in (mine, theirs))
        left_out.append(f"norms in {where} (a layer norm stands for one that was written by hand)")
    if _names(mine) != _names(theirs):
        return [], [f"layers in {where} (the networks call different functions)"]
    for (i, name, a), (_, _, b) in zip(mine, theirs, strict=True):
        alive = marks[i]
        title = f"layer call {i + 1} ({name})"
        part = a if a.shape == b.shape else _alive_part(a, alive)
        if part.numel() == b.numel():
            pairs.append((title, part, b.reshape(part.shape)))
        else:
            left_out.append(f"{title} in {where}")
    return pairs, left_out


def _names(layers: Sequence[tuple[int, str, Tensor]]) -> list[str]:
    return [name for _, name, _ in layers]


def _alive_part(result: Tensor, alive: Tensor) -> Tensor:
    """Return the values of a layer's result at alive positions, in order."""
    dims = [dim for dim, size in enumerate(alive.shape) if size > 1]
    if len(dims) == 1:  # much faster than a selection by a mask
        return result.index_select(dims[0], alive.flatten().nonzero().flatten())
    return result[alive.expand(result.shape)]


def floats(pairs: Iterable[Pair]) -> Iterator[Tensor]:
    """Yield the floating-point and complex tensors of the first network."""
    for _, a, _ in pairs:
        if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex()):
            yield a


def largest_allowed(
    pairs: Iterable[Pair], tolerances: Mapping[torch.dtype, float], *, casts: bool
) -> float:
    """Return the tolerance of the coarsest dtype among the tensors that are compared.

    Args:
        pairs: what is compared.
        tolerances: by dtype.
        casts: whether the network turns float64 into float32 inside, as some norms do.
    """
    allowed = max((tolerances.get(a.dtype, 1e-4) for a in floats(pairs)), default=1e-4)
    return max(allowed, CAST) if casts else allowed


def difference(a: Any, b: Any) -> float:
    """Return the largest |a - b|, relative to the largest finite |a|.

    Equal infinities and two NaN count as equal. Whole numbers, bools and texts are equal (0) or
    not (infinity).
    """
    if not isinstance(a, Tensor):
        if isinstance(a, (float, complex)):
            return difference(torch.tensor(a), torch.tensor(b))
        return 0.0 if a == b else math.inf
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else math.inf
    if (fast := _difference_of_finite(a, b)) is not None:
        return fast
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to("cpu", wide), b.to("cpu", wide)
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, (a - b).abs())
    if not apart.count_nonzero():
        return 0.0
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    largest = float(apart.nan_to_num(math.inf, math.inf).max())
    return largest / scale if scale else math.inf


def _difference_of_finite(a: Tensor, b: Tensor) -> float | None:
    """Return the difference of two finite tensors in their own dtype; None of others.

    The difference of two numbers that are close is exact in their own dtype.
    """
    if a.dtype not in (torch.float32, torch.float64) or not a.numel() or a.device != b.device:
        return None
    scale, largest = float(a.abs().amax()), float((a - b).abs().amax())
    if not (0 < scale < math.inf and largest < math.inf):
        return None
    return largest / scale


def leaves(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of an output: of mappings, sequences, dataclasses and objects."""
    if isinstance(value, (Tensor, *_PLAIN)) or depth > _DEPTH:
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}[{key!r}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}[{i}]", depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{name}.{field.name}", depth + 1)
    elif hasattr(value, "__dict__") and not callable(value) and vars(value):
        for key, item in vars(value).items():
            yield from leaves(item, f"{name}.{key}", depth + 1)
    else:
        yield name, value
