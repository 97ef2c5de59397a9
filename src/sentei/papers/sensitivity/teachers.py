"""Distillation: small networks that learn from large ones and are pruned during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from sentei.datasets import Split
from sentei.papers.sensitivity.checks import Check
from sentei.papers.sensitivity.runs import course, data_of
from sentei.samples import Samples
from sentei.training import Distillation, Recipe, build, evaluate, train


class Averaged(nn.Module):
    """Several classifiers as one: its outputs are the mean of their log probabilities."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean log probabilities, (N, classes)."""
        return torch.stack([network(inputs).log_softmax(1) for network in self.networks]).mean(0)


def taught(
    seed: int,
    teacher: str,
    teachers: int,
    lesson: int,
    copies: int,
    noise: float,
    students: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Train large networks on the authors' 16,000 rows, and small ones on their mean outputs.

    Every sample is used several times, every time but the first with noise added to its inputs. The
    students learn from the teachers' outputs only, not from the labels. All learning rates fall to
    zero; teachers are trained by Adam, students by AdamW.

    Args:
        seed: of all random numbers.
        teacher: widths of a teacher.
        teachers: number of teachers, whose log probabilities are averaged.
        lesson: epochs of a teacher, over all copies.
        copies: how often every sample is used.
        noise: the standard deviation of a copy's noise is drawn from 0 to this number; that of the
            inputs is 1.
        students: by name: `widths`, `epochs` over all copies, `lr`, `batch`, `weight_decay`, and
            settings of a `Check` if units are removed during training.

    Returns:
        The teachers' test accuracy, and the result of `course` for each student.
    """
    plain = data_of("authors", seed)
    data = _shaken(plain, copies, noise, seed)
    networks = []
    for number in range(teachers):
        own = seed + 100 * number
        networks.append(build(teacher, seed=own))
        recipe = Recipe(lesson, "adam", 0.002, 128, seed=own, decay="cosine")
        train(networks[-1], data.train, recipe)
    large = Averaged(networks)
    distillation = Distillation(large, temperature=1.0, weight=1.0)
    result: dict[str, Any] = {"teacher": evaluate(large, plain.test).accuracy}
    for name, student in students.items():
        lr, decay = student["lr"], student["weight_decay"]
        recipe = Recipe(
            student["epochs"],
            lambda of, lr=lr, decay=decay: optim.AdamW(of, lr=lr, weight_decay=decay, fused=True),
            batch_size=student["batch"], seed=seed, distillation=distillation, decay="cosine",
        )  # fmt: skip
        rule = Check(**student["check"]) if "check" in student else None
        propose = None if rule is None else rule.propose(recipe.epochs)
        result[name] = course(student["widths"], data, recipe, rule, propose)
    return result


def _shaken(data: Split, copies: int, noise: float, seed: int) -> Split:
    """Repeat the training samples `copies` times, all but the first with noise on the inputs."""
    inputs, targets = data.train
    draw = torch.Generator().manual_seed(seed)
    shaken = [inputs]
    for _ in range(copies - 1):
        deviation = noise * torch.rand(len(inputs), 1, generator=draw)
        shaken.append(inputs + deviation * torch.randn(inputs.shape, generator=draw))
    train = Samples(torch.cat(shaken), targets.repeat(copies))
    return Split(data.name, train, data.validation, data.test, data.features, data.classes)
