"""Distillation: small networks that learn from a large one and are pruned during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sentei.datasets import Split
from sentei.papers.sensitivity.checks import Check
from sentei.papers.sensitivity.runs import course, data_of
from sentei.samples import Samples
from sentei.training import Distillation, Recipe, build, evaluate, train

TEMPERATURE = 3.0


def taught(
    seed: int,
    teacher: str,
    lesson: int,
    copies: int,
    noise: float,
    students: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Train a large network on the authors' 16,000 rows, and small ones on its outputs.

    Every sample is used several times, every time but the first with noise added to its inputs. The
    students learn from the teacher's outputs only, not from the labels. All are trained by Adam,
    with a learning rate that falls to zero.

    Args:
        seed: of all random numbers.
        teacher: widths of the teacher.
        lesson: epochs of the teacher, over all copies.
        copies: how often every sample is used.
        noise: standard deviation of the noise; that of the inputs is 1.
        students: by name: `widths`, `epochs` over all copies, `lr`, `batch`, and settings of a
            `Check` if units are removed during training.

    Returns:
        The teacher's test accuracy, and the result of `course` for each student.
    """
    plain = data_of("authors", seed)
    data = _shaken(plain, copies, noise, seed)
    large = build(teacher, seed=seed)
    train(large, data.train, Recipe(lesson, "adam", 0.002, 128, seed=seed, decay="cosine"))
    distillation = Distillation(large, TEMPERATURE, weight=1.0)
    result: dict[str, Any] = {"teacher": evaluate(large, plain.test).accuracy}
    for name, student in students.items():
        recipe = Recipe(
            student["epochs"], "adam", student["lr"], student["batch"], seed=seed,
            distillation=distillation, decay="cosine",
        )  # fmt: skip
        rule = Check(**student["check"]) if "check" in student else None
        propose = None if rule is None else rule.propose(recipe.epochs)
        result[name] = course(student["widths"], data, recipe, rule, propose)
    return result


def _shaken(data: Split, copies: int, noise: float, seed: int) -> Split:
    """Repeat the training samples `copies` times, all but the first with noise on the inputs."""
    inputs, targets = data.train
    draw = torch.Generator().manual_seed(seed)
    noisy = [inputs + noise * torch.randn(inputs.shape, generator=draw) for _ in range(copies - 1)]
    train = Samples(torch.cat([inputs, *noisy]), targets.repeat(copies))
    return Split(data.name, train, data.validation, data.test, data.features, data.classes)
