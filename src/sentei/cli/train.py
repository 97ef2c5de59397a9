"""The command `sentei train`: train a network and save it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.types import ExistingFile

from sentei.cli.bounds import Above0, Count, From0, Share
from sentei.cli.options import NETWORK, Data, OutFile, RunOnDevice, TrainingLoss
from sentei.cli.screen import Result

if TYPE_CHECKING:
    import torch

    from sentei.datasets import Split
    from sentei.training import Distillation

TRAINING = Group("Training", sort_key=1)
DISTILLATION = Group("Distillation", sort_key=2)


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class Optimization:
    """How weights are learned: the fields of a `Recipe`.

    Attributes:
        epochs: Number of passes through the training data.
        optimizer: Optimizer: sgd, momentum, adam, rmsprop or adadelta.
        lr: Learning rate; the optimizer's usual rate if left out.
        batch_size: Number of samples in an update.
        weight_decay: Weight decay, as the weight_decay of torch's optimizers.
        decay: Schedule of the learning rate: cosine lowers it to zero over the epochs; constant if
            left out.
    """

    epochs: Count = 10
    optimizer: str = "adam"
    lr: Above0 | None = None
    batch_size: Count = 100
    loss: TrainingLoss = None
    weight_decay: From0 = 0.0
    decay: str | None = None


@Parameter(name="*", group=DISTILLATION)
@dataclass(frozen=True)
class Teaching:
    """A network to learn from.

    Attributes:
        teacher: File of a trained network that sentei saved, to learn from as well as from the
            targets (distillation).
        temperature: Softmax temperature of distillation: a higher one softens the teacher's class
            probabilities.
        teacher_weight: Weight of the teacher in the loss, from 0 to 1; the targets have the rest.
    """

    teacher: ExistingFile | None = None
    temperature: Above0 = 4.0
    teacher_weight: Share = 0.9

    def distillation(self, split: Split, device: torch.device) -> Distillation | None:
        """Load the teacher, so that it takes the inputs of a Split; None if there is none."""
        from sentei import training
        from sentei.cli.loading import opened, standardising

        if self.teacher is None:
            return None
        network = standardising(opened(self.teacher)[0], split)
        return training.Distillation(network.to(device), self.temperature, self.teacher_weight)


def train(
    data: Data = Data(),
    *,
    model: Annotated[str, Parameter(group=NETWORK)] = "784-100-10",
    optimization: Optimization = Optimization(),
    teaching: Teaching = Teaching(),
    out: OutFile = Path("model.safetensors"),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Train a new network on a data set and save it.

    Parameters
    ----------
    model
        Layer widths of a multilayer perceptron, with an activation if it is not sigmoid
        (784-300-100-10:relu); a convolutional network by the shape of one input, its channels and
        its last layers (conv:3x32x32:16-32:64-10, conv:2x128:16:5 in one dimension); the name of a
        paper's network (cnn-annealing, cnn-distinctiveness); or your own, file.py:name or
        package.module:name.
    out
        File to write the network to (.safetensors).
    """
    from sentei import formats, training
    from sentei.cli.loading import built, is_own, own_loss, trained_, with_samples
    from sentei.metrics import measured_words

    run.start()
    network, split = with_samples(built(model, data.seed), data, own=is_own(model))
    network.to(run.place())
    teacher = teaching.distillation(split, run.place())
    own = own_loss(optimization.loss)
    settings = {**vars(optimization), "loss": own or optimization.loss or data.default_loss()}
    recipe = training.Recipe(**settings, seed=data.seed, distillation=teacher)
    trained_(network, split, recipe, "training")
    formats.save(network, out)
    found: dict[str, Any] = {"out": out, "samples": split.validation.rows}
    if not split.validation.rows:
        nothing = {"accuracy": None, "loss": None, "metrics": {}}
        return Result({**found, **nothing}, (f"Saved {out}.",))
    measured = training.evaluate(network, split.validation, loss=own)
    words = measured_words(measured.accuracy, measured.loss, measured.metrics)
    line = f"On {split.validation.rows:,} validation samples: {words}."
    found |= {**measured._asdict(), "metrics": measured.metrics}
    return Result(found, (f"Saved {out}.", line))
