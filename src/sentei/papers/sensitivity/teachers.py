"""How good few units can get: small networks that learn from a large one."""

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
    """Train a large network on the authors' 16,000 rows, and small ones on what it says.

    Samples are there several times, all but the first time with noise on their inputs; the teacher
    is asked about each, and the students learn from it alone. Adam, with a learning rate that falls
    to zero.

    Args:
        seed: of everything.
        teacher: its widths.
        lesson: epochs of the teacher, over all copies.
        copies: how often every sample is there.
        noise: deviation of the noise, of inputs with deviation 1.
        students: by name, `widths`, `epochs` over all copies, `lr`, `batch`, and settings of a
            `Check` where units go on the way.

    Returns:
        The teacher's test accuracy, and for each student what `course` tells.
    """
    plain = data_of("authors", seed)
    data = _shaken(plain, copies, noise, seed)
    large = build(teacher, seed=seed)
    train(large, data.train, Recipe(lesson, "adam", 0.002, 128, seed=seed, decay="cosine"))
    distillation = Distillation(large, TEMPERATURE, weight=1.0)
    told: dict[str, Any] = {"teacher": evaluate(large, plain.test).accuracy}
    for name, student in students.items():
        recipe = Recipe(
            student["epochs"], "adam", student["lr"], student["batch"], seed=seed,
            distillation=distillation, decay="cosine",
        )  # fmt: skip
        rule = Check(**student["check"]) if "check" in student else None
        propose = None if rule is None else rule.propose(recipe.epochs)
        told[name] = course(student["widths"], data, recipe, rule, propose)
    return told


def _shaken(data: Split, copies: int, noise: float, seed: int) -> Split:
    inputs, targets = data.train
    draw = torch.Generator().manual_seed(seed)
    shaken = [inputs + noise * torch.randn(inputs.shape, generator=draw) for _ in range(copies - 1)]
    train = Samples(torch.cat([inputs, *shaken]), targets.repeat(copies))
    return Split(data.name, train, data.validation, data.test, data.features, data.classes)
