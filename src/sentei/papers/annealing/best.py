"""Annealed pruning of a larger, modern network: batch norm, distorted digits, cosine decay."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from sentei.datasets import load
from sentei.network.units import find_synapses
from sentei.papers.distortion import epoch_of
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import cubic
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.reading.data import MemoryData
from sentei.training import Recipe, evaluate
from sentei.training.seeds import seeded
from sentei.training.train import Course

BATCH, EVERY = 128, 50
FILTERS = (24, 32, 64, 64)


def serious(seed: int, epochs: int, images: int, keep: str = "25 %") -> dict[str, Any]:
    """Train a modern network and prune it during training to a quarter of its synapses.

    Every epoch shows each image with another random rotation, scaling and shift. In every layer the
    synapses of least magnitude are removed, by a cubic schedule that ends after four fifths of the
    updates. The settings of this training were not searched.

    Args:
        seed: of the weights, the distortions and the order of samples.
        epochs: passes through the data.
        images: how many of MNIST's training images are used, and at most how many test images.
        keep: part of the synapses that is kept.

    Returns:
        Test accuracy and loss after every epoch, the number of synapses that are left, and the
        number of all synapses.
    """
    data = load("mnist:full", flat=False)
    samples, test = data.train.first(images), data.test.first(images)
    model = network(seed)
    recipe = Recipe(
        epochs, "adam", 0.003, batch_size=BATCH, weight_decay=1e-5, seed=seed, decay="cosine"
    )
    course = Course(model, samples, recipe)
    groups = find_synapses(model)
    updates = epochs * -(-samples.rows // BATCH)
    pruner = PruneWhileTraining(
        model, groups, ranked("magnitude", cubic(keep), within="group"), EVERY, updates, finish=0.8
    ).attach(course.optimizer)
    result: dict[str, Any] = {"test": []}
    for epoch in range(epochs):
        course.samples = MemoryData(*epoch_of(samples, seed, epoch))
        course.epoch(epoch, ())
        result["test"].append(list(evaluate(model, test, batch_size=BATCH)))
    result["kept"] = sum(pruner.mask.count(group) for group in groups)
    result["synapses"] = sum(group.size for group in groups)
    return result


def network(seed: int) -> nn.Sequential:
    """Return a network of four convolutions with batch norm, two poolings and 128 hidden units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with seeded(seed):
        channels = 1
        for place, width in enumerate(FILTERS, 1):
            layers[f"conv{place}"] = nn.Conv2d(channels, width, 3, bias=False)
            layers[f"norm{place}"] = nn.BatchNorm2d(width)
            layers[f"act{place}"] = nn.ReLU()
            if place % 2 == 0:
                layers[f"pool{place}"] = nn.MaxPool2d(2)
            channels = width
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(channels * 16, 128, bias=False)
        layers["norm5"] = nn.BatchNorm1d(128)
        layers["act5"] = nn.ReLU()
        layers["fc2"] = nn.Linear(128, 10)
    model = nn.Sequential(layers)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
