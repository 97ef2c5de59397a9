"""Knowledge distillation: a loss against the outputs of a teacher network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.arguments import checked
from sentei.errors import DataError
from sentei.losses import Loss, PerSample, per_sample, per_sample_losses
from sentei.nests import joined, split, tensors
from sentei.running import Example, ForwardCall, called, own_inputs
from sentei.shards import refuse_sharded
from sentei.target_forms import IGNORED
from sentei.training.feeding import Feed, mode

_ROWS = 1024  # samples that a teacher is run on at once
_BETWEEN_OUTPUTS = ("absolute_error", "half_squared_error")


@checked
@dataclass(frozen=True)
class Distillation:
    """Knowledge distillation: train on the outputs of a teacher network as well as on the targets.

    The loss is `(1 - weight)` times the recipe's own, plus `weight * temperature ** 2` times the
    Kullback-Leibler divergence from the teacher's softened class probabilities to the network's.
    The square keeps gradients the same size at every temperature. Where outputs have positions, the
    divergence of a sample is the mean over those that count.

    Source: Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network,
    section 2.

    Attributes:
        teacher: a network that takes the same inputs, in the same way (`forward=`). It is run in
            evaluation mode: once on samples in memory, else on each batch.
        temperature: divides the logits of both networks before the softmax.
        weight: weight of the teacher in the loss, from 0 to 1.
        loss: what takes the place of `temperature ** 2` times the divergence, for networks that do
            not output logits of classes: "half_squared_error" or "absolute_error" between the first
            outputs of both, or a callable(outputs, teacher's outputs) -> (N,), which gets outputs
            as a callable `Recipe.loss` does.
    """

    teacher: nn.Module = field(repr=False)
    temperature: float = 4.0
    weight: float = 0.9
    loss: str | PerSample | None = None

    def __post_init__(self):
        refuse_sharded(self.teacher)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"a temperature must be above 0 and finite, not {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the teacher's weight must be from 0 to 1, not {self.weight}")
        if isinstance(self.loss, str) and self.loss not in _BETWEEN_OUTPUTS:
            per_sample(self.loss)
            raise ValueError(
                f"{self.loss} takes no outputs as targets; a loss between the outputs of two "
                f"networks is {' or '.join(_BETWEEN_OUTPUTS)}, or a callable of your own"
            )


def check_softened(how: Distillation, name: str | None, predicts: str | None) -> None:
    """Raise ValueError if the recipe's loss is not that of a classifier and needs `how.loss`.

    Args:
        how: the teacher.
        name: of the recipe's loss; None for a callable.
        predicts: what the callable predicts, as in `losses.Loss`.
    """
    softmax = name == "cross_entropy" if name else predicts == "classes"
    if softmax or how.loss is not None:
        return
    what = f"{name} has" if name else "a loss of your own on these targets may have"
    raise ValueError(
        f"distillation softens logits of a softmax with a temperature, and {what} no softmax; use "
        "loss='cross_entropy', or say how outputs are compared with the teacher's: "
        "Distillation(teacher, loss='half_squared_error'), or a callable(outputs, teacher's "
        "outputs) -> (N,)"
    )


@dataclass(frozen=True)
class Teaching:
    """A teacher for one network and its loss.

    Attributes:
        how: teacher, temperature, weight and loss.
        loss: the recipe's own.
    """

    how: Distillation
    loss: Loss

    def check(self, feed: Feed, inputs: Example) -> None:
        """Raise an error if the teacher does not fit the network.

        Args:
            feed: the network and its data.
            inputs: a few samples.

        Raises:
            DataError: it does not take the inputs, or outputs other classes.
            ValueError: the loss is not that of a classifier.
        """
        check_softened(self.how, self.loss.name, self.loss.predicts)
        given = feed.outputs_for(self.how.teacher, inputs)
        needed = feed.outputs_for(feed.model, inputs)
        if callable(self.how.loss):
            return
        shapes = [tuple(first.shape) for first in map(_first, (given, needed))]
        if shapes[0] != shapes[1]:
            raise DataError(
                "teacher and network must output the same classes; the teacher's outputs have "
                f"shape {shapes[0]} for two samples and the network's {shapes[1]}"
            )

    def outputs(self, inputs: Example) -> Any:
        """Return what the teacher says of samples, a row for each: as `losses` takes it."""
        teacher, own = self.how.teacher, own_inputs(inputs)
        with mode(teacher, training=False), torch.no_grad():
            parts = [
                ForwardCall(part, inputs.forward) if isinstance(inputs, ForwardCall) else part
                for part in split(own, _ROWS)
            ]
            return joined([self._told(called(teacher, part)) for part in parts])

    def losses(self, own: Tensor, outputs: Any, told: Any, targets: Any) -> Tensor:
        """Return the losses (n,) of a batch.

        Args:
            own: (n,), those of the recipe's own loss.
            outputs: the network's.
            told: what `outputs` returned for the same samples.
            targets: of the samples.
        """
        how = self.how
        if how.loss is None:
            apart = self._divergence(outputs, told, targets)
            return own * (1 - how.weight) + apart * (how.weight * how.temperature**2)
        compare = per_sample(how.loss)
        outputs = outputs if callable(how.loss) else _first(outputs)
        return own * (1 - how.weight) + per_sample_losses(compare, outputs, told) * how.weight

    def _told(self, outputs: Any) -> Any:
        if self.how.loss is None:
            return F.log_softmax(_first(outputs) / self.how.temperature, 1)
        return outputs if callable(self.how.loss) else _first(outputs)

    def _divergence(self, outputs: Any, told: Tensor, targets: Any) -> Tensor:
        soft = F.log_softmax(_first(outputs) / self.how.temperature, 1)
        apart = F.kl_div(soft, told, reduction="none", log_target=True).sum(1)
        if apart.ndim == 1:
            return apart
        counts = torch.ones_like(apart)
        if self.loss.predicts == "classes" and targets.shape == apart.shape:
            counts = (targets != IGNORED).to(apart.dtype)
        return (apart * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)


def _first(outputs: Any) -> Tensor:
    return tensors(outputs)[0]
