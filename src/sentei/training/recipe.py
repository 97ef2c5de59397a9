"""How to train: everything but the network and the data, as one value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn, optim

from sentei.errors import unknown
from sentei.losses import PerSample, per_sample

# Of each optimizer: its class, its usual learning rate and what else it is given.
OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], float, dict[str, float]]] = {
    "sgd": (optim.SGD, 0.1, {}),
    "momentum": (optim.SGD, 0.05, {"momentum": 0.9}),
    "adam": (optim.Adam, 0.001, {}),
    "rmsprop": (optim.RMSprop, 0.001, {}),
    "adadelta": (optim.Adadelta, 1.0, {"rho": 0.95, "eps": 1e-8}),  # Zeiler's (2012) own rho
}
_FUSED = (optim.SGD, optim.Adam)

# Of each decay: from the part of training that is over to that of the learning rate that is left.
DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2
}


@dataclass(frozen=True)
class Distillation:
    """Learning from a larger network as well as from the targets.

    The loss is `(1 - weight)` of the recipe's own and `weight` of `temperature ** 2` times the
    Kullback-Leibler divergence from the teacher's softened classes to the network's; the square
    keeps gradients the same size at every temperature.

    Source: Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network,
    section 2.

    Attributes:
        teacher: puts out logits for the same inputs; it is run once, in evaluation mode.
        temperature: divides the logits of both before the softmax.
        weight: of the teacher, from 0 to 1.
    """

    teacher: nn.Module = field(repr=False)
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"a temperature must be above 0, not {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the teacher's weight must be from 0 to 1, not {self.weight}")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes through the data.
        optimizer: "sgd", "momentum" (SGD with momentum 0.9), "adam", "rmsprop" or "adadelta"; or a
            callable that makes an optimizer of parameters.
        lr: learning rate; the optimizer's usual one if None.
        batch_size: samples in an update; an epoch's last update may have fewer.
        loss: a name, or a callable(outputs, targets) giving one loss per sample.
        weight_decay: as torch's optimizers mean it.
        seed: of the order of samples and of dropout.
        distillation: also learn from a teacher.
        decay: "cosine" lets the learning rate fall to zero over the epochs, along half a cosine, in
            every update (Loshchilov and Hutter 2017, SGDR, equation 5); None leaves it as it is.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """

    epochs: int = 10
    optimizer: str | Callable[[Iterable[nn.Parameter]], optim.Optimizer] = "adam"
    lr: float | None = None
    batch_size: int = 100
    loss: str | PerSample = "cross_entropy"
    weight_decay: float = 0.0
    seed: int = 0
    distillation: Distillation | None = None
    decay: str | None = None

    def __post_init__(self):
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
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"lr must be above 0, not {self.lr}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be 0 or more, not {self.weight_decay}")
        foreign = isinstance(self.loss, str) and self.loss != "cross_entropy"
        if self.distillation is not None and foreign:
            raise ValueError(
                f"distillation softens logits of a softmax with a temperature, and {self.loss} has "
                "none; use loss='cross_entropy'"
            )

    def part_of_lr(self, epoch: float) -> float:
        """What the learning rate is multiplied with after so many epochs, fractions included."""
        if self.decay is None:
            return 1.0
        return DECAYS[self.decay](epoch % self.epochs / self.epochs)

    def optimizer_for(self, network: nn.Module) -> optim.Optimizer:
        """A fresh optimizer of a network's parameters.

        Raises:
            ValueError: the network has nothing to train.
        """
        parameters = [p for p in network.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("the network has no parameter that requires a gradient")
        if not isinstance(self.optimizer, str):
            return self.optimizer(parameters)
        make, usual, options = OPTIMIZERS[self.optimizer]
        settings: dict[str, Any] = {"weight_decay": self.weight_decay, **options}
        where = {parameter.device.type for parameter in parameters}
        real = all(parameter.is_floating_point() for parameter in parameters)
        if make in _FUSED and real and where <= {"cpu", "cuda"}:
            settings["fused"] = True  # one call for an update, not one for each of its operations
        return make(parameters, lr=usual if self.lr is None else self.lr, **settings)
