"""Compute first and second derivatives of a loss through linear and elementwise layers.

Second derivatives are exact, or those of the paper's recursion, which drops cross terms.

A plain chain is a sequence of elementwise functions and linear layers. All tensors are laid out
(features, samples) or (features, candidates, samples), as in `chain`. For a tangent t of the
pre-activations where the chain begins, propagated forward through its steps,

    E'' = sum over elementwise steps of (g f'') . t**2  +  t H t at the output,

with g the gradient backpropagated to the step's output and H the Hessian of the loss by the
outputs. No matrix of size units x units is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sentei import losses as named
from sentei.errors import CriterionError
from sentei.losses import PerSample, per_sample_losses, wanted
from sentei.nests import resized, tensors

_NOT_TWICE = (
    "a curvature needs a loss that can be differentiated twice; this one cannot: {}. "
    'Use "taylor1" or "ablation".'
)
BLOCK_ELEMENTS = 1_000_000  # numbers in one block of work: 4 MB as float32


@dataclass(frozen=True, eq=False)
class OutputCurvature:
    """The Hessian of each sample's loss: diag(diagonal) - factor factor' + whole.

    Attributes:
        diagonal: (features, n).
        factor: (features, n); None if the form has no such term.
        whole: (features, features, n); None if the form has no such term.
    """

    diagonal: Tensor
    factor: Tensor | None = None
    whole: Tensor | None = None

    def per_feature(self) -> Tensor:
        """Return the diagonal entries of the Hessian, (features, n)."""
        entries = self.diagonal
        if self.factor is not None:
            entries = entries - self.factor.square()
        return entries if self.whole is None else entries + self.whole.diagonal().mT

    def before_elementwise(self, slope: Tensor, second: Tensor) -> OutputCurvature:
        """Return the Hessian by the input of an elementwise step f, from that by its output."""
        factor = None if self.factor is None else self.factor * slope
        whole = None if self.whole is None else self.whole * slope * slope[:, None]
        return OutputCurvature(self.diagonal * slope.square() + second, factor, whole)

    def along_tangents(self, tangents: Tensor) -> Tensor:
        """Return t' H t for `tangents` t (features, candidates, n), (candidates, n)."""
        found = _weighted_sum(tangents.square(), self.diagonal)
        if self.factor is not None:
            found -= _weighted_sum(tangents, self.factor).square_()
        if self.whole is not None:
            for row, tangent in zip(self.whole, tangents, strict=True):
                found += _weighted_sum(tangents, row) * tangent
        return found

    def at_columns(self, weight: Tensor) -> Tensor:
        """Return w' H w for every column w of `weight` (features, columns), (columns, n)."""
        found = weight.square().T @ self.diagonal
        if self.factor is not None:
            found -= (weight.T @ self.factor).square_()
        if self.whole is not None:
            pairs = (weight[:, None] * weight).flatten(0, 1)
            found += pairs.T @ self.whole.flatten(0, 1)
        return found


