"""The forms of targets that losses take: class numbers, labels, values, probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # the class number of a position that does not count; torch's ignore_index
WITHOUT_ORDER = (torch.uint16, torch.uint32, torch.uint64)  # torch has no comparisons for them
_SUM_TOLERANCE = 0.01  # of probabilities in bfloat16


@dataclass(frozen=True)
class Form:
    """A form of targets that losses take.

    Attributes:
        predicts: as in `losses.Loss`.
        words: (outputs) -> what such targets are.
        shaped: (outputs, targets) -> whether shape and dtype are right.
        exists: (outputs) -> whether there are targets of this form for such outputs.
    """

    predicts: str
    words: Callable[[Tensor], str]
    shaped: Callable[[Tensor, Tensor], bool]
    _wrong: Callable[[Tensor, Tensor], Tensor]
    exists: Callable[[Tensor], bool] = lambda outputs: True  # noqa: ARG005

    def shapes(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether targets have the shape and dtype of this form."""
        return self.exists(outputs) and self.shaped(outputs, targets)

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return which of the targets, of the right shape, cannot be."""
        return self._wrong(outputs, targets.long() if targets.dtype in WITHOUT_ORDER else targets)

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether targets have this form."""
        return self.shapes(outputs, targets) and not bool(self.wrong(outputs, targets).any())


def is_whole(targets: Tensor) -> bool:
    """Whether targets are of an integer type; bool is none."""
    return not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)


def _per_position(outputs: Tensor, targets: Tensor) -> bool:
    return is_whole(targets) and targets.shape[1:] == outputs.shape[2:]


def _has_classes(outputs: Tensor) -> bool:
    return outputs.ndim > 1 and outputs.shape[1] > 1


def _beyond(outputs: Tensor, targets: Tensor) -> Tensor:
    return (targets < 0) | (targets >= outputs.shape[1])


def _long_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a sample without dimensions of size 1."""
    return tuple(size for size in tensor.shape[1:] if size != 1)


def are_like_outputs(outputs: Tensor, targets: Tensor) -> bool:
    """Whether real targets have the shape of the outputs, but for dimensions of size 1."""
    return not targets.is_complex() and _long_shape(targets) == _long_shape(outputs)


def _outside_0_to_1(outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    return ~((targets >= 0) & (targets <= 1))


def _no_distribution(outputs: Tensor, targets: Tensor) -> Tensor:
    off = (targets.double().sum(1, keepdim=True) - 1).abs() > _SUM_TOLERANCE
    return _outside_0_to_1(outputs, targets) | off


CLASSES = Form(
    "classes",
    lambda o: (
        f"class numbers, whole numbers from 0 to {_most(o)} (or {IGNORED}: does not count), "
        f"shape {_shape(o.shape[2:])}"
    ),
    _per_position,
    lambda o, t: _beyond(o, t) & (t != IGNORED),
    _has_classes,
)
ONE_HOT = Form(
    "classes",
    lambda o: f"class numbers, whole numbers from 0 to {_most(o)}, shape (N,)",
    _per_position,
    _beyond,
    lambda o: o.ndim == 2 and _has_classes(o),
)
VALUES = Form(
    "values",
    lambda o: f"finite values shaped like the outputs, {shape(o)}",
    are_like_outputs,
    lambda o, t: ~t.isfinite(),  # noqa: ARG005
)
LABELS = Form(
    "labels",
    lambda o: f"0 or 1 for each output, shape {shape(o)}",
    are_like_outputs,
    lambda o, t: (t != 0) & (t != 1),  # noqa: ARG005
)
FRACTIONS = Form(
    "values",
    lambda o: f"values from 0 to 1 shaped like the outputs, {shape(o)}",
    are_like_outputs,
    _outside_0_to_1,
)
PROBABILITIES = Form(
    "values",
    lambda o: f"probabilities that sum to 1 over the classes, shape {shape(o)}",
    lambda o, t: t.is_floating_point() and t.shape[1:] == o.shape[1:],
    _no_distribution,
    _has_classes,
)


def as_whole(targets: Tensor) -> Tensor:
    """Return the targets as whole numbers; -1 where they are none."""
    whole = targets.long()
    return whole.where(whole == targets, -1)


def described(outputs: Tensor, targets: Tensor, wrong: Tensor) -> str:
    """Return a sentence that says what targets are: dtype, shape, range, the first wrong one."""
    known, span = targets.isfinite(), ""
    if not targets.is_complex() and known.any():
        found = targets[known].double()
        span = f", from {float(found.amin()):.6g} to {float(found.amax()):.6g}"
    wrong = wrong if known.all() else ~known
    if wrong.any():
        at = wrong.nonzero()[0].tolist()
        place = f", position {', '.join(map(str, at[1:]))}" if at[1:] else ""
        span += f"; row {at[0]}{place} has {targets[tuple(at)].item():.6g}"
    kind = str(targets.dtype).removeprefix("torch.")
    return (
        f"For outputs of shape {shape(outputs)}, these targets are {kind} of shape "
        f"{shape(targets)}{span}."
    )


def shape(tensor: Tensor) -> str:
    """Return a shape as a text, with N for the number of samples."""
    return _shape(tensor.shape[1:])


def _shape(sizes: Sequence[int]) -> str:
    return f"(N, {', '.join(map(str, sizes))})" if sizes else "(N,)"


def _most(outputs: Tensor) -> int:
    """Return the largest class number."""
    return outputs.shape[1] - 1
