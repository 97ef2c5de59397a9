"""What is measured of outputs beside the loss: accuracy, or R² and mean absolute error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from sentei.losses import Loss, predicted, wanted
from sentei.target_forms import IGNORED, is_whole

R2, MEAN_ABSOLUTE_ERROR = "r2", "mean_absolute_error"
NAMES = {R2: "R²", MEAN_ABSOLUTE_ERROR: "mean absolute error"}  # as tables and pages show them


@dataclass(frozen=True, eq=False)
class Quality:
    """How well outputs agree with targets.

    Attributes:
        accuracy: part of the class numbers that count, or of the labels 0 and 1, that are right;
            None where values are predicted.
        by_class: (classes, 2) int64, positions with this class that are right, and all of them;
            None without classes.
        metrics: "r2" and "mean_absolute_error" where values are predicted; else empty. R² is
            1 - SS_res / SS_tot: the squared differences between outputs and targets, summed over
            all samples and outputs, and those between the targets and their means, of each output
            by itself, summed likewise. Where all targets of each output are equal, there is no R².
    """

    accuracy: float | None = None
    by_class: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Metrics(Protocol):
    """Sums over a block of samples, and what the sums over all samples say."""

    @property
    def width(self) -> int:
        """How many sums there are."""
        ...

    def sums(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """Return the sums over some samples, (width,) float64."""
        ...

    def quality(self, sums: Tensor, /) -> Quality:
        """Return what the sums over all samples say."""
        ...


@dataclass
class TargetSummary:
    """What metrics have to know of all targets, gathered from one or more parts of them.

    Attributes:
        largest: the largest of whole numbers; None without any.
    """

    largest: int | None = None
    _count: int = 0
    _first: Tensor | None = None
    _sum: Tensor | float = 0.0
    _equal: Tensor | bool = True  # for each output, whether all targets are the first
    _varied: bool = False

    @classmethod
    def of(cls, parts: Iterable[Any]) -> TargetSummary:
        """Summarise targets that come in parts."""
        found = cls()
        for targets in parts:
            found.add_(targets)
        return found

    def add_(self, targets: Any) -> None:
        """Add targets, (n, ...); nests of tensors have no summary."""
        if not isinstance(targets, Tensor) or not len(targets) or targets.is_complex():
            return
        if is_whole(targets):
            targets = targets.long()
            self.largest = max(int(targets.max()), -1 if self.largest is None else self.largest)
        self._first = first = targets[:1] if self._first is None else self._first
        self._count += len(targets)
        if targets.shape[1:] != first.shape[1:]:
            self._varied = True
            return
        self._sum = self._sum + targets.sum(0, keepdim=True, dtype=torch.float64)
        self._equal = self._equal & (targets == first).all(0, keepdim=True)

    @property
    def centre(self) -> Tensor | None:
        """(1, ...) float64, the mean of each output; exactly its value where all are equal.

        None where targets have several shapes.
        """
        if self._varied or self._first is None:
            return None
        equal = torch.as_tensor(self._equal)
        return torch.where(equal, self._first.double(), self._sum / self._count)


def metrics_for(loss: Loss, summary: TargetSummary) -> Metrics:
    """Return the metrics of a network whose loss and targets these are.

    Args:
        loss: the loss, which says what is predicted.
        summary: of all targets.
    """
    if loss.predicts == "classes" and summary.largest is not None:
        return _Classes(summary.largest + 1)
    if loss.predicts == "labels":
        return _Labels()
    if loss.predicts == "values":
        return _Values(loss.name, summary.centre)
    return _Nothing()


def measured_words(accuracy: float | None, loss: float, metrics: Mapping[str, float]) -> str:
    """Return what was measured as a text, such as "R² 0.9312, loss 0.0718"."""
    right = [] if accuracy is None else [("accuracy", f"{accuracy:.2%}")]
    told = [*right, *texts(metrics), ("loss", f"{loss:.4f}")]
    return ", ".join(f"{name} {text}" for name, text in told)


def texts(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return for each metric its name on screen and its value as a text."""
    return [(NAMES.get(name, name), f"{metrics[name]:.4g}") for name in in_order(metrics)]


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of metrics without duplicates: those in `NAMES` first, the others sorted."""
    return sorted(set(names), key=lambda name: ([*NAMES, name].index(name), name))


@dataclass(frozen=True)
class _Classes:
    classes: int

    @property
    def width(self) -> int:
        return 2 * self.classes

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        count = targets != IGNORED
        found, labels = outputs.argmax(1)[count], targets[count].long()
        both = (labels[found == labels], labels)
        counted = [torch.bincount(each, minlength=self.classes) for each in both]
        return torch.stack(counted, 1).flatten().double().cpu()

    def quality(self, sums: Tensor) -> Quality:
        by_class = sums.round().long().reshape(self.classes, 2)
        right, all_ = by_class.sum(0).tolist()
        return Quality(right / all_, by_class)


@dataclass(frozen=True)
class _Labels:
    width: int = 2

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = (outputs > 0) == (wanted(outputs, targets) > 0.5)
        return torch.tensor([int(right.sum()), right.numel()], dtype=torch.float64)

    def quality(self, sums: Tensor) -> Quality:
        right, all_ = sums.round().tolist()
        return Quality(right / all_)


@dataclass(frozen=True, eq=False)
class _Values:
    name: str | None
    centre: Tensor | None  # (1, ...) float64, the mean of the targets; None: there is no R²
    width: int = 4

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = predicted(self.name, outputs).double()
        errors = errors - targets.reshape(outputs.shape).double()
        centre = targets if self.centre is None else self.centre.to(targets.device)
        spread = targets.double() - centre
        found = (errors.square().sum(), spread.square().sum(), errors.abs().sum())
        return torch.tensor([*map(float, found), errors.numel()], dtype=torch.float64)

    def quality(self, sums: Tensor) -> Quality:
        residual, total, absolute, count = sums.tolist()
        r2 = {R2: 1 - residual / total} if total else {}
        return Quality(metrics={**r2, MEAN_ABSOLUTE_ERROR: absolute / count})


@dataclass(frozen=True)
class _Nothing:
    width: int = 0

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        return torch.zeros(0, dtype=torch.float64)

    def quality(self, sums: Tensor) -> Quality:  # noqa: ARG002
        return Quality()
