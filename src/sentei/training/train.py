"""`train` and `evaluate`: train a network on tensors in memory, and measure accuracy and loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.arguments import checked
from sentei.card import card_of
from sentei.errors import DataError, LossError
from sentei.losses import Loss, PerSample, check_counting, chosen, per_sample_losses
from sentei.metrics import Quality, TargetSummary, metrics_for
from sentei.samples import Samples, check_samples
from sentei.training.recipe import Distillation, Recipe
from sentei.training.seeds import seeded

_BATCH = 1024  # samples per batch where nothing is trained

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class History:
    """The training losses that `train` returns.

    Attributes:
        losses: the mean training loss of every epoch; each sample's loss is that before its update.
        loss: name of the loss; None for a callable.
    """

    losses: tuple[float, ...]
    loss: str | None = None


class _AccuracyAndLoss(NamedTuple):
    accuracy: float | None
    loss: float


class Evaluation(_AccuracyAndLoss):
    """Accuracy and mean loss of a network, as `evaluate` returns them: a tuple of these two.

    Attributes:
        accuracy: part of the class numbers, or of 0/1 labels, that are right; None where the
            network predicts values.
        loss: mean loss per sample.
        metrics: "r2" and "mean_absolute_error" where the network predicts values, else empty; see
            `sentei.metrics.Quality`.
    """

    metrics: Mapping[str, float] = MappingProxyType({})

    @classmethod
    def of(cls, loss: float, quality: Quality) -> Evaluation:
        """Return what was measured as an Evaluation."""
        found = cls(quality.accuracy, loss)
        found.metrics = quality.metrics
        return found


@checked
def train(
    model: nn.Module,
    samples: Pair,
    recipe: Recipe | None = None,
    *,
    after_update: Iterable[Callable[[], object]] = (),
    progress: Callable[[int, float], object] | None = None,
) -> History:
    """Train a network in place on tensors in memory, and return the mean loss of every epoch.

    Afterwards every module has its training or evaluation mode back, the global random state is
    what it was before, and gradients are cleared. The same recipe, network and data give the same
    bytes on the same machine with the same number of threads.

    Args:
        model: the network; it is trained on the device that its parameters are on.
        samples: (inputs, targets) with one row per sample.
        recipe: how to train; ten epochs of Adam if None.
        after_update: functions without arguments, called in this order after every update of the
            weights.
        progress: called after every epoch with its number, from 1, and its mean loss.

    Raises:
        DataError: the network cannot learn from the samples; nothing is changed then.
        LossError: the loss does not fit the samples, and nothing is changed; or it is not finite,
            and the weights are those of the last update.
    """
    course = Course(model, samples, recipe or Recipe())
    calls, losses = tuple(after_update), []
    for epoch in range(course.recipe.epochs):
        losses.append(course.epoch(epoch, calls))
        if progress is not None:
            progress(epoch + 1, losses[-1])
    return History(tuple(losses), course.loss.name)


class Course:
    """A network, its optimizer and its data, ready to train one epoch at a time.

    The order of samples, the noise of dropout and the learning rate depend on the recipe and the
    number of the epoch only. To return to an epoch, restore the weights and the optimizer's state
    and pass its number.
    """

    def __init__(self, model: nn.Module, samples: Pair, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.samples, self.loss = _ready(model, samples, recipe.loss)
        recipe.check_distilled(self.loss.name)
        self.optimizer = recipe.optimizer_for(model)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.teacher = _teacher_outputs(recipe.distillation, model, self.samples.inputs)

    def epoch(self, number: int, after_update: Iterable[Callable[[], object]]) -> float:
        """Train for one epoch, and return its mean loss.

        Args:
            number: number of the epoch, from 0.
            after_update: called after every update.

        Raises:
            LossError: the loss is not finite.
        """
        total = 0.0
        with _mode(self.model, training=True), seeded(self.recipe.seed, number):
            order = torch.randperm(self.samples.rows).to(self.samples.targets.device)
            batches = order.split(self.recipe.batch_size)
            for update, rows in enumerate(batches):
                self._set_learning_rate(number + update / len(batches))
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

    def _set_learning_rate(self, epoch: float) -> None:
        if self.recipe.decay is None:
            return
        factor = self.recipe.part_of_lr(epoch)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _losses(self, rows: Tensor) -> Tensor:
        inputs, targets = self.samples.at(rows)
        outputs = self.model(inputs)
        losses = per_sample_losses(self.loss.per_sample, outputs, targets)
        distill = self.recipe.distillation
        if distill is None or self.teacher is None:
            return losses
        soft = F.log_softmax(outputs / distill.temperature, 1)
        divergence = F.kl_div(soft, self.teacher[rows], reduction="none", log_target=True).sum(1)
        scale = distill.weight * distill.temperature**2
        return losses * (1 - distill.weight) + divergence * scale


@checked
def evaluate(
    model: nn.Module,
    samples: Pair,
    *,
    loss: str | PerSample | None = None,
    batch_size: int = _BATCH,
) -> Evaluation:
    """Measure accuracy, or R², and mean loss of a network in evaluation mode.

    The model is not changed.

    Args:
        model: any network whose outputs the loss accepts.
        samples: (inputs, targets) with one row per sample.
        loss: a name, or a callable(outputs, targets) that returns one loss per sample. If None,
            the loss of the network's `Card`, else cross entropy, for targets that are class
            numbers; see `sentei.losses.chosen`. Samples whose class numbers are all -100 are left
            out.
        batch_size: samples to run at once.

    Raises:
        DataError: there are no samples, or the network cannot take them.
        LossError: the loss does not fit outputs and targets.
        ValueError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    ready, measured = _ready(model, samples, loss)
    metrics = metrics_for(measured, TargetSummary.of([ready.targets]))
    total, sums = 0.0, torch.zeros(metrics.width, dtype=torch.float64)
    with _mode(model, training=False), torch.no_grad():
        for inputs, targets in zip(*(part.split(batch_size) for part in ready), strict=True):
            outputs = model(inputs)
            losses = per_sample_losses(measured.per_sample, outputs, targets)
            total += losses.double().sum().item()
            sums += metrics.sums(outputs, targets)
    return Evaluation.of(total / ready.rows, metrics.quality(sums))


