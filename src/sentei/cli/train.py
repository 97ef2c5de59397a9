"""The command `sentei train`: train a network and save it."""

from __future__ import annotations

from pathlib import Path

from cyclopts.types import ExistingFile


def train(
    data: str = "mnist",
    *,
    target: str = "-1",
    model: str = "784-100-10",
    epochs: int = 10,
    optimizer: str = "adam",
    lr: float | None = None,
    batch_size: int = 100,
    loss: str = "cross_entropy",
    weight_decay: float = 0.0,
    decay: str | None = None,
    teacher: ExistingFile | None = None,
    temperature: float = 4.0,
    teacher_weight: float = 0.9,
    seed: int = 0,
    threads: int = 1,
    out: Path = Path("model.safetensors"),
) -> None:
    """Train a new network on a data set and save it.

    Parameters
    ----------
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    model
        Layer widths of a multilayer perceptron, with an activation if it is not sigmoid
        (784-300-100-10:relu), or the name of a convolutional network (cnn-annealing,
        cnn-distinctiveness).
    epochs
        Number of passes through the training data.
    optimizer
        Optimizer: sgd, momentum, adam, rmsprop or adadelta.
    lr
        Learning rate; the optimizer's usual rate if left out.
    batch_size
        Number of samples in an update.
    loss
        Loss to train with: cross_entropy or half_squared_error.
    weight_decay
        Weight decay, as the weight_decay of torch's optimizers.
    decay
        Schedule of the learning rate: cosine lowers it to zero over the epochs; constant if left
        out.
    teacher
        File of a trained network that sentei saved, to learn from as well as from the targets
        (distillation).
    temperature
        Softmax temperature of distillation: a higher one softens the teacher's class probabilities.
    teacher_weight
        Weight of the teacher in the loss, from 0 to 1; the targets have the rest.
    seed
        Random seed: the same seed on the same machine gives the same bytes.
    threads
        Number of CPU threads that torch may use; one gives the same bytes everywhere and leaves
        other cores free.
    out
        File to write the network to (.safetensors).
    """
    import torch

    from sentei import datasets, formats, training
    from sentei.cli.screen import column, progress, say

    torch.set_num_threads(threads)
    network = training.build(model, seed=seed)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    distillation = None
    if teacher is not None:
        distillation = training.Distillation(formats.load(teacher), temperature, teacher_weight)
    recipe = training.Recipe(
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        batch_size=batch_size,
        loss=loss,
        weight_decay=weight_decay,
        seed=seed,
        distillation=distillation,
        decay=decay,
    )
    with progress("training", epochs) as advance:
        training.train(
            network,
            split.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
    formats.save(network, out)
    say(f"Saved {out}.")
    if split.validation.rows:
        accuracy, mean = training.evaluate(network, split.validation, loss=loss)
        right = "" if accuracy is None else f"accuracy {accuracy:.2%}, "
        say(f"On {split.validation.rows:,} validation samples: {right}loss {mean:.4f}.")
