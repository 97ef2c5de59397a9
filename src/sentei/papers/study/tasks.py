"""The tasks of the study: data, network and training; each is a row of a table.

Pruning changes the widths of a network only, so a task builds its network from a list of widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, scaled_dot_product_attention

from sentei.criteria import Trajectory
from sentei.datasets import idx_folder, letter, mnist
from sentei.errors import unknown
from sentei.network.copying import copied
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group
from sentei.running import Example
from sentei.samples import Samples
from sentei.training import Recipe, cnn, mlp, seeded, train

LEARNT, TESTED, SEEN = 12_000, 4_000, 1_000  # samples of each network, at most
IMAGES = "images:"  # the name of a task with a user's images begins so; the folder follows
HEAD_SIZE = 8  # of an attention head

Data = Callable[[int], tuple[Samples, Samples]]
Network = Callable[[Sequence[int], int], nn.Module]


@dataclass(frozen=True)
class Task:
    """A network on data of its own: what is trained, and what may be cut.

    Attributes:
        data: a function of a seed that returns training and test samples.
        network: a function (widths, seed) that builds the network.
        widths: how many units each group has that may be cut, in the order of the network.
        recipe: how the network is trained.
        tested: number of test samples that every network is measured on, at most.
        learnt: number of training samples, at most.
        seen: number of those that criteria and repairs use, at most.
    """

    data: Data
    network: Network
    widths: tuple[int, ...]
    recipe: Recipe
    tested: int = TESTED
    learnt: int = LEARNT
    seen: int = SEEN

    def samples(self, seed: int) -> tuple[Samples, Samples]:
        """Draw the training and test samples of a seed."""
        learn, judge = self.data(seed)
        return _drawn(learn, self.learnt, seed), _drawn(judge, self.tested, seed + 1_000)

    def groups(self, network: nn.Module, inputs: Example) -> list[Group]:
        """Return the groups that may be cut, all but those that a network's sums tie together."""
        found = [group for group in find_units(network, inputs) if group.kind != "stream"]
        return list(found)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network of a task, with what criteria and measurements need.

    Attributes:
        task: the task.
        network: the trained network.
        past: the record of its training.
        groups: its groups that may be cut; those of every copy are equal.
        learn: its training samples.
        judge: its test samples.
    """

    task: Task
    network: nn.Module
    past: Trajectory
    groups: list[Group]
    learn: Samples
    judge: Samples

    def copy(self) -> tuple[nn.Module, Trajectory]:
        """Return a copy of the network, with a copy of the record."""
        network = copied(self.network)
        past = Trajectory(network)
        past.load_state_dict(self.past.state_dict())
        return network, past


@cache
def trained(name: str, seed: int, quick: bool = False) -> Trained:
    """Train a task's network with a seed, once in a process."""
    made = task(name, quick)
    learn, judge = made.samples(seed)
    network = made.network(made.widths, seed)
    past = Trajectory(network)
    train(network, learn, replace(made.recipe, seed=seed), after_update=[past])
    groups = made.groups(network.eval(), learn.inputs[:8])
    return Trained(made, network, past, groups, learn, judge)


def task(name: str, quick: bool = False) -> Task:
    """Return a task by name; with `quick` a smaller one of the same kind.

    Raises:
        ValueError: no task has this name.
    """
    if name.startswith(IMAGES):
        found = _of_images(name.removeprefix(IMAGES))
    elif name in TASKS:
        found = TASKS[name]
    elif name in VARIANTS:
        found = VARIANTS[name]
    else:
        raise ValueError(unknown("task", name, (*TASKS, *VARIANTS)))
    if not quick:
        return found
    return replace(found, recipe=replace(found.recipe, epochs=2), tested=500, learnt=2_000)


def _drawn(samples: Samples, most: int, seed: int) -> Samples:
    order = torch.randperm(samples.rows, generator=torch.Generator().manual_seed(seed))
    return samples.at(order[:most])


def _mnist(flat: bool) -> Data:
    @cache
    def read() -> tuple[Samples, Samples]:
        split = mnist(flat=flat)
        if flat:
            return split.train, split.test
        return _halved(split.train), _halved(split.test)

    return lambda seed: read()  # noqa: ARG005 - the draw of the seed comes after it


def _halved(samples: Samples) -> Samples:
    """Average images over squares of two by two pixels: a quarter of the work."""
    return Samples(avg_pool2d(samples.inputs, 2), samples.targets)


def _letters(seed: int) -> tuple[Samples, Samples]:
    split = letter(seed=seed)
    return split.train, split.test