@dataclass(frozen=True, eq=False)
class ElementwiseStep:
    """Derivatives of an elementwise step on one block.

    Attributes:
        slope: (features, n) f'.
        second: (features, n) g f'', with g the gradient by the step's output.
    """

    slope: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class ChainDerivatives:
    """Derivatives of each sample's loss along a chain, on one block of samples.

    Attributes:
        steps: the steps in order; a Tensor is the weight of a linear step.
        gradient: (features, n) derivatives of each sample's loss where the chain begins.
        end: the Hessian of the loss by the outputs of the last linear step (by the input of the
            chain, if it has no linear step).
    """

    steps: tuple[ElementwiseStep | Tensor, ...]
    gradient: Tensor
    end: OutputCurvature

    def along_tangents(self, tangents: Tensor) -> Tensor:
        """Return each sample's exact E'' along `tangents` (features, candidates, n).

        Returns:
            (candidates, n).
        """
        found = tangents.new_zeros(tangents.shape[1:])
        for step in self.steps:
            if isinstance(step, ElementwiseStep):
                found += _weighted_sum(tangents.square(), step.second)
                tangents = tangents * step.slope[:, None]
            else:
                flat = step @ tangents.flatten(1)
                tangents = flat.view(-1, *tangents.shape[1:])
        return found + self.end.along_tangents(tangents)

    def per_feature(self) -> Tensor:
        """Return the exact second derivatives where the chain begins, (features, n)."""
        if not self.steps:
            return self.end.per_feature()
        tangents = torch.eye(len(self.gradient)).to(self.gradient)[:, :, None]
        size = max(1, BLOCK_ELEMENTS // self.gradient.numel())
        parts = (part.expand(-1, -1, self.gradient.shape[1]) for part in tangents.split(size, 1))
        return torch.cat([self.along_tangents(part) for part in parts])

    def diagonal(self) -> Tensor:
        """Return second derivatives where the chain begins, without cross terms, (features, n).

        Each linear step drops the cross terms between its features. Exact if no linear step follows
        and the loss has no cross terms.

        Source: the appendix of "The Incredible Shrinking Neural Network" (there for logistic units
        and squared error), and LeCun, Denker and Solla (1990).
        """
        second = self.end.per_feature()
        for step in reversed(self.steps):
            if isinstance(step, ElementwiseStep):
                second = second * step.slope.square() + step.second
            else:
                second = step.square().T @ second
        return second


def chain_derivatives(
    steps: Sequence[Callable[[Tensor], Tensor]],
    weights: Sequence[Tensor | None],
    z: Tensor,
    targets: Tensor,
    at_outputs: Callable[[Tensor, Tensor], tuple[Tensor, OutputCurvature]],
) -> ChainDerivatives:
    """Compute the derivatives along a chain by one forward and one backward pass.

    Args:
        steps: functions on (features, n).
        weights: for each step, its weight if it is linear; None if it is elementwise.
        z: (features, n) input of the chain.
        targets: (n, ...).
        at_outputs: (outputs (n, classes), targets) -> gradient (classes, n), curvature.
    """
    forwards: list[tuple[Tensor, Tensor] | Tensor] = []
    for step, weight in zip(steps, weights, strict=True):
        if weight is None:
            z, slope, second = _derivatives(step, z)
            forwards.append((slope, second))
        else:
            z = step(z)
            forwards.append(weight)
    back, end = at_outputs(z.T, targets)
    backwards: list[ElementwiseStep | Tensor] = []
    for part in reversed(forwards):
        if isinstance(part, Tensor):
            back = part.T @ back
            backwards.append(part)
            continue
        slope, second = part
        scaled = back * second
        back = back * slope
        if backwards:
            backwards.append(ElementwiseStep(slope, scaled))
        else:  # elementwise steps after the last linear step become part of the loss
            end = end.before_elementwise(slope, scaled)
    return ChainDerivatives(tuple(reversed(backwards)), back, end)


def _derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """f, f' and f'' of an elementwise function at x, by differentiating it twice."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = function(leaf.clone())  # the function may work in place
        first = slope(value.sum(), leaf, create_graph=True)
        second = gradient(first.sum(), leaf)
    return value.detach(), first.detach(), second.detach()


def loss_derivatives(
    name: str | None, per_sample: PerSample
) -> Callable[..., tuple[Tensor, OutputCurvature]]:
    """Return the function that computes a loss's gradient and Hessian by outputs (n, classes).

    It uses a closed form for the losses in `_CLOSED_FORMS`, autograd for all others.
    """
    if name in _CLOSED_FORMS:
        return _CLOSED_FORMS[name]
    return lambda outputs, targets: _by_autograd(per_sample, outputs, targets)


def _squared(outputs: Tensor, targets: Tensor) -> tuple[Tensor, OutputCurvature]:
    errors = (outputs - wanted(outputs, targets)).T
    return errors, OutputCurvature(torch.ones_like(errors))


def _binary(outputs: Tensor, targets: Tensor) -> tuple[Tensor, OutputCurvature]:
    p = outputs.sigmoid()
    return (p - wanted(outputs, targets)).T, OutputCurvature((p * (1 - p)).T)


def _softmax(outputs: Tensor, targets: Tensor) -> tuple[Tensor, OutputCurvature]:
    target_p = wanted(outputs, targets).T
    total = target_p.sum(0)
    p = outputs.T.softmax(0)
    return p * total - target_p, OutputCurvature(p * total, p * total.sqrt())


_CLOSED_FORMS = {
    "half_squared_error": _squared,
    "binary_cross_entropy": _binary,
    "cross_entropy": _softmax,
}
assert _CLOSED_FORMS.keys() <= named.LOSSES.keys()


def _by_autograd(
    per_sample: PerSample, outputs: Tensor, targets: Tensor
) -> tuple[Tensor, OutputCurvature]:
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        first = slope(per_sample_losses(per_sample, leaf, targets).sum(), leaf, create_graph=True)
        whole = torch.stack([gradient(column.sum(), leaf).T for column in first.unbind(1)])
    return first.detach().T, OutputCurvature(torch.zeros_like(whole[0]), whole=whole)


def check_smooth(per_sample: PerSample, outputs: Any, targets: Any, times: int) -> None:
    """Raise CriterionError if a loss cannot be differentiated `times` times, once or twice.

    It is differentiated along a factor of all outputs, at 1. Where outputs are no nest of tensors,
    the derivatives themselves will show it.

    Raises:
        CriterionError: names the criteria to use instead.
    """
    if not tensors(outputs):
        return
    with torch.enable_grad():
        factor = torch.ones((), requires_grad=True)
        scaled = resized(
            outputs, lambda t: t.detach() * factor.to(t) if t.is_floating_point() else t
        )
        losses = per_sample_losses(per_sample, scaled, targets)
        # With weights that require grad, the graph of the first derivative shows a node that
        # cannot be differentiated again.
        weights = torch.ones_like(losses).requires_grad_(times > 1)
        first = slope((losses * weights).sum(), factor, create_graph=times > 1)
        if times > 1:
            if _cannot_differentiate_again(first):
                raise CriterionError(_NOT_TWICE.format("it is marked as differentiable once"))
            gradient(first, factor)


def _cannot_differentiate_again(value: Tensor) -> bool:
    """Whether the autograd graph holds an Error node, for a function differentiable only once."""
    todo, seen = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("Error"):
            return True
        seen.add(node)
        todo += [before for before, _ in node.next_functions]
    return False


def slope(value: Tensor, of: Tensor, *, create_graph: bool = False) -> Tensor:
    """Compute the gradient of a loss by a tensor; zero if the loss does not depend on it.

    Raises:
        CriterionError: as `gradients`.
    """
    return gradients(value, [of], create_graph=create_graph)[0]


def gradients(
    value: Tensor, of: Sequence[Tensor], *, create_graph: bool = False
) -> Sequence[Tensor]:
    """Compute the gradients of a loss by tensors, by one backward pass; zero where there is none.

    Raises:
        CriterionError: the loss has no autograd graph: it is computed by comparisons or rounding,
            or outside torch.
    """
    if not value.requires_grad:
        raise CriterionError(
            "a criterion based on derivatives needs a differentiable loss; torch cannot "
            "differentiate this one by the network's outputs. "
            'Use "ablation", or another loss.'
        )
    return torch.autograd.grad(
        value, of, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def gradient(value: Tensor, of: Tensor) -> Tensor:
    """Compute the gradient of a first derivative; zero if it has no autograd graph.

    Raises:
        CriterionError: it cannot be differentiated.
    """
    if not value.requires_grad:
        return torch.zeros_like(of)
    try:
        found = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)[0]
    except RuntimeError as error:
        raise CriterionError(_NOT_TWICE.format(error)) from error
    return torch.zeros_like(of) if found is None else found


def _weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """(candidates, n) sums over features of values (features, candidates, n) times weights."""
    return (values * weights[:, None]).sum(0)  # a quarter of the time that einsum takes
