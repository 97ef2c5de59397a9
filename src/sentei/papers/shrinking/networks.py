"""Networks and data of the shrinking experiments: the paper's two, and those beyond the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from sentei import datasets, training
from sentei.datasets import Samples
from sentei.network.mask import Mask
from sentei.training import FineTune, Recipe, evaluate


@dataclass(frozen=True)
class Setting:
    """A network and how it is trained.

    Attributes:
        hidden: widths of the hidden layers.
        data: name of the data set; see `samples`.
        activation: activation of the hidden layers.
        output: activation of the last layer; None leaves logits.
        init: initialisation of the weights: see `training.initialise_`.
        loss: name of the loss.
        stop: training ends once the mean loss per training sample is at most this.
        epochs: training ends after this number of epochs at the latest.
        lr: learning rate of Adam.
        ranked: number of training samples that units are ranked on.
    """

    hidden: tuple[int, ...]
    data: str = "crop"
    activation: str = "sigmoid"
    output: str | None = "sigmoid"
    init: str = "glorot"
    loss: str = "half_squared_error"
    stop: float = 0.0
    epochs: int = 120
    lr: float = 2e-3
    ranked: int = 4500

    @property
    def units(self) -> int:
        """Number of hidden units in all layers."""
        return sum(self.hidden)


ONE, TWO = 38.02 / 4500, 20.48 / 4500  # mean errors at which the paper's networks start
_LOGITS = {"output": None, "loss": "cross_entropy"}
SETTINGS = {
    "1x100": Setting((100,), stop=ONE),
    "2x50": Setting((50, 50), stop=TWO),
    "1x100-large": Setting((100,), stop=ONE, init="normal", lr=1e-2),
    "2x50-large": Setting((50, 50), stop=TWO, init="normal", lr=1e-2),
    "less-trained": Setting((100,), stop=0.1),
    "three-layers": Setting((30, 30, 30), stop=TWO),
    "relu": Setting((100,), activation="relu", init="torch", stop=0.01, **_LOGITS),
    "letter": Setting((64,), "letter", init="torch", epochs=12, lr=5e-3, ranked=3000, **_LOGITS),
    "mnist": Setting((100,), "mnist", init="torch", epochs=3, **_LOGITS),
    "diamond": Setting((50,), "diamond", init="torch", epochs=60, lr=1e-2, **_LOGITS),
}


def setting(name: str, quick: bool) -> Setting:
    """Return a setting by name; with `quick`, a smaller network, less training and less data."""
    full = SETTINGS[name]
    if not quick:
        return full
    hidden = tuple(width // 5 for width in full.hidden)
    epochs, ranked = min(full.epochs, 12), min(full.ranked, 1000)
    return replace(full, hidden=hidden, epochs=epochs, ranked=ranked)


def samples(name: str, seed: int) -> tuple[Samples, Samples]:
    """Return the samples for training and ranking, and held-out samples that neither uses."""
    if name == "diamond":  # inside |x| + |y| < 1 or not, in a square of side 3
        points = torch.rand(3000, 2, generator=torch.Generator().manual_seed(seed)) * 3 - 1.5
        generated = Samples(points, (points.abs().sum(1) < 1).long())
        return generated.first(1500), generated.at(torch.arange(1500, 3000))
    split = datasets.load({"crop": "mnist:shrinking"}.get(name, name), seed=seed)
    # The two halves of MNIST's test file differ, so take every second image: some of both halves.
    test = split.test
    return split.train, test.at(torch.arange(0, test.rows, 2)) if name != "letter" else test


def trained(
    how: Setting, hidden: Sequence[int], learn: Samples, seed: int, epochs: int | None = None
) -> tuple[nn.Sequential, int]:
    """Train a network with these hidden widths; return it and the number of epochs it took."""
    classes = int(learn.targets.max()) + 1
    widths = (learn.inputs.shape[1], *hidden, classes)
    model = training.mlp(widths, how.activation, how.output, init=how.init, seed=seed)
    recipe = Recipe(1, "adam", lr=how.lr, batch_size=50, loss=how.loss, seed=seed)
    tune, full_mask = FineTune(learn, recipe), Mask.full(())
    max_epochs = how.epochs if epochs is None else epochs
    for epoch in range(1, max_epochs + 1):
        tune(model, full_mask)
        if how.stop and evaluate(model, learn, loss=how.loss).loss <= how.stop:
            return model, epoch
    return model, max_epochs