def _friedman(seed: int) -> tuple[Samples, Samples]:
    """Draw rows of a regression on ten numbers, five of which matter, standardised.

    Source: Friedman (1991), Multivariate adaptive regression splines, the first of its functions,
    with its noise of deviation 1.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(LEARNT + TESTED, 10, generator=generator)
    a, b, c, d, e = inputs[:, :5].unbind(1)
    values = 10 * (math.pi * a * b).sin() + 20 * (c - 0.5).square() + 10 * d + 5 * e
    values = values + torch.randn(len(values), generator=generator)
    targets = (values - values[:LEARNT].mean()) / values[:LEARNT].std()
    inputs, targets = (inputs - 0.5) * 12**0.5, targets[:, None]
    learn = Samples(inputs[:LEARNT], targets[:LEARNT])
    return learn, Samples(inputs[LEARNT:], targets[LEARNT:])


def _perceptron(inputs: int, outputs: int) -> Network:
    return lambda widths, seed: mlp((inputs, *widths, outputs), "relu", seed=seed)


def _convolutions(shape: Sequence[int], outputs: int) -> Network:
    """Return what builds two convolutions and a hidden layer from three widths."""
    return lambda widths, seed: cnn(tuple(shape), widths[:2], (widths[2], outputs), seed=seed)


def _of_images(folder: str) -> Task:
    """Return the task of a user's images: as many updates as for MNIST, however few they are.

    Raises:
        DataError: a file is missing, truncated or not IDX.
    """
    split, like = idx_folder(Path(folder), flat=False), TASKS["mnist cnn"]
    epochs = round(like.recipe.epochs * LEARNT / min(split.train.rows, LEARNT))
    return replace(
        like,
        data=lambda seed: (split.train, split.test),  # noqa: ARG005
        network=_convolutions(split.shape, len(split.classes)),
        recipe=replace(like.recipe, epochs=epochs),
    )


class Attention(nn.Module):
    """Attention of heads of 8 dimensions, over all tokens.

    Args:
        size: numbers of a token.
        heads: number of heads.
    """

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, heads * HEAD_SIZE) for _ in range(3))
        self.out = nn.Linear(heads * HEAD_SIZE, size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (N, tokens, size)."""
        split = (
            layer(tokens).unflatten(2, (-1, HEAD_SIZE)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(*split)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A block of a transformer: attention and a hidden layer, each added to its normed input.

    Args:
        size: numbers of a token.
        heads: number of heads.
        hidden: number of hidden units.
    """

    def __init__(self, size: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.fc1, self.act, self.fc2 = nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (N, tokens, size)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.fc2(self.act(self.fc1(self.norm2(tokens))))


class Rows(nn.Module):
    """A transformer that reads an image row by row.

    Args:
        widths: heads and hidden units of each block in turn.
        size: numbers of a token.
        rows: number of rows, and of pixels in a row.
        outputs: number of classes.
    """

    def __init__(self, widths: Sequence[int], size: int = 32, rows: int = 14, outputs: int = 10):
        super().__init__()
        self.read = nn.Linear(rows, size)
        self.place = nn.Parameter(0.02 * torch.randn(rows, size))
        pairs = zip(widths[::2], widths[1::2], strict=True)
        self.blocks = nn.Sequential(*(Block(size, heads, hidden) for heads, hidden in pairs))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, classes) logits of images (N, 1, rows, rows)."""
        tokens = self.blocks(self.read(images.squeeze(1)) + self.place)
        return self.head(self.norm(tokens).mean(1))


def _by_rows(widths: Sequence[int], seed: int) -> nn.Module:
    with seeded(seed):
        return Rows(widths)


def _recipe(epochs: int, lr: float, **more: Any) -> Recipe:
    return Recipe(epochs, "adam", lr, 256, decay="cosine", **more)


TASKS: dict[str, Task] = {
    "mnist mlp": Task(_mnist(True), _perceptron(784, 10), (64, 32), _recipe(10, 0.005)),
    "letter mlp": Task(_letters, _perceptron(16, 26), (64, 48, 32), _recipe(12, 0.01)),
    "friedman mlp": Task(
        _friedman, _perceptron(10, 1), (64, 32), _recipe(10, 0.01, loss="half_squared_error")
    ),
    "mnist cnn": Task(
        _mnist(False),
        _convolutions((1, 14, 14), 10),
        (8, 16, 32),
        _recipe(6, 0.01),
        2_000,
        seen=500,
    ),
    "mnist transformer": Task(
        _mnist(False), _by_rows, (4, 48, 4, 48), _recipe(6, 0.005), tested=1_000, seen=250
    ),
}
# One setting of a task changed at a time, to see what decides which criterion is best.
_BASE = TASKS["mnist mlp"]
VARIANTS: dict[str, Task] = {
    "one hidden layer": replace(_BASE, widths=(64,)),
    "four hidden layers": replace(_BASE, widths=(64, 48, 32, 32)),
    "half the width": replace(_BASE, widths=(32, 16)),
    "four times the width": replace(_BASE, widths=(256, 128)),
    "one epoch": replace(_BASE, recipe=_recipe(1, 0.005)),
    "forty epochs": replace(_BASE, recipe=_recipe(40, 0.005)),
    "weight decay": replace(_BASE, recipe=_recipe(10, 0.005, weight_decay=1e-3)),
    "a tenth of the images": replace(_BASE, learnt=1_200, recipe=_recipe(40, 0.005)),
}
