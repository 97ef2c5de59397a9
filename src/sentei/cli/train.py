"""`sentei train`."""

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
    """Train a network and save it.

    Parameters
    ----------
    data
        mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz or a
        folder of IDX files.
    target
        The column of a .csv to predict, by name or position; the last if left out.
    model
        Layer widths, with an activation if it is not sigmoid (784-300-100-10:relu), or the name of
        a convolutional network (cnn-annealing, cnn-distinctiveness).
    epochs
        Passes through the training data.
    optimizer
        sgd, momentum, adam, rmsprop or adadelta.
    lr
        Learning rate; the optimizer's usual one if left out.
    batch_size
        Samples in an update.
    loss
        cross_entropy or half_squared_error.
    weight_decay
        As torch's optimizers mean it.
    decay
        cosine lets the learning rate fall to zero over the epochs.
    teacher
        A larger network that sentei saved, to learn from as well as from the targets.
    temperature
        Softens the classes that the teacher puts out.
    teacher_weight
        How much the teacher counts against the targets, from 0 to 1.
    seed
        The same seed on the same machine gives the same bytes.
    threads
        How many torch may use; one gives the same bytes everywhere and leaves other cores alone.
    out
        The file to write.
    """
    import torch

    from sentei import datasets, formats, training
    from sentei.cli.screen import column, progress, say

    torch.set_num_threads(threads)
    network = training.build(model, seed=seed)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    told = None
    if teacher is not None:
        told = training.Distillation(formats.load(teacher), temperature, teacher_weight)
    recipe = training.Recipe(
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        batch_size=batch_size,
        loss=loss,
        weight_decay=weight_decay,
        seed=seed,
        distillation=told,
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
