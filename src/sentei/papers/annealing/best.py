"""How far annealing goes today: a larger network, distorted digits, a rate that falls to zero."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from sentei.datasets import load
from sentei.network.units import find_synapses
from sentei.papers.annealing.distortion import epoch_of
from sentei.pruning.rules.proposals import ranked
from sentei.pruning.rules.schedules import cubic
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.training import Recipe, evaluate
from sentei.training.seeds import seeded
from sentei.training.train import Course

BATCH, EVERY = 128, 50
FILTERS = (24, 32, 64, 64)


def serious(seed: int, epochs: int, images: int, keep: str = "25 %") -> dict[str, Any]:
    """Train a network of today, a quarter of whose synapses stay; its settings were not searched.

    Every epoch sees each image turned, stretched and moved anew. In every layer the synapses of
    least magnitude go, along a cubic schedule that ends after four fifths of the updates.

    Args:
        seed: of the weights, the distortions and the order of samples.
        epochs: passes through the data.
        images: how many of MNIST's training images are used, and of its test images at most.
        keep: of the synapses.

    Returns:
        Test accuracy and loss after every epoch, and how many synapses are left of how many.
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
    told: dict[str, Any] = {"test": []}
    for epoch in range(epochs):
        course.samples = epoch_of(samples, seed, epoch)
        course.epoch(epoch, ())
        told["test"].append(list(evaluate(model, test, batch_size=BATCH)))
    told["kept"] = sum(pruner.mask.count(group) for group in groups)
    told["synapses"] = sum(group.size for group in groups)
    return told


def network(seed: int) -> nn.Sequential:
    """Four convolutions with batch norm, two poolings, 128 hidden units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with seeded(seed):
        heard = 1
        for place, width in enumerate(FILTERS, 1):
            layers[f"conv{place}"] = nn.Conv2d(heard, width, 3, bias=False)
            layers[f"norm{place}"] = nn.BatchNorm2d(width)
            layers[f"act{place}"] = nn.ReLU()
            if place % 2 == 0:
                layers[f"pool{place}"] = nn.MaxPool2d(2)
            heard = width
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(heard * 16, 128, bias=False)
        layers["norm5"] = nn.BatchNorm1d(128)
        layers["act5"] = nn.ReLU()
        layers["fc2"] = nn.Linear(128, 10)
    model = nn.Sequential(layers)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
