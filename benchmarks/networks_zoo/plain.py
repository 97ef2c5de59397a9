"""Register hand-written networks, and chains of layers.

`PLAIN` maps a name to a function that builds (network, example).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Example = Any
PLAIN: dict[str, Callable[[], tuple[nn.Module, Example]]] = {}


def plain(*shape: int, name: str = "", **settings: Any) -> Callable[[type], type]:
    """Register a class as a network whose example is a random tensor of a shape."""

    def register(kind: type) -> type:
        PLAIN[name or kind.__name__.lower()] = lambda: (kind(**settings), torch.randn(shape))
        return kind

    return register


def sequential(name: str, *shape: int) -> Callable[[Callable[[], list[nn.Module]]], Any]:
    """Register a function that lists the layers of an `nn.Sequential`."""

    def register(layers: Callable[[], list[nn.Module]]) -> Any:
        PLAIN[name] = lambda: (nn.Sequential(*layers()), torch.randn(shape))
        return layers

    return register


@sequential("mlp", 4, 20)
def _mlp() -> list[nn.Module]:
    return [nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 5)]


@sequential("mlp-single-unit", 4, 20)
def _single() -> list[nn.Module]:
    return [nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 1), nn.Sigmoid(), nn.Linear(1, 3)]


@sequential("lenet", 2, 1, 28, 28)
def _lenet() -> list[nn.Module]:
    return [
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    ]


@sequential("autoencoder", 4, 30)
def _autoencoder() -> list[nn.Module]:
    return [
        *(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 6)),
        *(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 30)),
    ]


def _compiled() -> tuple[nn.Module, Example]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(16, 3))
    return torch.compile(model, backend="eager"), torch.randn(4, 10)  # type: ignore[return-value]


PLAIN["compiled-mlp"] = _compiled
