"""More small networks for sweeps: gates, attention, norms and convolutions as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeadCount(nn.Module):
    """Attention with an integer head count; the head size is what is left."""

    def __init__(self, width: int = 12, heads: int = 4):
        super().__init__()
        self.heads, self.qkv, self.proj = (
            heads,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Encoder(nn.Module):
    def __init__(self, blocks: int = 1, scale: float = 1.0, norm: bool = False):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 12), nn.Linear(12, 3)
        self.blocks = nn.ModuleList(HeadCount() for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(12) if norm else nn.Identity() for _ in self.blocks)
        self.scale = nn.Parameter(torch.full((12,), scale))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + self.scale * block(norm(x))
        return self.head(x.mean(1))


class FeedForward(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor], gated: bool, rms: bool = False):
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.gate = nn.Linear(6, 10) if gated else None
        self.norm = nn.RMSNorm(6) if rms else nn.LayerNorm(6)
        self.head, self.act = nn.Linear(6, 3), act

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        h = self.act(self.up(y)) if self.gate is None else self.act(self.gate(y)) * self.up(y)
        return self.head(x + self.down(h))


class Inverted(nn.Module):
    """An inverted bottleneck: expand, depthwise, squeeze and excite, project."""

    def __init__(self, act: type[nn.Module], excite: bool):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.bn2 = (
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
        )
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 3)
        self.act, self.gated = act(), excite

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn2(self.depth(self.act(self.bn1(self.expand(x))))))
        if self.gated:
            gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
            x = x * F.hardsigmoid(gate)
        return self.head(self.project(x).mean((2, 3)))


class Scaled(nn.Module):
    """A residual branch with a layer scale, as in ConvNeXt."""

    def __init__(self, scale: float):
        super().__init__()
        self.stem, self.depth = nn.Conv2d(2, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.gamma, self.head = nn.Parameter(torch.full((6,), scale)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class Split(nn.Module):
    """Queries read one input, keys and values another."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(5, 8)
        self.out, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        split = lambda t: t.unflatten(-1, (-1, 4)).transpose(1, 2)  # noqa: E731
        mixed = F.scaled_dot_product_attention(*map(split, (self.q(x), self.k(y), self.v(y))))
        return self.head(torch.tanh(self.out(mixed.transpose(1, 2).flatten(2)).mean(1)))


class Auxiliary(nn.Module):
    """A second head that only training uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.aux, self.head = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x).relu()
        y = self.head(self.b(x).relu().mean((2, 3)))
        return (y, self.aux(x.mean((2, 3)))) if self.training else y


def plain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


Entry = tuple[Callable[[], nn.Module], Callable[[], Any]]
IMAGE: Callable[[], Tensor] = lambda: torch.randn(4, 3, 6, 6)  # noqa: E731
MORE: dict[str, Entry] = {
    "head_count": (Encoder, lambda: torch.randn(4, 3, 5)),
    "head_counts": (lambda: Encoder(2, norm=True), lambda: torch.randn(4, 3, 5)),
    "head_count_scaled": (lambda: Encoder(1, 1e-6), lambda: torch.randn(4, 3, 5)),
    "feed_forward": (lambda: FeedForward(F.gelu, gated=False), lambda: torch.randn(4, 3, 6)),
    "feed_forward_relu": (lambda: FeedForward(F.relu, gated=False), lambda: torch.randn(4, 3, 6)),
    "feed_forward_gated": (lambda: FeedForward(F.silu, gated=True), lambda: torch.randn(4, 3, 6)),
    "feed_forward_rms": (
        lambda: FeedForward(F.silu, gated=True, rms=True),
        lambda: torch.randn(4, 3, 6),
    ),
    "inverted": (lambda: Inverted(nn.ReLU6, excite=False), IMAGE),
    "inverted_excited": (lambda: Inverted(nn.Hardswish, excite=True), IMAGE),
    "layer_scale": (lambda: Scaled(1e-6), lambda: torch.randn(4, 2, 6, 6)),
    "layer_scale_one": (lambda: Scaled(1.0), lambda: torch.randn(4, 2, 6, 6)),
    "cross_attention": (Split, lambda: (torch.randn(4, 3, 4), torch.randn(4, 6, 5))),
    "auxiliary": (Auxiliary, IMAGE),
    "tanh": (
        lambda: plain(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)),
        lambda: torch.randn(8, 5),
    ),
    "prelu": (
        lambda: plain(nn.Linear(5, 8), nn.PReLU(8), nn.Linear(8, 3)),
        lambda: torch.randn(8, 5),
    ),
    "group_norm_gelu": (
        lambda: plain(
            *(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.GELU(), nn.Conv2d(8, 6, 1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
        ),
        IMAGE,
    ),
    "batch_norms": (
        lambda: plain(
            *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        ),
        IMAGE,
    ),
}
