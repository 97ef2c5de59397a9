"""What a network of the zoo is: a module, an example, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Case:
    """A network and how it is run: `forward(model, example)`, or `model(example)` if None."""

    model: nn.Module
    example: Any
    forward: Forward | None = None


Build = Callable[[], Case]


def images(size: int, count: int = 2, channels: int = 3) -> Tensor:
    """Return random pictures, (count, channels, size, size)."""
    return torch.randn(count, channels, size, size)
