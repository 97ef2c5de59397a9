"""Several networks of one hidden layer, trained side by side as one while synapses are exchanged.

All networks see the same batches, so the first layers are one matrix product and the second layers
one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.network.mask import Mask
from sentei.network.units import find_synapses
from sentei.papers.wsf.lessons import Lessons
from sentei.papers.wsf.parts import flow
from sentei.training.models import mlp

PIXELS, CLASSES, BRIGHTEST = 784, 10, 255
LIT = 0.01  # a pixel that a smaller part of the images lights is not read
SEEN = 1024  # images that the deviation of hidden units is computed from


class Ricker(nn.Module):
    """The activation (1 - z²) exp(-z² / 2), the "Mexican hat": large near 0, negative beside it."""

    def forward(self, z: Tensor) -> Tensor:
        """Return the activation of every entry."""
        square = z.square()
        return (1 - square) * torch.exp(square / -2)


@dataclass(frozen=True, eq=False)
class Stack:
    """Networks of equal widths, one hidden layer each, without the pixels that they may not read.

    Attributes:
        first: (networks, hidden, pixels) weights of the first layers.
        first_bias: (networks, hidden).
        second: (networks, classes, hidden) weights of the second layers.
        second_bias: (networks, classes).
        alive: which entries of `first` and of `second` are alive; the others are 0.
        pixels: (pixels,) the positions in an image of the columns of `first`.
        activation: what makes the hidden layers' activation.
    """

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    alive: tuple[Tensor, Tensor]
    pixels: Tensor
    activation: Callable[[], nn.Module]

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that training changes."""
        return self.first, self.first_bias, self.second, self.second_bias

    def hidden(self, images: Tensor) -> Tensor:
        """Return the outputs of the hidden units, (networks, hidden, N), for bytes (N, pixels)."""
        flat = self.first.flatten(0, 1)
        summed = torch.addmm(
            self.first_bias.view(-1, 1), flat, images.float().T, alpha=1 / BRIGHTEST
        )
        return self.activation()(summed).view(*self.first_bias.shape, -1)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits, (networks, classes, N), for bytes (N, pixels)."""
        return torch.baddbmm(self.second_bias[..., None], self.second, self.hidden(images))


@dataclass(frozen=True)
class Plan:
    """How the networks are trained, and how many synapses they keep.

    Attributes:
        keep: number of synapses of each network at the end.
        epochs: an epoch is as many updates as batches fill the original images.
        share: part of the kept synapses that is exchanged at first; it falls along a cosine.
        whole: whether nothing is removed from the second layer. Then synapses of the first are
            ranked by |w| std(input), else those of both by `flow`.
        lr: learning rate of Adam at the start; it falls to zero along half a cosine.
        batch: images in an update.
        weight: weight of the teacher in the loss; labels have the rest.
        temperature: of the distillation.
        reach: part of the exchanges after which only `keep` synapses are left.
        settle: part of the training, at its end, in which nothing is exchanged and over which
            weights are averaged.
        averaged: number of updates whose gradients are averaged before an exchange.
    """

    keep: int
    epochs: int
    share: float = 0.3
    whole: bool = True
    lr: float = 0.01
    batch: int = 512
    weight: float = 0.7
    temperature: float = 2.0
    reach: float = 0.1
    settle: float = 0.25
    averaged: int = 20


def readable(lessons: Lessons) -> Tensor:
    """Return the positions of the pixels that at least one in a hundred original images lights."""
    lit = (lessons.images[: lessons.originals] > 0).float().mean(0)
    return (lit >= LIT).nonzero().flatten()


def begun(
    seeds: Sequence[int], width: int, pixels: Tensor, activation: str | Callable[[], nn.Module]
) -> Stack:
    """Return untrained networks, each with the weights that `mlp` gives it, all synapses alive."""
    networks = [mlp((PIXELS, width, CLASSES), activation, seed=seed) for seed in seeds]
    first, first_bias, second, second_bias = (
        torch.stack([network.get_parameter(name).detach() for network in networks])
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    )
    first = first[:, :, pixels].contiguous()
    alive = torch.ones_like(first, dtype=torch.bool), torch.ones_like(second, dtype=torch.bool)
    made = type(networks[0][1])
    return Stack(first, first_bias, second, second_bias, alive, pixels, made)


def trained(stack: Stack, lessons: Lessons, plan: Plan, seed: int) -> Stack:
    """Train the networks and exchange synapses once an epoch; return their averaged weights.

    Args:
        stack: the networks at the start; not changed.
        lessons: images, labels and a teacher's logits.
        plan: how.
        seed: of the order of images, which is the same for all networks.
    """
    images = lessons.images[:, stack.pixels].contiguous()
    deviation = (images[: lessons.originals] / BRIGHTEST).std(0)
    wanted = _wanted(lessons, plan)
    stack = _copied(stack)
    parameters = [weight.requires_grad_() for weight in stack.weights]
    optimizer = torch.optim.Adam(parameters, plan.lr, fused=True)
    batch = min(plan.batch, lessons.originals)
    updates = lessons.originals // batch
    events = max(int(plan.epochs * (1 - plan.settle)), 1)
    start = sum(int(part.sum()) for part in stack.alive) // len(stack.first)
    sums, gathered = [torch.zeros_like(p) for p in parameters], _none(stack)
    order = _batches(len(images), batch, seed)
    for epoch in range(plan.epochs):
        for update in range(updates):
            done = (epoch * updates + update) / (plan.epochs * updates)
            optimizer.param_groups[0]["lr"] = plan.lr * (1 + math.cos(math.pi * done)) / 2
            rows = next(order)
            logits = stack.logits(images.index_select(0, rows))
            logits.backward(_slope(logits.detach(), wanted.index_select(0, rows), plan))
            listening = epoch < events and update >= updates - plan.averaged
            _step(stack, optimizer, gathered if listening else ())
        if epoch < events:
            _exchange(stack, gathered, plan, epoch + 1, events, start, deviation, images[:SEEN])
            gathered = _none(stack)
        else:
            torch._foreach_add_(sums, [p.detach() for p in parameters])
    settled = max(plan.epochs - events, 1)
    final = [total / settled for total in sums] if plan.epochs > events else parameters
    first, first_bias, second, second_bias = (weight.detach().clone() for weight in final)
    return replace(
        stack, first=first, first_bias=first_bias, second=second, second_bias=second_bias
    )


def networks(stack: Stack) -> Iterator[tuple[nn.Sequential, Mask]]:
    """Yield each network as torch layers, and the mask of its alive synapses."""
    width = stack.first.shape[1]
    for place in range(len(stack.first)):
        network = mlp((PIXELS, width, CLASSES), stack.activation)
        first = torch.zeros(width, PIXELS)
        first[:, stack.pixels] = stack.first[place]
        kept = torch.zeros(width, PIXELS, dtype=torch.bool)
        kept[:, stack.pixels] = stack.alive[0][place]
        weights = (first, stack.first_bias[place], stack.second[place], stack.second_bias[place])
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
        groups = find_synapses(network)
        dead = [(~part).flatten().nonzero().flatten() for part in (kept, stack.alive[1][place])]
        mask = Mask.full(groups).without(dict(zip(groups, dead, strict=True)))
        mask.apply_(network)
        yield network, mask


def _copied(stack: Stack) -> Stack:
    """Return the stack with tensors of its own."""
    first, first_bias, second, second_bias = (weight.detach().clone() for weight in stack.weights)
    alive = stack.alive[0].clone(), stack.alive[1].clone()
    return Stack(first, first_bias, second, second_bias, alive, stack.pixels, stack.activation)


def _none(stack: Stack) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(stack.first), torch.zeros_like(stack.second)


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Yield rows of one batch after the other, without end; each pass has an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def _wanted(lessons: Lessons, plan: Plan) -> Tensor:
    """Return what the class probabilities are drawn to, labels and teacher together, (N, classes).

    The two are weighted as in `_slope`.
    """
    softened = F.softmax(lessons.logits / plan.temperature, 1)
    labels = F.one_hot(lessons.labels, CLASSES)
    return (1 - plan.weight) * labels + plan.weight * plan.temperature * softened


def _slope(logits: Tensor, wanted: Tensor, plan: Plan) -> Tensor:
    """Return the derivative of the loss by the logits, (networks, classes, N).

    The loss of a network is the mean over images of cross-entropy times `1 - weight`, plus the
    divergence from the softened teacher times `weight * temperature ** 2`, as in `Distillation`.
    """
    own = F.softmax(logits, 1).mul_(1 - plan.weight)
    softened = F.softmax(logits / plan.temperature, 1).mul_(plan.weight * plan.temperature)
    return own.add_(softened).sub_(wanted.T).div_(len(wanted))


@torch.no_grad()
def _step(stack: Stack, optimizer: torch.optim.Optimizer, gathered: Sequence[Tensor]) -> None:
    """Update the alive weights; add the gradients of all weights to `gathered`."""
    layers = (stack.first, stack.second)
    gradients = [layer.grad for layer in layers if layer.grad is not None]
    for total, gradient in zip(gathered, gradients, strict=False):
        total.add_(gradient)
    for gradient, alive in zip(gradients, stack.alive, strict=True):
        gradient.mul_(alive)
    optimizer.step()
    for layer, alive in zip(layers, stack.alive, strict=True):
        layer.mul_(alive)
    optimizer.zero_grad()


@torch.no_grad()
def _exchange(
    stack: Stack,
    gathered: Sequence[Tensor],
    plan: Plan,
    event: int,
    events: int,
    start: int,
    deviation: Tensor,
    seen: Tensor,
) -> None:
    """Remove the weakest synapses of each network, and regrow those with the largest gradient.

    Args:
        stack: changed in place.
        gathered: sums of gradients of both layers.
        plan: how many are kept and exchanged.
        event: number of this exchange, from 1.
        events: number of exchanges in all.
        start: number of synapses at the start.
        deviation: (pixels,) standard deviation of each input.
        seen: (n, pixels) images that the deviation of hidden units is computed from.
    """
    part = min(event / max(plan.reach * events, 1), 1)
    keep = round(start * (plan.keep / start) ** part)
    share = plan.share * (1 + math.cos(math.pi * event / events)) / 2
    exchanged = round(share * keep)
    if plan.whole:
        kept = stack.first.abs() * deviation, torch.full_like(stack.second, torch.inf)
    else:
        kept = flow(stack.first, stack.second, deviation, stack.hidden(seen).std(2))
    for place in range(len(stack.first)):
        alive = torch.cat([mask[place].flatten() for mask in stack.alive])
        scores = torch.cat([score[place].flatten() for score in kept])
        growth = torch.cat([total[place].flatten() for total in gathered]).abs()
        removed = int(alive.sum()) - keep + exchanged
        weakest = scores.masked_fill(~alive, torch.inf).topk(removed, largest=False).indices
        strongest = growth.masked_fill(alive, -1).topk(exchanged).indices
        alive[weakest] = False
        alive[strongest] = True
        edge = stack.first[place].numel()
        stack.alive[0][place] = alive[:edge].view_as(stack.alive[0][place])
        stack.alive[1][place] = alive[edge:].view_as(stack.alive[1][place])
    for layer, alive in zip((stack.first, stack.second), stack.alive, strict=True):
        layer.mul_(alive)
