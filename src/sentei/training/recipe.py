"""`Recipe`: how to train a network, as one value; everything but the network and the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn, optim

from sentei.arguments import checked
from sentei.errors import unknown
from sentei.losses import PerSample, per_sample
from sentei.training.distilling import Distillation, check_softened

# For each optimizer: its class, its default learning rate and other options.
OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], float, dict[str, float]]] = {
    "sgd": (optim.SGD, 0.1, {}),
    "momentum": (optim.SGD, 0.05, {"momentum": 0.9}),
    "adam": (optim.Adam, 0.001, {}),
    "rmsprop": (optim.RMSprop, 0.001, {}),
    "adadelta": (optim.Adadelta, 1.0, {"rho": 0.95, "eps": 1e-8}),  # Zeiler's (2012) own rho
}
_FUSED = (optim.SGD, optim.Adam)

# For each decay: a function from the part of training done (0 to 1) to a learning-rate factor.
DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2
}


@checked
@dataclass(frozen=True)
class Recipe:
    """How to train a network: epochs, optimizer, loss, batches and seed.

    Attributes:
        epochs: number of passes through the data.
        optimizer: "sgd", "momentum" (SGD with momentum 0.9), "adam", "rmsprop" or "adadelta"; or a
            callable that takes parameters and returns an optimizer.
        lr: learning rate; the optimizer's default in `OPTIMIZERS` if None.
        batch_size: samples per update; the last update of an epoch may have fewer.
        loss: a name, or a callable(outputs, targets) that returns one loss per sample. If None,
            cross entropy, for targets that are class numbers; see `sentei.losses.chosen`.
        weight_decay: weight decay of the optimizer, as in torch.
        seed: seed of the order of samples and of dropout.
        distillation: a teacher to learn from as well; none if None.
        decay: "cosine" lowers the learning rate to zero over the epochs, along half a cosine, at
            every update (Loshchilov and Hutter 2017, SGDR, equation 5); None keeps it constant.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """

    epochs: int = 10
    optimizer: str | Callable[[Iterable[nn.Parameter]], optim.Optimizer] = "adam"
    lr: float | None = None
    batch_size: int = 100
    loss: str | PerSample | None = None
    weight_decay: float = 0.0
    seed: int = 0
    distillation: Distillation | None = None
    decay: str | None = None

    def __post_init__(self):
        if self.loss is not None:
            per_sample(self.loss)
        if self.decay is not None and self.decay not in DECAYS:
            raise ValueError(unknown("decay", self.decay, DECAYS))
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            raise ValueError(unknown("optimizer", self.optimizer, OPTIMIZERS))
        if not isinstance(self.optimizer, str) and (self.lr is not None or self.weight_decay):
            raise ValueError(
                "a callable optimizer sets its own lr and weight_decay; leave them out"
            )
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be above 0 and finite, not {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be 0 or more and finite, not {self.weight_decay}")
        if isinstance(self.loss, str) and self.distillation is not None:
            check_softened(self.distillation, self.loss, None)

    def part_of_lr(self, epoch: float) -> float:
        """Return the factor of the learning rate after `epoch` epochs, which may be a fraction."""
        if self.decay is None:
            return 1.0
        return DECAYS[self.decay](epoch % self.epochs / self.epochs)

    def optimizer_for(self, network: nn.Module) -> optim.Optimizer:
        """Return a new optimizer of the network's parameters that require a gradient.

        Raises:
            ValueError: no parameter requires a gradient.
        """
        parameters = [p for p in network.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("the network has no parameter that requires a gradient")
        if not isinstance(self.optimizer, str):
            return self.optimizer(parameters)
        make, usual, options = OPTIMIZERS[self.optimizer]
        settings: dict[str, Any] = {"weight_decay": self.weight_decay, **options}
        devices = {parameter.device.type for parameter in parameters}
        real = all(parameter.is_floating_point() for parameter in parameters)
        if make in _FUSED and real and devices <= {"cpu", "cuda"}:
            settings["fused"] = True  # one call per update, instead of one per operation
        return make(parameters, lr=usual if self.lr is None else self.lr, **settings)
