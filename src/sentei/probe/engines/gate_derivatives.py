"""What can be asked of losses along a gate: their value, slope and curvature, by autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sentei.probe.engines.chain_derivatives import gradient, slope

GateLoss = Callable[[Tensor], Tensor]  # a gate -> one number per sample
GateOperator = Callable[[GateLoss], GateLoss]


@contextmanager
def hide_torch_warnings() -> Iterator[None]:
    """Of what `torch.func` says while it works, nothing concerns whoever asked."""
    with warnings.catch_warnings():
        # An operation without a batching rule is slower, not wrong.
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        # The rules for carrying derivatives forward are compiled in a way torch means to drop.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        yield


def first_by_jvp(along: GateLoss) -> GateLoss:
    """First derivatives, one per sample, carried forward."""
    return lambda gain: torch.func.jvp(along, (gain,), (torch.ones_like(gain),))[1]


def second_by_func(along: GateLoss) -> GateLoss:
    """Second derivative of the sum, by two passes back.

    Not forward: of layer norm, among others, torch 2.13 carries second derivatives forward wrongly.
    """
    return torch.func.grad(torch.func.grad(lambda gain: along(gain).sum()))


def first_by_autograd(along: GateLoss) -> GateLoss:
    """First derivatives, one per sample, by two passes back: the sum's slope is linear in `u`."""

    def ask(gain: Tensor) -> Tensor:
        with torch.enable_grad():
            gain = gain.detach().requires_grad_()
            values = along(gain)
            u = torch.ones_like(values).requires_grad_()
            return gradient(slope((u * values).sum(), gain, create_graph=True), u)

    return ask


def second_by_autograd(along: GateLoss) -> GateLoss:
    """Second derivative of the sum, by two passes back."""

    def ask(gain: Tensor) -> Tensor:
        with torch.enable_grad():
            gain = gain.detach().requires_grad_()
            return gradient(slope(along(gain).sum(), gain, create_graph=True), gain)

    return ask


# What to ask together, what alone, and the attribute that says whether together works.
BatchedOperator = tuple[GateOperator, GateOperator, str]
VALUE: BatchedOperator = (lambda along: along, lambda along: along, "batched")
FIRST: BatchedOperator = (first_by_jvp, first_by_autograd, "batched_derivatives")
SECOND: BatchedOperator = (second_by_func, second_by_autograd, "batched_derivatives")
