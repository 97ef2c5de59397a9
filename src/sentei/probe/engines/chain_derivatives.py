"""First and second derivatives of a loss along a plain chain: exact, and as the paper has them.

All tensors are laid out (features, samples) or (features, candidates, samples), as in `chain`. For
a tangent t of the pre-activations where the chain begins, carried forward through its steps,

    E'' = sum over elementwise steps of (g f'') . t**2  +  t H t at the output,

with g the gradient that comes back to the step and H the Hessian of the loss over the outputs. No
matrix between two units of a layer is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei import losses as named
from sentei.errors import CriterionError
from sentei.losses import wanted
from sentei.probe.recording.recording import PerSample, per_sample_losses

_ONCE = (
    "a curvature needs a loss that can be differentiated twice; this one cannot: {}. "
    'Use "taylor1" or "ablation".'
)
BLOCK_ELEMENTS = 1_000_000  # numbers in one block of work: 4 MB as float32


@dataclass(frozen=True, eq=False)
class OutputCurvature:
    """A quadratic form of each sample: diag(diagonal) - factor factor' + whole.

    Attributes:
        diagonal: (features, n).
        factor: (features, n), or None for nothing.
        whole: (features, features, n), or None for nothing.
    """

    diagonal: Tensor
    factor: Tensor | None = None
    whole: Tensor | None = None

    def per_feature(self) -> Tensor:
        """(features, n): its diagonal entries, cross terms left out."""
        entries = self.diagonal
        if self.factor is not None:
            entries = entries - self.factor.square()
        return entries if self.whole is None else entries + self.whole.diagonal().mT

    def before_elementwise(self, slope: Tensor, bend: Tensor) -> OutputCurvature:
        """The form before an elementwise step with this slope f' and this g f'' of its input."""
        factor = None if self.factor is None else self.factor * slope
        whole = None if self.whole is None else self.whole * slope * slope[:, None]
        return OutputCurvature(self.diagonal * slope.square() + bend, factor, whole)

    def along_tangents(self, tangents: Tensor) -> Tensor:
        """(candidates, n): the form at `tangents` (features, candidates, n)."""
        found = _weighed(tangents.square(), self.diagonal)
        if self.factor is not None:
            found -= _weighed(tangents, self.factor).square_()
        if self.whole is not None:
            for row, tangent in zip(self.whole, tangents, strict=True):
                found += _weighed(tangents, row) * tangent
        return found

    def at_columns(self, weight: Tensor) -> Tensor:
        """(columns, n): w' (form) w for every column w of `weight` (features, columns)."""
        found = weight.square().T @ self.diagonal
        if self.factor is not None:
            found -= (weight.T @ self.factor).square_()
        if self.whole is not None:
            pairs = (weight[:, None] * weight).flatten(0, 1)
            found += pairs.T @ self.whole.flatten(0, 1)
        return found


