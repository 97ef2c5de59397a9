"""How cost grows: finding, shrinking and scoring at four sizes each, with fitted exponents.

Networks: perceptrons and convolutional networks, each of four widths and of four depths. Processor
seconds of one thread, medians of three. An exponent is the slope of a line fitted to the
logarithms: 1 where twice the size takes twice as long. At the end the times of finding and
shrinking are fitted by a fixed part, a part for each call with a weight, and passes of one sample.

    python benchmarks/growth.py              all tables
    python benchmarks/growth.py find shrink  some kinds of work
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import torch
from torch import nn

import sentei
from sentei.criteria import scores
from sentei.network.encoding.size import calls_counted
from sentei.network.example import smallest
from sentei.network.mask import Mask

PASS = "one pass of one sample"
REPEATS = 3
SAMPLES = 200


def perceptron(width: int, depth: int) -> tuple[nn.Module, torch.Tensor]:
    """64 inputs, hidden layers of one width, 10 outputs; and samples."""
    layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(SAMPLES, 64)


def convolutional(width: int, depth: int) -> tuple[nn.Module, torch.Tensor]:
    """3 x 3 convolutions of one width on 8 x 8 images; and samples."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(*layers).eval(), torch.randn(SAMPLES, 3, 8, 8)


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median processor seconds of `work`."""
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return median(taken)


def finding(model: nn.Module, x: torch.Tensor) -> float:
    """Seconds of `find_units`."""
    return seconds(lambda: sentei.find_units(model, x[:2]))


def shrinking(model: nn.Module, x: torch.Tensor) -> float:
    """Seconds of `shrink`, certificate included, where every second unit is dead."""
    groups = sentei.find_units(model, x[:2])
    mask = Mask.full(groups).without({g: range(0, g.size, 2) for g in groups})
    mask.apply_(model)
    return seconds(lambda: sentei.shrink(model, mask, x[:2]))


def scoring(criterion: str) -> Callable[[nn.Module, torch.Tensor], float]:
    """Return what times a criterion on all groups, with nothing recorded yet."""

    def measured(model: nn.Module, x: torch.Tensor) -> float:
        y = torch.randint(0, 10, (len(x),))
        groups = sentei.find_units(model, x[:2])

        def work() -> None:
            probe = sentei.Probe(model, (x, y))
            for group in groups:
                scores(criterion, probe, group)

        return seconds(work)

    return measured


def one_pass(model: nn.Module, x: torch.Tensor) -> float:
    """Seconds of a forward pass of one sample."""
    one = smallest(model, x[:2])
    with torch.inference_mode():
        model.eval()
        return seconds(lambda: [model(one) for _ in range(20)]) / 20


WORK: Mapping[str, Callable[[nn.Module, torch.Tensor], float]] = {
    PASS: one_pass,
    "find": finding,
    "shrink": shrinking,
    "magnitude": scoring("magnitude"),
    "taylor1": scoring("taylor1"),
    "ablation": scoring("ablation"),
}
FAMILIES: Mapping[str, tuple[Callable[[int], tuple[nn.Module, torch.Tensor]], list[int]]] = {
    "units in each of 2 layers": (lambda size: perceptron(size, 2), [64, 128, 256, 512]),
    "layers of 32 units": (lambda size: perceptron(32, size), [4, 8, 16, 32]),
    "channels in each of 4 convolutions": (lambda size: convolutional(size, 4), [8, 16, 32, 64]),
    "convolutions of 8 channels": (lambda size: convolutional(8, size), [4, 8, 16, 32]),
    "samples of 64-128-128-10": (
        lambda size: (perceptron(128, 2)[0], torch.randn(size, 64)),
        [500, 1000, 2000, 4000],
    ),
}


def main() -> None:
    """Print a table for each family; rows are kinds of work."""
    torch.set_num_threads(1)
    chosen = [name for name in WORK if not sys.argv[1:] or name.split()[0] in sys.argv[1:]]
    taken: dict[str, list[float]] = {}
    calls: list[int] = []
    for family, (make, sizes) in FAMILIES.items():
        print(f"\n| {family} | {' | '.join(map(str, sizes))} | exponent |")
        print("| --- | " + "---: | " * (len(sizes) + 1))
        calls += [len(calls_counted(*make(size))) for size in sizes]
        for name in chosen:
            times = []
            for size in sizes:
                torch.manual_seed(0)
                times.append(WORK[name](*make(size)))
            slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
            numbers = " | ".join(f"{1000 * t:,.3g} ms" for t in times)
            print(f"| {name} | {numbers} | {slope:.2f} |", flush=True)
            taken.setdefault(name, []).extend(times)
    if {PASS, "find", "shrink"} <= taken.keys():
        for name in ("find", "shrink"):
            print(name, *fitted(calls, taken[PASS], taken[name]))


def fitted(calls: list[int], passes: list[float], taken: list[float]) -> list[float]:
    """Fit seconds by a fixed part, one for each call and passes, none below 0; relative errors."""
    parts = np.stack([np.ones(len(calls)), calls, passes], 1) / np.array(taken)[:, None]
    weights = np.ones(3)
    for _ in range(20_000):  # multiplicative updates keep the parts above 0
        weights *= (parts.sum(0)) / (parts.T @ (parts @ weights) + 1e-12)
    return [float(f"{weight:.2g}") for weight in weights]


if __name__ == "__main__":
    main()
