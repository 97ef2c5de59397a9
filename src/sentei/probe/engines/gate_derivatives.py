"""What can be asked of losses along a gate: their value, slope and curvature, by autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sentei.probe.engines.chain_derivatives import gradient, slope

Along = Callable[[Tensor], Tensor]  # a gate -> one number per sample
Ask = Callable[[Along], Along]


@contextmanager
def torchs_own_warnings_hidden() -> Iterator[None]:
    """Of what `torch.func` says while it works, nothing concerns whoever asked."""
    with warnings.catch_warnings():
        # An operation without a batching rule is slower, not wrong.
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        # The rules for carrying derivatives forward are compiled in a way torch means to drop.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        yield


def once(along: Along) -> Along:
    """First derivatives, one per sample, carried forward."""
    return lambda gain: torch.func.jvp(along, (gain,), (torch.ones_like(gain),))[1]


def twice(along: Along) -> Along:
    """Second derivative of the sum, by two passes back.

    Not forward: of layer norm, among others, torch 2.13 carries second derivatives forward wrongly.
    """
    return torch.func.grad(torch.func.grad(lambda gain: along(gain).sum()))


def once_back(along: Along) -> Along:
    """First derivatives, one per sample, by two passes back: the sum's slope is linear in `u`."""

    def ask(gain: Tensor) -> Tensor:
        with torch.enable_grad():
            gain = gain.detach().requires_grad_()
            values = along(gain)
            u = torch.ones_like(values).requires_grad_()
            return gradient(slope((u * values).sum(), gain, create_graph=True), u)

    return ask


def twice_back(along: Along) -> Along:
    """Second derivative of the sum, by two passes back."""

    def ask(gain: Tensor) -> Tensor:
        with torch.enable_grad():
            gain = gain.detach().requires_grad_()
            return gradient(slope(along(gain).sum(), gain, create_graph=True), gain)

    return ask


# What to ask together, what alone, and the attribute that says whether together works.
Asked = tuple[Ask, Ask, str]
VALUE: Asked = (lambda along: along, lambda along: along, "batched")
FIRST: Asked = (once, once_back, "derived")
SECOND: Asked = (twice, twice_back, "derived")
