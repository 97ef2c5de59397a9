"""Networks in which units of several layers, or of several parts of a layer, go only together.

`JOINED` maps a name to a function that builds (network, example), and to the groups to be offered,
as "kind size".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = (2, 3, 8, 8)
Built = Callable[[], tuple[nn.Module, Tensor]]
JOINED: dict[str, tuple[Built, list[str]]] = {}


def joined(*groups: str, x: tuple[int, ...] = IMAGE, **arguments: int):
    """Register a network, built with some arguments, with the groups that it offers."""

    def register(kind: Callable[..., nn.Module]):
        def built():
            torch.manual_seed(0)
            return kind(**arguments), torch.randn(x)

        JOINED["-".join([kind.__name__, *map(str, arguments.values())])] = built, list(groups)
        return kind

    return register


def shuffled(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Half(nn.Module):
    """A unit that convolves half of its channels, or all with two branches, and shuffles."""

    def __init__(self, width: int, out: int):
        super().__init__()
        half = out // 2
        self.whole = width != out
        if self.whole:
            self.other = nn.Sequential(
                nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.Conv2d(width, half, 1)
            )
        self.branch = nn.Sequential(
            *(nn.Conv2d(width if self.whole else half, half, 1), nn.BatchNorm2d(half), nn.ReLU()),
            *(nn.Conv2d(half, half, 3, 1, 1, groups=half), nn.Conv2d(half, half, 1), nn.ReLU()),
        )

    def forward(self, x):
        one, two = (self.other(x), x) if self.whole else x.chunk(2, 1)
        return shuffled(torch.cat((one, self.branch(two)), 1), 2)


# Of one more unit, pairs go. With three, the number of units that a channel passes by depends on
# how many there are, and shares fit no more: the stage stays.
@joined(*("channel 6", "channel 3", "channel 6", "channel 6", "channel 5"), units=1)
@joined(*("channel 6", "channel 6", "channel 6", "channel 6", "channel 6", "channel 5"), units=3)
class ShuffledHalves(nn.Module):
    def __init__(self, units: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.units = nn.Sequential(Half(6, 12), *(Half(12, 12) for _ in range(units)))
        self.last, self.head = nn.Conv2d(12, 5, 1), nn.Linear(5, 3)

    def forward(self, x):
        x = self.last(self.units(self.stem(x).relu())).relu()
        return self.head(x.mean((2, 3)))


@joined("channel 4", "channel 2", units=2, groups=3)
class ShuffledGroups(nn.Module):
    """Grouped convolutions with a shuffle between them: the groups tie the stream."""

    def __init__(self, units: int, groups: int):
        super().__init__()
        self.groups = groups
        self.stem, self.last = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 2, 1)
        self.down = nn.ModuleList(nn.Conv2d(12, 6, 1, groups=groups) for _ in range(units))
        self.up = nn.ModuleList(nn.Conv2d(6, 12, 1, groups=groups) for _ in range(units))
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        for down, up in zip(self.down, self.up, strict=True):
            x = x + up(shuffled(down(x).relu(), self.groups))
        return self.head(self.last(x).relu().mean((2, 3)))


@joined("channel 8", "channel 3", "channel 3", scale=4)
class HierarchicalSteps(nn.Module):
    """Parts of a convolution, each added to what the one before computed, and the last one."""

    def __init__(self, scale: int):
        super().__init__()
        self.width = 3
        self.stem = nn.Conv2d(3, 8, 3)
        self.a, self.c = nn.Conv2d(8, 3 * scale, 1), nn.Conv2d(3 * scale, 8, 1)
        self.steps = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(scale - 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        *parts, last = torch.split(self.a(x).relu(), self.width, 1)
        here, done = 0, []
        for step, part in zip(self.steps, parts, strict=True):
            here = step(here + part).relu()
            done.append(here)
        return self.head((x + self.c(torch.cat([*done, last], 1))).relu().mean((2, 3)))


@joined(*("channel 8", "channel 4", "channel 4", "channel 4", "channel 5"), blocks=2)
class GrowingHalves(nn.Module):
    """Two halves and what blocks make of the second, one after the other, joined."""

    def __init__(self, blocks: int):
        super().__init__()
        self.width = 4
        self.stem, self.a = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.inner = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))
        self.c, self.head = nn.Conv2d(4 * (2 + blocks), 5, 1), nn.Linear(5, 3)

    def forward(self, x):
        parts = list(self.a(self.stem(x).relu()).split((self.width, self.width), 1))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            parts.append(parts[-1] + outer(inner(parts[-1]).relu()))
        return self.head(self.c(torch.cat(parts, 1)).relu().mean((2, 3)))


@joined("channel 6", "channel 2", "channel 4", one=2, two=3)
class GroupsInRow(nn.Module):
    """Grouped convolutions in a row, whose groups are not the same."""

    def __init__(self, one: int, two: int):
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3)
        self.b, self.c = nn.Conv2d(12, 12, 3, groups=one), nn.Conv2d(12, 12, 3, groups=two)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))


@joined("channel 4", "channel 2", "channel 6", groups=2)
class GroupsOfTwoLayers(nn.Module):
    """The groups of a convolution meet inside the second of two layers that are joined."""

    def __init__(self, groups: int):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 8, 3)
        self.c, self.head = nn.Conv2d(12, 12, 3, groups=groups), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.cat([self.a(x), self.b(x)], 1).relu()
        return self.head(self.c(x).relu().mean((2, 3)))


@joined("neuron 10", x=(5, 6))
class FixedCount(nn.Module):
    """The number of parts, 8, is written in `forward`: these units cannot go."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 24), nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.head(F.relu(self.b(self.a(x).view(-1, 8, 3).amax(-1))))


@joined("neuron 20", x=(3, 5, 6))
class FixedWidth(nn.Module):
    """The width of a head is a part of the input's: neither heads nor that input can go."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.stem, self.qkv, self.proj = nn.Linear(6, 20), nn.Linear(20, 60), nn.Linear(20, 20)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        x = self.stem(x)
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads).unbind(2)
        y = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).softmax(-1) @ v.transpose(1, 2)
        return self.head(self.proj(y.transpose(1, 2).flatten(2)).mean(1))
