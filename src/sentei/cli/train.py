"""`sentei train`."""

from __future__ import annotations

from pathlib import Path


def train(
    data: str = "mnist",
    *,
    model: str = "784-100-10",
    epochs: int = 10,
    optimizer: str = "adam",
    lr: float | None = None,
    batch_size: int = 100,
    loss: str = "cross_entropy",
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
    seed
        The same seed on the same machine gives the same bytes.
    threads
        Small networks train fastest on one.
    out
        The file to write.
    """
    import torch

    from sentei import datasets, export, training
    from sentei.cli.screen import progress, say

    torch.set_num_threads(threads)
    network = training.build(model, seed=seed)
    split = datasets.load(data, flat=training.takes_flat(network), seed=seed)
    recipe = training.Recipe(
        epochs=epochs, optimizer=optimizer, lr=lr, batch_size=batch_size, loss=loss, seed=seed
    )
    with progress("training", epochs) as advance:
        training.train(
            network,
            split.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
    accuracy, mean = training.evaluate(network, split.validation, loss=loss)
    export.save(network, out)
    say(f"{out}: {accuracy:.2%} of {len(split.validation.targets):,} validation samples right, ")
    say(f"loss {mean:.4f}. Test data was not looked at.")