@dataclass(frozen=True, eq=False)
class ElementwiseStep:
    """An elementwise step on one block: slope f' and bend g f'', both (features, n)."""

    slope: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class ChainDerivatives:
    """What is known along a chain on one block, from where it begins to the loss.

    Attributes:
        steps: in order; a Tensor is the weight of a linear step.
        gradient: (features, n) where the chain begins, of every sample's own loss.
        end: the curvature of the loss over the outputs, at the last linear step's outputs (or where
            the chain begins, if it has none).
    """

    steps: tuple[ElementwiseStep | Tensor, ...]
    gradient: Tensor
    end: OutputCurvature

    def along_tangents(self, tangents: Tensor) -> Tensor:
        """(candidates, n): each sample's E'' along `tangents` (features, candidates, n), exact."""
        found = tangents.new_zeros(tangents.shape[1:])
        for step in self.steps:
            if isinstance(step, ElementwiseStep):
                found += _weighed(tangents.square(), step.second)
                tangents = tangents * step.slope[:, None]
            else:
                flat = step @ tangents.flatten(1)
                tangents = flat.view(-1, *tangents.shape[1:])
        return found + self.end.along_tangents(tangents)

    def per_feature(self) -> Tensor:
        """(features, n): second derivatives where the chain begins, exact."""
        if not self.steps:
            return self.end.per_feature()
        each = torch.eye(len(self.gradient)).to(self.gradient)[:, :, None]
        size = max(1, BLOCK_ELEMENTS // self.gradient.numel())
        parts = (part.expand(-1, -1, self.gradient.shape[1]) for part in each.split(size, 1))
        return torch.cat([self.along_tangents(part) for part in parts])

    def diagonal(self) -> Tensor:
        """(features, n): second derivatives where the chain begins, cross terms dropped on the way.

        Source: the appendix of "The Incredible Shrinking Neural Network" (there for logistic units
        and squared error), and LeCun, Denker and Solla (1990). Exact if no linear step follows and
        the loss has no cross terms.
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
    ending: Callable[[Tensor, Tensor], tuple[Tensor, OutputCurvature]],
) -> ChainDerivatives:
    """Derivatives along a chain.

    Args:
        steps: functions on (features, n).
        weights: of each step, its weight if it is linear; None if it is elementwise.
        z: (features, n) where the chain begins.
        targets: (n, ...).
        ending: (outputs (n, classes), targets) -> gradient (classes, n), curvature.
    """
    seen: list[tuple[Tensor, Tensor] | Tensor] = []
    for step, weight in zip(steps, weights, strict=True):
        if weight is None:
            z, slope, second = _derivatives(step, z)
            seen.append((slope, second))
        else:
            z = step(z)
            seen.append(weight)
    back, end = ending(z.T, targets)
    backwards: list[ElementwiseStep | Tensor] = []
    for part in reversed(seen):
        if isinstance(part, Tensor):
            back = part.T @ back
            backwards.append(part)
            continue
        steep, second = part
        bend = back * second
        back = back * steep
        if backwards:
            backwards.append(ElementwiseStep(steep, bend))
        else:  # elementwise steps at the end bend the loss itself
            end = end.before_elementwise(steep, bend)
    return ChainDerivatives(tuple(reversed(backwards)), back, end)


def _derivatives(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """f, f' and f'' of an elementwise function, by differentiating it twice."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = function(leaf.clone())  # it may work in place
        first = slope(value.sum(), leaf, create_graph=True)
        second = gradient(first.sum(), leaf)
    return value.detach(), first.detach(), second.detach()


def loss_derivatives(
    name: str | None, per_sample: PerSample
) -> Callable[..., tuple[Tensor, OutputCurvature]]:
    """Gradient and curvature of a loss over outputs (n, classes), in closed form where known."""
    if name in _CLOSED_FORMS:
        return _CLOSED_FORMS[name]
    return lambda outputs, targets: _by_autograd(per_sample, outputs, targets)


def _squared(outputs: Tensor, targets: Tensor) -> tuple[Tensor, OutputCurvature]:
    apart = (outputs - wanted(outputs, targets)).T
    return apart, OutputCurvature(torch.ones_like(apart))


def _binary(outputs: Tensor, targets: Tensor) -> tuple[Tensor, OutputCurvature]:
    chance = outputs.sigmoid()
    return (chance - wanted(outputs, targets)).T, OutputCurvature((chance * (1 - chance)).T)


def _softmax(outputs: Tensor, targets: Tensor) -> tuple[Tensor, OutputCurvature]:
    aims = wanted(outputs, targets).T
    total = aims.sum(0)
    chance = outputs.T.softmax(0)
    return chance * total - aims, OutputCurvature(chance * total, chance * total.sqrt())


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


def check_smooth(per_sample: PerSample, outputs: Tensor, targets: Tensor, times: int) -> None:
    """Refuse a loss that cannot be differentiated so many times, once or twice.

    Raises:
        CriterionError: with what to use instead.
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        # Weights that ask for derivatives too make torch note a derivative that has none itself.
        weights = torch.ones(len(outputs)).to(outputs).requires_grad_(times > 1)
        weighed = (per_sample_losses(per_sample, leaf, targets) * weights).sum()
        first = slope(weighed, leaf, create_graph=times > 1)
        if times > 1:
            if _cannot_differentiate_again(first):
                raise CriterionError(_ONCE.format("it is marked as differentiable once"))
            gradient(first.sum(), leaf)


def _cannot_differentiate_again(value: Tensor) -> bool:
    """Whether torch noted anywhere that nothing can be differentiated further."""
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
    """The gradient of a loss.

    Raises:
        CriterionError: it has none: it was made of comparisons or roundings, or left torch.
    """
    if not value.requires_grad:
        raise CriterionError(
            "a criterion that asks for derivatives needs a loss that has them; this one does not "
            'depend on the outputs in a way torch can follow. Use "ablation", or another loss.'
        )
    found = torch.autograd.grad(value, of, create_graph=create_graph, allow_unused=True)[0]
    return torch.zeros_like(of) if found is None else found


def gradient(value: Tensor, of: Tensor) -> Tensor:
    """The gradient; zero where there is nothing left to differentiate."""
    if not value.requires_grad:
        return torch.zeros_like(of)
    try:
        found = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)[0]
    except RuntimeError as error:
        raise CriterionError(_ONCE.format(error)) from error
    return torch.zeros_like(of) if found is None else found


def _weighed(values: Tensor, weights: Tensor) -> Tensor:
    """(candidates, n) sums over features of values (features, candidates, n)."""
    return (values * weights[:, None]).sum(0)  # a quarter of the time that einsum takes
