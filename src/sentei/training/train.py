"""`train` and `evaluate`: train a network on samples, and measure its accuracy and loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import DataError, LossError
from sentei.losses import PerSample, chosen, per_sample_losses
from sentei.metrics import Quality, metrics_for
from sentei.nests import resized, taken, tensors
from sentei.reading.batches import Unpack
from sentei.reading.data import MemoryData
from sentei.running import Forward, called
from sentei.shards import refuse_sharded
from sentei.training.distilling import Teaching
from sentei.training.feeding import TRIED, Feed, mode
from sentei.training.recipe import Recipe
from sentei.training.seeds import seeded

_BATCH = 1024  # samples per batch where nothing is trained


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
    samples: Any,
    recipe: Recipe | None = None,
    *,
    batch: Unpack | None = None,
    forward: Forward | None = None,
    after_update: Iterable[Callable[[], object]] = (),
    progress: Callable[[int, float], object] | None = None,
) -> History:
    """Train a network in place on samples, and return the mean loss of every epoch.

    Afterwards every module has its training or evaluation mode back, the global random state is
    what it was before, and gradients are cleared. The same recipe, network and data give the same
    bytes on the same machine with the same number of threads.

    Args:
        model: the network; it is trained on the device that its parameters are on.
        samples: what a `Probe` takes. `(inputs, targets)` and a Dataset are read in an order that
            `Recipe.seed` draws anew for each epoch, in batches of `Recipe.batch_size`. A loader or
            another iterable of batches is read once in every epoch, with its own batches in its own
            order; what it draws from torch's global random state depends on seed and epoch alone.
        recipe: how to train; ten epochs of Adam if None.
        batch: takes a batch apart, as for `Probe`.
        forward: how the network is run on inputs: callable(model, inputs) -> outputs.
        after_update: functions without arguments, called in this order after every update of the
            weights.
        progress: called after every epoch with its number, from 1, and its mean loss.

    Raises:
        StructureError: tensors of the network are in shards on several devices.
        DataError: the network cannot learn from the samples; nothing is changed then, unless a
            later batch of a loader is to blame.
        LossError: the loss does not fit the samples, and nothing is changed; or it is not finite,
            and the weights are those of the last update.
    """
    course = Course(model, samples, recipe or Recipe(), batch, forward)
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

    def __init__(
        self,
        model: nn.Module,
        samples: Any,
        recipe: Recipe,
        batch: Unpack | None = None,
        forward: Forward | None = None,
    ):
        refuse_sharded(model)
        self.model, self.recipe = model, recipe
        feed = Feed(model, samples, batch, forward)
        self.samples, self.loss = feed.learnt(recipe.loss, recipe.batch_size)
        if recipe.decay is not None and self.updates is None:
            raise DataError(
                f"decay={recipe.decay!r} follows the updates of an epoch, and this data has no "
                "length; pass a loader or a list of batches with a length, or leave decay= out"
            )
        self.optimizer = recipe.optimizer_for(model)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.teaching, self.told = None, None
        if recipe.distillation is not None:
            self.teaching = Teaching(recipe.distillation, self.loss)
            self.teaching.check(feed, self.samples.head.rows(0, TRIED).inputs)
            if isinstance(self.samples, MemoryData):
                self.told = self.teaching.outputs(self.samples.inputs)

    @property
    def updates(self) -> int | None:
        """How many updates an epoch has; None where the data has no length."""
        if isinstance(self.samples, MemoryData):
            return -(-len(self.samples) // self.recipe.batch_size)
        return self.samples.updates

    def epoch(self, number: int, after_update: Iterable[Callable[[], object]]) -> float:
        """Train for one epoch, and return its mean loss.

        Args:
            number: number of the epoch, from 0.
            after_update: called after every update.

        Raises:
            LossError: the loss is not finite.
            DataError: there are no samples, or a batch is not what the network takes.
        """
        total, rows = 0.0, 0
        with mode(self.model, training=True), seeded(self.recipe.seed, number):
            for update, (batch, told) in enumerate(self._batches()):
                self._set_learning_rate(number, update)
                loss = self._losses(batch, told).mean()
                value = loss.item()
                if not math.isfinite(value):
                    raise _not_finite(value, number, update, self.recipe)
                self.optimizer.zero_grad()
                self._backward(loss)
                self.optimizer.step()
                for call in after_update:
                    call()
                total += value * len(batch)
                rows += len(batch)
        self.optimizer.zero_grad()
        if not rows:
            raise DataError(f"an epoch must have samples; epoch {number + 1} found none to read")
        return total / rows

    def _batches(self) -> Iterator[tuple[MemoryData, Any]]:
        """Yield the batches of an epoch, each with what the teacher says of it."""
        samples, teaching = self.samples, self.teaching
        if isinstance(samples, MemoryData):
            order = torch.randperm(len(samples)).to(tensors(samples.targets)[0].device)
            for rows in order.split(self.recipe.batch_size):
                yield samples.at(rows), None if teaching is None else taken(self.told, rows)
        else:
            for batch in samples.batches():
                yield batch, None if teaching is None else teaching.outputs(batch.inputs)

    def _set_learning_rate(self, epoch: int, update: int) -> None:
        if self.recipe.decay is None or self.updates is None:
            return
        factor = self.recipe.part_of_lr(epoch + update / self.updates)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _losses(self, batch: MemoryData, told: Any) -> Tensor:
        outputs = called(self.model, batch.inputs)
        measured = self.loss.takes(outputs)
        if self.loss.name is not None and not isinstance(self.samples, MemoryData):
            chosen(self.loss.name, measured, batch.targets)
        losses = per_sample_losses(self.loss.per_sample, measured, batch.targets)
        if self.teaching is None:
            return losses
        return self.teaching.losses(losses, outputs, told, batch.targets)

    def _backward(self, loss: Tensor) -> None:
        """Compute gradients; raise LossError if there is none."""
        if loss.requires_grad:
            loss.backward()
        groups = self.optimizer.param_groups
        if all(parameter.grad is None for group in groups for parameter in group["params"]):
            raise LossError(
                "the loss must depend on weights of the network that are trained, and it depends "
                "on none. forward= must run the network in its first argument, and neither it nor "
                "the loss may detach what it computes."
            )


@checked
def evaluate(
    model: nn.Module,
    samples: Any,
    *,
    loss: str | PerSample | None = None,
    batch_size: int = _BATCH,
    batch: Unpack | None = None,
    forward: Forward | None = None,
) -> Evaluation:
    """Measure accuracy, or R², and mean loss of a network in evaluation mode.

    The model is not changed.

    Args:
        model: any network whose outputs the loss accepts.
        samples: what a `Probe` takes. More than 1 GiB of a loader is read twice, and both times it
            must give the same samples in the same order.
        loss: a name, or a callable(outputs, targets) that returns one loss per sample. If None,
            the loss of the network's `Card`, else cross entropy, for targets that are class
            numbers; see `sentei.losses.chosen`. Samples whose class numbers are all -100 are left
            out.
        batch_size: samples to run at once.
        batch: takes a batch apart, as for `Probe`.
        forward: how the network is run on inputs: callable(model, inputs) -> outputs.

    Raises:
        StructureError: tensors of the network are in shards on several devices.
        DataError: there are no samples, or the network cannot take them.
        LossError: the loss does not fit outputs and targets.
        ValueError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    refuse_sharded(model)
    feed = Feed(model, samples, batch, forward)
    ready, measured = feed.measured(loss)
    metrics = metrics_for(measured, ready.summary)
    total, sums = 0.0, torch.zeros(metrics.width, dtype=torch.float64)
    with mode(model, training=False), torch.no_grad():
        for block in map(feed.moved, ready.blocks(ready.boundaries(batch_size))):
            outputs = measured.takes(called(model, resized(block.inputs, Tensor.clone)))
            losses = per_sample_losses(measured.per_sample, outputs, block.targets)
            total += losses.double().sum().item()
            first = [*tensors(outputs), torch.zeros(0)][0]
            sums += metrics.sums(first, block.targets)
    return Evaluation.of(total / len(ready), metrics.quality(sums))


def _not_finite(value: float, epoch: int, update: int, recipe: Recipe) -> LossError:
    lr = "the optimizer's default learning rate" if recipe.lr is None else f"lr={recipe.lr}"
    return LossError(
        f"the loss must stay finite; it is {value} at epoch {epoch + 1}, update {update + 1}, with "
        f"{recipe.optimizer} and {lr}. Lower lr, or standardise the inputs."
    )
