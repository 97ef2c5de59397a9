"""Time exact ablation, compared with a naive loop and with a first-order (gradient) estimate.

Run: python benchmarks/ablation.py [--full] [--repeats 7]. On 10,000 images of MNIST, it checks that
all methods give the same scores, and measures one ranking, a complete iterative re-ranking and peak
memory. Times are taken with one and with two threads; each method counts at its faster thread
count. The naive loop is one forward pass for each unit, with the unit's columns zeroed. Without
--full, its passes and the long iterative run are measured at some stages and scaled; the output
says where.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei import Cut, Neurons, Probe, find_units
from sentei.criteria import ablation
from sentei.datasets import Samples, mnist
from sentei.training import Recipe, mlp, train

THREADS = (1, 2)
STAGES = 8  # number of sizes at which a long iterative run is measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="run every pass, scale nothing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        print_peak_memory(asked.memory)
        return
    print_equality()
    samples = mnist().train.first(10_000)
    for shape in ("784-100-10", "784-300-100-10"):
        model = mlp(shape)
        train(model, samples, Recipe(epochs=2, batch_size=100, lr=1e-3))
        model.eval()
        groups = find_units(model, samples.inputs[:2])
        print_one_ranking(shape, model, groups, samples, asked.repeats)
        print_iteration(shape, model, groups, samples, asked)
    subprocess.run([sys.executable, __file__, "--memory", "784-4096-10"], check=True)


# The methods.


@torch.no_grad()
def naive(model: nn.Module, group: Neurons, unit: int, samples: Samples) -> Tensor:
    """Return the mean loss without a unit: zero its columns, run, restore them."""
    part = group.listeners[0]
    weight, columns = model.get_parameter(part.parameter), part.index[unit]
    before = weight.index_select(part.dim, columns)
    weight.index_fill_(part.dim, columns, 0)
    loss = F.cross_entropy(model(samples.inputs), samples.targets)
    weight.index_copy_(part.dim, columns, before)
    return loss


def taylor(model: nn.Module, groups: list[Neurons], samples: Samples) -> list[Tensor]:
    """Estimate the rise for all units to first order, by one forward and one backward pass."""
    weights = [model.get_parameter(group.listeners[0].parameter) for group in groups]
    loss = F.cross_entropy(model(samples.inputs), samples.targets)
    gradients = torch.autograd.grad(loss, weights)
    return [-(w * g).sum(0) for w, g in zip(weights, gradients, strict=True)]


def remove_least(
    model: nn.Module, probe: Probe, groups: list[Neurons], score: Callable[[], list[Tensor]]
) -> None:
    """Do one round: score every unit, and remove the one with the lowest score."""
    found = [
        scores.double().masked_fill(~probe.alive(group), torch.inf)
        for scores, group in zip(score(), groups, strict=True)
    ]
    least = min(range(len(groups)), key=lambda i: float(found[i].min()))
    remove(model, probe, groups[least], found[least].argmin()[None])


def remove(model: nn.Module, probe: Probe, group: Neurons, units: Tensor) -> None:
    """Zero the units' columns and update the Probe."""
    part = group.listeners[0]
    with torch.no_grad():
        model.get_parameter(part.parameter).index_fill_(part.dim, part.index[units].flatten(), 0)
    probe.cut_(Cut({group: units}))


# What is printed.


def print_equality() -> None:
    """Print the largest difference from one masked pass per unit, for three kinds of networks."""
    torch.manual_seed(0)
    images, flat = torch.randn(200, 1, 12, 12), torch.randn(200, 144)
    networks = {
        "784-100-10 in small": (mlp("144-30-20-10"), flat),
        "CNN": (convolutional(), images),
        "residual network": (Residual(), images),
    }
    print("largest difference from one masked forward pass per unit (at most 1e-5)")
    for name, (model, x) in networks.items():
        model.eval()
        samples = Samples(x, torch.randint(0, 10, (200,)))
        probe, groups = Probe(model, samples), find_units(model, x[:2])
        worst = 0.0
        for group in groups:
            want = [masked(model, group, unit, samples) for unit in range(group.size)]
            worst = max(worst, (probe.losses_without(group) - torch.stack(want)).abs().max().item())
        units = sum(group.size for group in groups)
        print(f"  {name:<22}{len(groups)} groups, {units:>3} units: {worst:.1e}")


@torch.no_grad()
def masked(model: nn.Module, group: Neurons, unit: int, samples: Samples) -> Tensor:
    """Return the mean loss without a unit, as `naive` does, for any number of listeners."""
    parts = [(model.get_parameter(p.parameter), p.dim, p.index[unit]) for p in group.listeners]
    before = [weight.clone() for weight, _, _ in parts]
    for weight, dim, columns in parts:
        weight.index_fill_(dim, columns, 0)
    loss = F.cross_entropy(model(samples.inputs), samples.targets)
    for (weight, _, _), kept in zip(parts, before, strict=True):
        weight.copy_(kept)
    return loss


def print_one_ranking(
    shape: str, model: nn.Module, groups: list[Neurons], samples: Samples, repeats: int
) -> None:
    """Print the time of one ranking of all units, and of one pass for each unit."""
    units = sum(group.size for group in groups)
    probe = Probe(model, samples)

    def rank() -> None:
        for group in groups:
            ablation(probe, group)

    def from_nothing() -> None:
        probe.forget_()
        rank()

    ways = {
        "a pass": lambda: naive(model, groups[0], 0, samples),
        "first": from_nothing,
        "again": rank,
    }
    times = measured(ways, repeats)
    slow = best({threads: units * t["a pass"] for threads, t in times.items()})
    first, again = (best({n: t[way] for n, t in times.items()}) for way in ("first", "again"))
    print(f"\n{shape}: one ranking of {units} units on 10,000 images")
    print(f"  naive, {units} passes        {shown(slow)}   (one pass, times {units})")
    print(f"  sentei, from nothing     {shown(first)}   ratio {slow[0] / first[0]:.0f}")
    print(f"  sentei, once more        {shown(again)}   ratio {slow[0] / again[0]:.0f}")


