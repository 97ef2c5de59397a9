"""Check on inputs that a cut network computes the same function as the masked one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sentei.errors import CertificateError
from sentei.network.example import Example, as_found, at_least, rows, run, tensors

INPUTS = 64  # fewest inputs on which two networks are compared

# Largest difference allowed, relative to the largest absolute output (or to 1, if that is larger).
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Certificate:
    """Result of comparing a masked and a shrunk network on the same inputs.

    Attributes:
        inputs: number of samples compared.
        real: how many of them the caller gave; the rest are seeded noise of the same shape.
        difference: largest |masked - shrunk| of any output in evaluation mode.
        training_difference: the same in training mode with dropout switched off; None if the masked
            network itself cannot run in training mode on these inputs.
        tolerance: largest difference that was allowed.
    """

    inputs: int
    real: int
    difference: float
    training_difference: float | None
    tolerance: float

    def __str__(self) -> str:
        training = self.training_difference
        also = "" if training is None else f", {training:.1e} in training mode"
        return (
            f"same function on {self.inputs} inputs ({self.real} of them given): outputs differ by "
            f"{self.difference:.1e} at most{also} (allowed {self.tolerance:.1e})"
        )


def certify(masked: nn.Module, small: nn.Module, example: Example) -> Certificate:
    """Compare the outputs of two networks on at least 64 inputs, in evaluation and training mode.

    In training mode every dropout is the identity, because one seed draws different noise for
    different shapes. Modes and buffers of both networks and the random state are restored.

    Raises:
        CertificateError: the outputs differ by more than the dtype's tolerance, or the small
            network does not run.
    """
    given = rows(example) or 1
    example = at_least(example, INPUTS)
    want = _outputs(masked, example, training=False)
    got = _outputs_of_small(small, example, training=False)
    tolerance = _allowed(want)
    difference = _largest_difference(want, got, tolerance, "evaluation")
    try:
        want = _outputs(masked, example, training=True)
    except Exception:  # a limit of the masked network, such as batch norm of one sample
        return Certificate(rows(example) or 1, given, difference, None, tolerance)
    tolerance = _allowed(want)
    training = _largest_difference(
        want, _outputs_of_small(small, example, training=True), tolerance, "training"
    )
    return Certificate(rows(example) or 1, given, difference, training, tolerance)


def _allowed(want: list[Tensor]) -> float:
    """Return the largest difference allowed: that of the coarsest dtype, times the largest output.

    Infinite outputs do not count: with them any difference would be allowed.
    """
    finite = [t[t.isfinite()].abs() for t in want]
    largest = max([1.0, *(float(t.max()) for t in finite if t.numel())])
    return largest * max((TOLERANCE.get(t.dtype, 1e-4) for t in want), default=1e-4)


def _largest_difference(
    want: list[Tensor], got: list[Tensor], tolerance: float, mode: str
) -> float:
    if [t.shape for t in want] != [t.shape for t in got]:
        raise CertificateError(
            f"the shrunk network must output the same shapes as the masked one; in {mode} mode "
            f"they are {[tuple(t.shape) for t in got]} instead of {[tuple(t.shape) for t in want]}"
        )
    pairs = [(a.double(), b.double()) for a, b in zip(want, got, strict=True) if a.numel()]
    difference = max((float(_distance(a, b)) for a, b in pairs), default=0.0)
    if not difference <= tolerance:
        raise CertificateError(
            f"the shrunk network must compute what the masked one computes; in {mode} mode outputs "
            f"differ by {difference:.3g}, and {tolerance:.3g} is allowed"
        )
    return difference


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest absolute difference; equal infinities and two NaN count as 0."""
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs()).max()


def _outputs_of_small(model: nn.Module, example: Example, *, training: bool) -> list[Tensor]:
    try:
        return _outputs(model, example, training=training)
    except Exception as error:
        raise CertificateError(f"the shrunk network does not run: {error}") from error


@torch.no_grad()
def _outputs(model: nn.Module, example: Example, *, training: bool) -> list[Tensor]:
    with as_found(model), torch.random.fork_rng(devices=[]), _NoDropout():
        torch.manual_seed(0)
        model.train(training)
        return [t for t in tensors(run(model, example)) if t.is_floating_point()]


class _NoDropout(TorchFunctionMode):
    """Torch function mode in which every dropout is the identity."""

    dropouts = frozenset(
        getattr(owner, name)
        for owner in (F, torch)
        for name in (
            *("dropout", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"),
            *("dropout1d", "dropout2d", "dropout3d"),
        )
        if hasattr(owner, name)
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.dropouts:
            return args[0] if args else kwargs["input"]
        if "dropout_p" in kwargs:
            kwargs = {**kwargs, "dropout_p": 0.0}
        elif func is F.multi_head_attention_forward:
            args = (*args[:10], 0.0, *args[11:])
        elif func is F.scaled_dot_product_attention and len(args) > 4:
            args = (*args[:4], 0.0, *args[5:])
        return func(*args, **kwargs)
