"""Ordinary training, on tensors in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.errors import DataError, LossError
from sentei.losses import PerSample, per_sample
from sentei.samples import Samples, check_classes, check_samples
from sentei.training.recipe import Distillation, Recipe
from sentei.training.seeds import seeded

_AT_ONCE = 1024

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class History:
    """What training went through.

    Attributes:
        losses: of every epoch, the mean over its samples, each as it was seen.
    """

    losses: tuple[float, ...]


class Evaluation(NamedTuple):
    """How good a network is.

    Attributes:
        accuracy: part of the samples whose largest output is their class; None without classes.
        loss: mean per sample.
    """

    accuracy: float | None
    loss: float


def train(
    model: nn.Module,
    samples: Pair,
    recipe: Recipe | None = None,
    *,
    after_update: Iterable[Callable[[], object]] = (),
    progress: Callable[[int, float], object] | None = None,
) -> History:
    """Train a network; modes and global random state are put back, gradients are cleared.

    The same recipe, network and data on the same machine and number of threads give the same bytes.

    Args:
        model: trained in place, on the device it is on.
        samples: (inputs, targets) with a row for each sample.
        recipe: how; ten epochs of Adam if None.
        after_update: called without arguments after every update of the weights, in this order.
        progress: called after every epoch with its number, from 1, and its mean loss.

    Raises:
        DataError: samples that the network cannot learn from; nothing has changed then.
        LossError: the loss is not finite; the weights are as the last update left them.
    """
    course = Course(model, samples, recipe or Recipe())
    calls, losses = tuple(after_update), []
    for epoch in range(course.recipe.epochs):
        losses.append(course.epoch(epoch, calls))
        if progress is not None:
            progress(epoch + 1, losses[-1])
    return History(tuple(losses))


class Course:
    """A network, an optimizer and data, checked and ready: one epoch at a time.

    The order of samples, the noise of dropout and the learning rate are functions of the recipe and
    the epoch's number, so that going back to an epoch takes no more than its number, the weights
    and the optimizer's state.
    """

    def __init__(self, model: nn.Module, samples: Pair, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.samples = _ready(model, samples, recipe.loss)
        self.loss = per_sample(recipe.loss)
        self.optimizer = recipe.optimizer_for(model)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.teacher = _taught(recipe.distillation, model, self.samples.inputs)

    def epoch(self, number: int, after_update: Iterable[Callable[[], object]]) -> float:
        """Pass through the data once, and give the mean loss.

        Raises:
            LossError: it is not finite.
        """
        total = 0.0
        with _mode(self.model, training=True), seeded(self.recipe.seed, number):
            order = torch.randperm(self.samples.rows).to(self.samples.targets.device)
            batches = order.split(self.recipe.batch_size)
            for update, rows in enumerate(batches):
                self._slow_down(number + update / len(batches))
                loss = self._losses(rows).mean()
                value = loss.item()
                if not math.isfinite(value):
                    raise _not_finite(value, number, update, self.recipe)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                for call in after_update:
                    call()
                total += value * len(rows)
        self.optimizer.zero_grad()
        return total / self.samples.rows

    def _slow_down(self, epoch: float) -> None:
        if self.recipe.decay is None:
            return
        left = self.recipe.part_of_lr(epoch)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * left

    def _losses(self, rows: Tensor) -> Tensor:
        inputs, targets = self.samples.at(rows)
        outputs = self.model(inputs)
        losses = _checked(self.loss, outputs, targets)
        told = self.recipe.distillation
        if told is None or self.teacher is None:
            return losses
        soft = F.log_softmax(outputs / told.temperature, 1)
        apart = F.kl_div(soft, self.teacher[rows], reduction="none", log_target=True).sum(1)
        return losses * (1 - told.weight) + apart * (told.weight * told.temperature**2)


def evaluate(
    model: nn.Module,
    samples: Pair,
    *,
    loss: str | PerSample = "cross_entropy",
    batch_size: int = _AT_ONCE,
) -> Evaluation:
    """Accuracy and mean loss in evaluation mode; the model is left as it was.

    Args:
        model: any network whose output the loss can be taken of.
        samples: (inputs, targets) with a row for each sample.
        loss: a name, or a callable(outputs, targets) giving one loss per sample.
        batch_size: samples to run at once.

    Raises:
        DataError: samples that the network cannot take, or none.
    """
    measured, ready = per_sample(loss), _ready(model, samples, loss)
    classes = ready.targets.ndim == 1 and not ready.targets.is_floating_point()
    total = torch.zeros((), dtype=torch.float64)
    right = 0
    with _mode(model, training=False), torch.no_grad():
        for inputs, targets in zip(*(part.split(batch_size) for part in ready), strict=True):
            outputs = model(inputs)
            total += _checked(measured, outputs, targets).double().sum().cpu()
            if classes:
                right += int((outputs.argmax(1) == targets).sum())
    return Evaluation(right / ready.rows if classes else None, total.item() / ready.rows)


def _ready(model: nn.Module, samples: Pair, loss: str | PerSample) -> Samples:
    """The samples on the model's device, after everything that can be checked was."""
    inputs, targets = samples
    check_samples(inputs, targets)
    parameter = next(model.parameters(), None)
    ready = Samples(inputs, targets).to(inputs.device if parameter is None else parameter.device)
    outputs = _tried(model, ready.inputs[:2])
    # What whole targets mean to somebody's own loss is not known; to a named one they are classes.
    classes = isinstance(loss, str) and targets.ndim == 1 and not targets.is_floating_point()
    if classes and outputs.ndim == 2:
        check_classes(targets, outputs.shape[1])
    return ready


def _tried(model: nn.Module, inputs: Tensor) -> Tensor:
    with _mode(model, training=False), torch.no_grad(), seeded(0):
        try:
            return model(inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            shape = ", ".join(map(str, ("N", *inputs.shape[1:])))
            raise DataError(
                f"the model cannot take inputs of shape ({shape}) and type {inputs.dtype}: {error}"
            ) from error


def _taught(distillation: Distillation | None, model: nn.Module, inputs: Tensor) -> Tensor | None:
    """(N, classes): the teacher's softened log-probabilities."""
    if distillation is None:
        return None
    teacher, temperature = distillation.teacher, distillation.temperature
    told, wanted = _tried(teacher, inputs[:2]).shape, _tried(model, inputs[:2]).shape
    if told != wanted:
        raise DataError(
            f"teacher and network must put out the same classes; the teacher's outputs are "
            f"{tuple(told)} for two samples and the network's {tuple(wanted)}"
        )
    with _mode(teacher, training=False), torch.no_grad():
        parts = [F.log_softmax(teacher(part) / temperature, 1) for part in inputs.split(_AT_ONCE)]
    return torch.cat(parts)


def _checked(loss: PerSample, outputs: Tensor, targets: Tensor) -> Tensor:
    found = loss(outputs, targets)
    if found.shape != targets.shape[:1]:
        raise LossError(
            f"a loss must give one number per sample, shape ({len(targets)},); this one gave "
            f'{tuple(found.shape)}. Use reduction="none" and sum over what belongs to one sample.'
        )
    return found


def _not_finite(value: float, epoch: int, update: int, recipe: Recipe) -> LossError:
    lr = "the optimizer's usual learning rate" if recipe.lr is None else f"lr={recipe.lr}"
    return LossError(
        f"the loss must stay finite; it is {value} at epoch {epoch + 1}, update {update + 1}, with "
        f"{recipe.optimizer} and {lr}. Lower lr, or standardise the inputs."
    )


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; every module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