def _ready(model: nn.Module, samples: Pair, loss: str | PerSample | None) -> tuple[Samples, Loss]:
    """Check the samples against the model, and choose the loss.

    Returns:
        The samples that count, on the model's device, with targets as the loss takes them; and the
        loss.
    """
    inputs, targets = samples
    check_samples(inputs, targets)
    parameter = next(model.parameters(), None)
    ready = Samples(inputs, targets).to(inputs.device if parameter is None else parameter.device)
    outputs = _outputs_for(model, ready.inputs[:2])
    found = chosen(loss, outputs, ready.targets, card_of(model).loss)
    counts = found.counts(ready.targets)
    if counts is not None:
        check_counting(int(counts.sum()), len(counts))
        ready = ready.at(counts.nonzero().flatten())
    return Samples(ready.inputs, found.fitted(ready.targets)), found


def _outputs_for(model: nn.Module, inputs: Tensor) -> Tensor:
    """Run the model in evaluation mode; raise DataError if it cannot take the inputs."""
    with _mode(model, training=False), torch.no_grad(), seeded(0):
        try:
            return model(inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            shape = ", ".join(map(str, ("N", *inputs.shape[1:])))
            raise DataError(
                f"the model cannot take inputs of shape ({shape}) and type {inputs.dtype}: {error}"
            ) from error


def _teacher_outputs(
    distillation: Distillation | None, model: nn.Module, inputs: Tensor
) -> Tensor | None:
    """Return the teacher's softened log-probabilities, (N, classes); None without distillation."""
    if distillation is None:
        return None
    teacher, temperature = distillation.teacher, distillation.temperature
    given, needed = _outputs_for(teacher, inputs[:2]).shape, _outputs_for(model, inputs[:2]).shape
    if given != needed:
        raise DataError(
            f"teacher and network must output the same classes; the teacher's outputs have shape "
            f"{tuple(given)} for two samples and the network's {tuple(needed)}"
        )
    with _mode(teacher, training=False), torch.no_grad():
        parts = [F.log_softmax(teacher(part) / temperature, 1) for part in inputs.split(_BATCH)]
    return torch.cat(parts)


def _not_finite(value: float, epoch: int, update: int, recipe: Recipe) -> LossError:
    lr = "the optimizer's default learning rate" if recipe.lr is None else f"lr={recipe.lr}"
    return LossError(
        f"the loss must stay finite; it is {value} at epoch {epoch + 1}, update {update + 1}, with "
        f"{recipe.optimizer} and {lr}. Lower lr, or standardise the inputs."
    )


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set training or evaluation mode in a `with` block; every module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
