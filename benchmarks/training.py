"""Time training with `sentei.train`, compared with a plain training loop.

Run: python benchmarks/training.py [--epochs 10] [--repeats 3] [--threads 1]. Trains 784-100-10 on
MNIST's 55,000 training images, batch 100, Adam: with sentei, with a plain PyTorch loop, and with
the same loop and a fused optimizer. The three take turns; medians are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F

from sentei.datasets import Samples, mnist
from sentei.training import Recipe, evaluate, mlp, train

BATCH = 100


def ours(model: nn.Module, samples: Samples, epochs: int) -> None:
    """Train with sentei."""
    train(model, samples, Recipe(epochs=epochs, batch_size=BATCH, lr=1e-3))


def by_hand(model: nn.Module, samples: Samples, epochs: int, fused: bool = False) -> None:
    """Train with a plain PyTorch loop."""
    inputs, targets = samples
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        total = 0.0
        for start in range(0, len(inputs), BATCH):
            rows = order[start : start + BATCH]
            x, y = inputs[rows], targets[rows]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)


def by_hand_fused(model: nn.Module, samples: Samples, epochs: int) -> None:
    """Train with the plain loop and a fused optimizer, as sentei uses."""
    by_hand(model, samples, epochs, fused=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    split = mnist()
    loops: dict[str, Callable[[nn.Module, Samples, int], None]] = {
        "sentei": ours,
        "by hand": by_hand,
        "by hand, fused": by_hand_fused,
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    accuracy = {}
    for loop in loops.values():
        loop(mlp("784-100-10"), split.train.first(1_000), 1)  # warm up torch
    for name, loop in [*loops.items()] * asked.repeats:
        torch.manual_seed(0)
        model = mlp("784-100-10")
        began = perf_counter()
        loop(model, split.train, asked.epochs)
        seconds[name].append(perf_counter() - began)
        accuracy[name] = evaluate(model, split.validation).accuracy
    print(f"784-100-10, {asked.epochs} epochs of 55,000 images, {asked.threads} thread(s)")
    base = median(seconds["by hand"])
    for name, taken in seconds.items():
        each = " ".join(f"{value:.2f}" for value in sorted(taken))
        print(
            f"{name:<15} {median(taken):7.2f} s   {base / median(taken):5.2f} times by hand   "
            f"validation {accuracy[name]:.2%}   ({each})"
        )


if __name__ == "__main__":
    main()
