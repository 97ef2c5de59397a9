"""Count what a race saves: the lowest tenth of the units by exact ablation, on 10,000 samples.

Run: python benchmarks/racing.py [--seeds 10] [--only encoder]. An evaluation is one unit on one
sample. Those of a race include its first-order passes: three evaluations a sample (one forward and
one backward pass of the network) on all samples, and again on the samples of its stages. Seconds
are processor seconds on one thread; those of a race are the median of its seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei import Mask, Probe, find_units
from sentei.criteria import ablation
from sentei.datasets import mnist
from sentei.network.units import Group
from sentei.pruning.rules.proposals import lowest
from sentei.pruning.rules.racing import race
from sentei.training import Recipe, mlp, train

_FIRST_ORDER = 3  # evaluations that one forward and one backward pass of a sample cost
_ROUNDING = 1e-7  # of scores of float32 losses: units that differ by less are tied


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.one = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.shortcut = nn.Identity()
        if before != width:
            self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, ...) activations."""
        y = self.norms[1](self.two(F.relu(self.norms[0](self.one(x)))))
        return F.relu(y + self.shortcut(x))


class Residual(nn.Module):
    """A residual network of three blocks on images of 14x14."""

    def __init__(self, widths: tuple[int, int, int]):
        super().__init__()
        first, second, third = widths
        self.stem, self.norm = nn.Conv2d(1, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first)
        self.blocks = nn.Sequential(
            Block(first, first, 1), Block(first, second, 2), Block(second, third, 2)
        )
        self.head = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 10) logits of flat images."""
        x = F.max_pool2d(x.view(-1, 1, 28, 28), 2)
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


class Encoder(nn.Module):
    """A transformer encoder that reads an image as 14 pairs of rows."""

    def __init__(self, width: int, hidden: int, layers: int):
        super().__init__()
        self.embed = nn.Linear(56, width)
        self.places = nn.Parameter(0.1 * torch.randn(14, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, hidden, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 10) logits of flat images."""
        x = self.embed(x.view(-1, 14, 56)) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "784-300-100-10": lambda: mlp("784-300-100-10"),
    "residual": lambda: Residual((16, 32, 64)),
    "encoder": lambda: Encoder(32, 64, 3),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=NETWORKS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("network          units   go  fewer evaluations   same set   exact s   race s   ratio")
    for name in [asked.only] if asked.only else NETWORKS:
        print_race(name, asked.seeds)


def print_race(name: str, seeds: int) -> None:
    """Print how many fewer evaluations races take than measuring all units."""
    samples = mnist().train.first(10_000)
    torch.manual_seed(0)
    model = NETWORKS[name]()
    train(model, samples, Recipe(epochs=2, batch_size=64, lr=1e-3))
    probe = Probe(model.eval(), samples)
    groups = find_units(model, samples.inputs[:2])
    mask = Mask.full(groups)
    floors: dict[Group, int] = {group: group.least for group in groups}
    start = process_time()
    exact: dict[Group, Tensor] = {group: ablation(probe, group) for group in groups}
    whole = process_time() - start
    units, total = sum(group.size for group in groups), len(probe.samples)
    wanted = chosen(exact, lowest(exact, mask, groups, units // 10, floors))
    fewer, same, seconds = [], 0, []
    for seed in range(seeds):
        start = process_time()
        found = race(probe, [(groups, units // 10)], mask, floors, seed)
        seconds.append(process_time() - start)
        scores = chosen(exact, lowest(found.scores, mask, groups, units // 10, floors))
        same += bool((scores - wanted).abs().max() < _ROUNDING)
        fewer.append(units * total / (found.evaluations + 2 * _FIRST_ORDER * total))
    saved = f"{median(fewer):5.1f} times (least {min(fewer):.1f})"
    print(
        f"{name:<16}{units:>6}{units // 10:>5}   {saved}   {same} of {seeds}"
        f"{whole:>10.1f}{median(seconds):>9.1f}{whole / median(seconds):>8.1f}",
        flush=True,
    )


def chosen(scores: dict, units: dict) -> Tensor:
    """Return the scores of chosen units, ascending."""
    return torch.cat([scores[group][own] for group, own in units.items()]).sort().values


if __name__ == "__main__":
    main()
