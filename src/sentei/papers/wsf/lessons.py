"""Training images with distorted copies, and the logits of a convolutional teacher for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from sentei.datasets import Samples
from sentei.papers.distortion import distorted, epoch_of
from sentei.papers.wsf.parts import data
from sentei.reading.data import MemoryData
from sentei.training.models import cnn
from sentei.training.recipe import Recipe
from sentei.training.seeds import seeded
from sentei.training.train import Course

STRENGTH, SHEAR = 0.35, 0.05  # of the distortion: 4.2 degrees, 4.2 % in scale, 0.9 pixels
SEED = 1000  # of the teacher and of the copies; the same for every network that is taught


@dataclass(frozen=True, eq=False)
class Lessons:
    """Images to learn from, their labels and the teacher's logits.

    Attributes:
        images: (N, pixels) uint8: brightness from 0 to 255.
        labels: (N,) class numbers.
        logits: (N, classes) the teacher's.
        originals: number of images that are not copies; they come first.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    originals: int


@lru_cache(maxsize=1)
def lessons(copies: int, epochs: int, rows: int = 0) -> Lessons:
    """Return MNIST's training images and distorted copies of them, with the teacher's logits.

    Args:
        copies: how many distorted copies follow the original images.
        epochs: epochs that the teacher is trained for; all its logits are 0 if 0.
        rows: number of original images; all if 0.
    """
    originals = data(rows=rows).train
    pictures = originals.inputs.view(-1, 1, 28, 28)
    teacher = _teacher(Samples(pictures, originals.targets), epochs) if epochs else None
    images, logits = [], []
    with seeded(SEED):
        for copy in range(copies + 1):
            for part in pictures.split(5000):
                shown = distorted(part, STRENGTH, SHEAR) if copy else part
                bytes_of = (shown * 255).round().clamp(0, 255).to(torch.uint8)
                with torch.no_grad():
                    told = (
                        torch.zeros(len(part), 10) if teacher is None else teacher(bytes_of / 255)
                    )
                logits.append(told)
                images.append(bytes_of.view(-1, 784))
    return Lessons(
        torch.cat(images), originals.targets.repeat(copies + 1), torch.cat(logits), len(pictures)
    )


def _teacher(samples: Samples, epochs: int) -> nn.Module:
    """Train a small convolutional network on images that are distorted anew in every epoch."""
    network = cnn("1x28x28", "16-32", "64-10", seed=SEED)
    course = Course(
        network, samples, Recipe(epochs, "adam", 2e-3, batch_size=128, seed=SEED, decay="cosine")
    )
    for epoch in range(epochs):
        course.samples = MemoryData(*epoch_of(samples, SEED, epoch, STRENGTH))
        course.epoch(epoch, ())
    return network.eval()
