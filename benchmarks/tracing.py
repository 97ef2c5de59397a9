"""Time `find_units` on a ResNet-50 at 224 by 224 and on an encoder of the size of BERT-base.

Run: python benchmarks/tracing.py [resnet50 | encoder]. Prints, for each network, the number of
replays, processor seconds on one thread, units, the ratio to one forward pass of one sample, the
same ratio where the model itself is run on the whole example (`slow`), and peak memory.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sentei
from sentei.network.tracing import tracing
from sentei.network.tracing.replay import Replay

REPEATS = 3


class Bottleneck(nn.Module):
    """A ResNet bottleneck: 1 by 1, 3 by 3 and 1 by 1 convolutions, added to a shortcut."""

    def __init__(self, width: int, inner: int, stride: int):
        super().__init__()
        out = 4 * inner
        self.conv1 = nn.Conv2d(width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut = (
            nn.Identity()
            if width == out and stride == 1
            else nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, channels, height, width) to the same with `4 * inner` channels."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


def resnet50() -> nn.Module:
    """Build a ResNet-50: stages of 3, 4, 6 and 3 bottlenecks, and a thousand classes."""
    stem = (
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )
    blocks, width = [], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for number in range(count):
            inner = 64 << stage
            blocks.append(Bottleneck(width, inner, 2 if stage and not number else 1))
            width = 4 * inner
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000)
    )


class Layer(nn.Module):
    """An encoder layer: attention and two linear layers, each followed by a sum and a norm."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, tokens, width) to the same shape."""
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class Encoder(nn.Module):
    """An encoder of BERT-base's size: 12 layers, width 768, 12 heads, 3072 inside."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, inner: int = 3072):
        super().__init__()
        self.words = nn.Embedding(30522, width)
        self.positions = nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (samples, tokens) to (samples, tokens, width)."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        x = self.norm(self.words(tokens) + self.positions(places))
        for layer in self.layers:
            x = layer(x)
        return x


def seconds(action: Callable[[], object]) -> float:
    """Return the processor time of a function, the median of some runs."""
    times = []
    for _ in range(REPEATS):
        start = process_time()
        action()
        times.append(process_time() - start)
    return median(times)


def replays(model: nn.Module, example: Tensor) -> int:
    """Return how many replays tracing takes."""
    count = 0
    originals = {name: getattr(Replay, name) for name in ("nan_columns", "changed_columns")}

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def method(self: Replay, *args: object) -> object:
            nonlocal count
            count += 1
            return original(self, *args)

        return method

    for name, original in originals.items():
        setattr(Replay, name, counted(original))
    sentei.find_units(model, example)
    for name, original in originals.items():
        setattr(Replay, name, original)
    return count


def measure(name: str, build: Callable[[], nn.Module], example: Tensor) -> None:
    """Trace one network and print its row of the table."""
    torch.manual_seed(0)
    model = build().eval()
    groups = sentei.find_units(model, example)
    with torch.no_grad():
        forward = seconds(lambda: model(example[:1]))
    fast = seconds(lambda: sentei.find_units(model, example))
    slow = seconds(lambda: tracing.traced(model, example, inputs=False, fast=False))
    offered = sum(group.size for group in groups)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:12}{replays(model, example):9}{fast:9.2f}{len(groups):8}{offered:9}"
        f"{fast / forward:8.1f}{slow / forward:8.1f}{peak:9.2f}"
    )


def main() -> None:
    """Print the table; `resnet50` or `encoder` as an argument measures one alone."""
    wanted = sys.argv[1:] or ["resnet50", "encoder"]
    torch.set_num_threads(1)
    print(
        f"{'network':12}{'replays':>9}{'seconds':>9}{'groups':>8}{'offered':>9}"
        f"{'passes':>8}{'slow':>8}{'peak GiB':>9}"
    )
    if "resnet50" in wanted:
        measure("resnet50", resnet50, torch.randn(1, 3, 224, 224))
    if "encoder" in wanted:
        measure("encoder", Encoder, torch.randint(0, 30522, (1, 128)))


if __name__ == "__main__":
    main()
