"""Time error surfaces, compared with one forward pass for each point.

Run: python benchmarks/surface.py [--gains 10001] [--repeats 5]. The networks of "The Incredible
Shrinking Neural Network" on its 4,500 images: ten units of each hidden layer, gains from 0 to 10.
Surfaces are computed in full. Of the 100,010 passes, samples of `SAMPLE` are timed and scaled. Both
sides count the processor time of one thread, because a busy machine distorts wall time. The script
checks that both methods give the same losses at the sample's points.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import process_time

import torch
from torch import nn

from sentei import Neurons, Probe, datasets, find_units, surface, training
from sentei.datasets import Samples
from sentei.losses import half_squared_error

UNITS = 10
SAMPLE = 50
NETWORKS = ("400-100-10:sigmoid:sigmoid", "400-50-50-10:sigmoid:sigmoid")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gains", type=int, default=10_001)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    samples = datasets.load("mnist:shrinking").train
    recipe = training.Recipe(10, "adam", lr=2e-3, batch_size=50, loss="half_squared_error")
    print(f"{UNITS} units x {asked.gains:,} gains x {samples.rows:,} images, one thread")
    print(
        f"{'network':<14}{'layer':<7}{'surface':>10}{'one pass':>11}{'all passes':>13}{'ratio':>8}"
    )
    for spec in NETWORKS:
        model = training.build(spec, init="glorot")
        training.train(model, samples, recipe)
        probe = Probe(model, samples, "half_squared_error")
        for group in find_units(model, samples.inputs[:64]):
            print_row(spec.partition(":")[0], model, probe, group, samples, asked)


def print_row(
    name: str,
    model: nn.Module,
    probe: Probe,
    group: Neurons,
    samples: Samples,
    asked: argparse.Namespace,
) -> None:
    """Time both methods for ten units of one layer, and print a row."""
    gains = torch.linspace(0, 10, asked.gains).double()
    units = list(range(UNITS))
    surface(probe, group, units, gains[:3])
    start = process_time()
    found = surface(probe, group, units, gains)
    whole = process_time() - start
    places = torch.linspace(0, asked.gains - 1, SAMPLE).long()
    passes, naive = [], gains
    for _ in range(asked.repeats):
        start = process_time()
        naive = one_pass_each(model, group, 0, gains[places], samples)
        passes.append((process_time() - start) / SAMPLE)
    apart = (naive - found[0, places]).abs().max().item()
    if apart > 1e-5:
        raise AssertionError(f"the two methods differ by {apart:.1e}")
    each = median(passes)
    total = each * UNITS * asked.gains
    row = f"{name:<14}{group.name:<7}{whole:>8.1f} s{1e3 * each:>8.2f} ms{total:>11.0f} s"
    print(f"{row}{total / whole:>7.1f}x")


@torch.no_grad()
def one_pass_each(
    model: nn.Module, group: Neurons, unit: int, gains: torch.Tensor, samples: Samples
) -> torch.Tensor:
    """Return the mean loss at each gain: multiply the unit's columns, run, restore them."""
    part = group.listeners[0]
    weight = model.get_parameter(part.parameter)
    before = weight.index_select(part.dim, part.index[unit])
    losses = []
    for gain in gains.tolist():
        weight.index_copy_(part.dim, part.index[unit], before * gain)
        losses.append(half_squared_error(model(samples.inputs), samples.targets).mean())
    weight.index_copy_(part.dim, part.index[unit], before)
    return torch.stack(losses).double()


if __name__ == "__main__":
    main()
