"""Train Keras's MNIST example network of 2016, with annealing instead of its two dropout layers.

After pip install '.[keras]' in the clone: python examples/annealing_keras.py. An epoch takes some
minutes on one core; python examples/annealing_keras.py 2 6400 does two epochs of 6,400 images.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

import sentei
from sentei import datasets
from sentei.integrations.keras import PruneWhileTraining


def main(
    epochs: int = 12, images: int = 60_000, batch: int = 128, every: int = 50
) -> tuple[sentei.Mask, float]:
    """Train the network; return its final mask and its test accuracy."""
    data = datasets.load("mnist:full", flat=False)
    train, test = data.train.first(images), data.test.first(images)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(10, activation="softmax", name="digits"),
        ]
    )
    adadelta = keras.optimizers.Adadelta(1.0)
    network.compile(adadelta, "sparse_categorical_crossentropy", metrics=["accuracy"])
    anneal = PruneWhileTraining(
        sentei.ranked("magnitude", sentei.linear(by="0.5 %"), within="group"),
        layers=["hidden", "digits"],
        every=every,
    )
    seen, asked = (part.inputs.permute(0, 2, 3, 1).numpy() for part in (train, test))
    network.fit(seen, train.targets.numpy(), batch_size=batch, epochs=epochs, callbacks=[anneal])
    predicted = network.predict(asked, batch_size=batch).argmax(1)
    right = float((predicted == test.targets.numpy()).mean())
    assert anneal.mask is not None
    return anneal.mask, right


if __name__ == "__main__":
    mask, right = main(*map(int, sys.argv[1:]))
    print(mask)
    print(f"{right:.2%} of the test images right")