def print_iteration(
    shape: str,
    model: nn.Module,
    groups: list[Neurons],
    samples: Samples,
    asked: argparse.Namespace,
) -> None:
    """Print the time of removing every unit, with a new ranking before each removal."""
    units = sum(group.size for group in groups)
    passes = units * (units + 1) // 2
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rounds = {"sentei": {}, "taylor": {}, "naive": {}}
    for threads in THREADS:
        torch.set_num_threads(threads)
        found = iterated(model, groups, samples, asked.full or units <= 100)
        model.load_state_dict(start)
        for name, seconds in found.items():
            rounds[name][threads] = seconds
        one = median(timed(lambda: naive(model, groups[0], 0, samples)) for _ in range(9))
        rounds["naive"][threads] = one * passes
        if asked.full:
            rounds["naive"][threads] = timed(lambda: naively_iterated(model, groups, samples))
            model.load_state_dict(start)
    torch.set_num_threads(1)
    slow, fast, gradient = (best(rounds[name]) for name in ("naive", "sentei", "taylor"))
    how = "every pass run" if asked.full else f"the median of 9 passes, times {passes:,}"
    note = "" if asked.full or units <= 100 else f" ({STAGES} stages measured, rounds scaled)"
    print(f"{shape}: {units} removals, ranked anew each time")
    print(f"  naive, {passes:,} passes      {shown(slow)}   ({how})")
    print(f"  sentei                   {shown(fast)}   ratio {slow[0] / fast[0]:.0f}{note}")
    print(f"  first-order Taylor       {shown(gradient)}   {gradient[0] / fast[0]:.1f} × sentei")


def iterated(
    model: nn.Module, groups: list[Neurons], samples: Samples, complete: bool
) -> dict[str, float]:
    """Return the seconds of all rounds by ablation and by gradient, on the same removals."""
    probe = Probe(model, samples)
    units = sum(group.size for group in groups)

    def ours() -> None:
        remove_least(model, probe, groups, lambda: [ablation(probe, group) for group in groups])

    total = {"sentei": timed(probe.loss), "taylor": 0.0}
    done = 0
    for stage in range(units if complete else STAGES):
        ahead = (units * stage // STAGES if not complete else stage) - done
        for _ in range(ahead):  # random removals stand in for the rounds that are skipped
            group = max(groups, key=lambda group: int(probe.alive(group).sum()))
            alive = probe.alive(group).nonzero().flatten()
            remove(model, probe, group, alive[torch.randint(len(alive), (1,))])
        rounds = 1 if complete else units / STAGES
        seconds = [timed(ours) for _ in range(1 if complete else 3)]
        total["sentei"] += rounds * median(seconds)
        total["taylor"] += rounds * timed(lambda: taylor(model, groups, samples))
        done += ahead + len(seconds)
    return total


def naively_iterated(model: nn.Module, groups: list[Neurons], samples: Samples) -> None:
    """Remove all units by the naive loop."""
    probe = Probe(model, samples)  # used for its mask only

    def every() -> list[Tensor]:
        return [
            torch.stack(
                [
                    naive(model, group, unit, samples) if alive else torch.tensor(torch.inf)
                    for unit, alive in enumerate(probe.alive(group))
                ]
            )
            for group in groups
        ]

    for _ in range(sum(group.size for group in groups)):
        remove_least(model, probe, groups, every)


def print_peak_memory(shape: str) -> None:
    """Print the peak memory of this process, torch included, after one ranking."""
    torch.manual_seed(0)
    model = mlp(shape)
    x = torch.rand(10_000, int(shape.partition("-")[0]))
    probe = Probe(model, (x, torch.randint(0, 10, (10_000,))))
    seconds = timed(lambda: ablation(probe, find_units(model, x[:2])[0]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{shape}: peak memory {peak:.2f} GB in all, ranked in {seconds:.1f} s (under 2 GB)")


# Measuring.


def timed(what: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = perf_counter()
    what()
    return perf_counter() - start


def measured(ways: dict[str, Callable[[], object]], repeats: int) -> dict[int, dict[str, float]]:
    """Return the median seconds of each method by thread count; the methods take turns."""
    found = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for way in ways.values():
            way()
        turns = [{name: timed(way) for name, way in ways.items()} for _ in range(repeats)]
        found[threads] = {name: median(turn[name] for turn in turns) for name in ways}
    torch.set_num_threads(1)
    return found


def best(seconds: dict[int, float]) -> tuple[float, int]:
    """Return the least seconds and their thread count."""
    threads = min(seconds, key=lambda threads: seconds[threads])
    return seconds[threads], threads


def shown(found: tuple[float, int]) -> str:
    """Format seconds and threads in columns."""
    seconds, threads = found
    return f"{seconds:>9.3f} s at {threads} thread{'s' if threads > 1 else ' '}"


# Networks.


def convolutional() -> nn.Module:
    """Build a network of two convolutions, one with batch norm, and two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 16), nn.ReLU()),
        nn.Linear(16, 10),
    )


class Residual(nn.Module):
    """A residual network of two blocks and eight channels."""

    def __init__(self):
        super().__init__()
        widths = pairwise((1, 8, 8, 8, 8, 8))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in widths)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 10) outputs."""
        x = self.convs[0](x)
        for first, second in (self.convs[1:3], self.convs[3:5]):
            x = x + second(F.relu(first(F.relu(x))))
        return self.head(F.relu(x).mean((2, 3)))


if __name__ == "__main__":
    main()
