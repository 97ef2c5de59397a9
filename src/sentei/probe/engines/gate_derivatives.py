"""Compute the value, first and second derivative of per-sample losses along a gate by autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.probe.engines.chain_derivatives import gradient, slope

GateLoss = Callable[[Tensor], Tensor]  # a gate's value -> (n,) losses, one per sample
GateOperator = Callable[[GateLoss], GateLoss]


@contextmanager
def hide_torch_warnings() -> Iterator[None]:
    """Suppress the warnings of `torch.func` that do not affect results."""
    with warnings.catch_warnings():
        # Operations without a batching rule are slower but correct.
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        # torch compiles its forward-mode rules with torch.jit.script, which it deprecates.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        yield


def first_by_jvp(along: GateLoss) -> GateLoss:
    """Return the function that computes first derivatives per sample by forward mode."""
    return lambda gain: torch.func.jvp(along, (gain,), (torch.ones_like(gain),))[1]


def second_by_func(along: GateLoss) -> GateLoss:
    """Return the function that computes the second derivative of the sum by reverse mode twice.

    Not by forward mode: torch 2.13 computes wrong second derivatives of layer norm, among others.
    """
    return torch.func.grad(torch.func.grad(lambda gain: along(gain).sum()))


def first_by_autograd(along: GateLoss) -> GateLoss:
    """Return the function that computes first derivatives per sample by reverse mode twice.

    The derivative of the sum weighted by `u` is linear in `u`; its gradient by `u` holds the
    derivatives of the samples.
    """

    def derivative(gain: Tensor) -> Tensor:
        with torch.enable_grad():
            gain = gain.detach().requires_grad_()
            values = along(gain)
            u = torch.ones_like(values).requires_grad_()
            return gradient(slope((u * values).sum(), gain, create_graph=True), u)

    return derivative


def second_by_autograd(along: GateLoss) -> GateLoss:
    """Return the function that computes the second derivative of the sum by autograd."""

    def derivative(gain: Tensor) -> Tensor:
        with torch.enable_grad():
            gain = gain.detach().requires_grad_()
            return gradient(slope(along(gain).sum(), gain, create_graph=True), gain)

    return derivative


@dataclass(frozen=True)
class Operator:
    """What is computed of the losses along a gate: their value or a derivative.

    Attributes:
        batched: the operator under `torch.func.vmap`.
        alone: the operator for one gate at a time.
        differentiates: whether it is a derivative, which takes about four times the memory.
    """

    batched: GateOperator
    alone: GateOperator
    differentiates: bool = True


VALUE = Operator(lambda along: along, lambda along: along, differentiates=False)
FIRST = Operator(first_by_jvp, first_by_autograd)
SECOND = Operator(second_by_func, second_by_autograd)
