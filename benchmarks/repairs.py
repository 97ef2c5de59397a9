"""Time angles and least-squares removal, compared with the arithmetic that they have to do.

Run: python benchmarks/repairs.py. One thread, MNIST. It compares the angles of 4,096 units over
60,000 samples with the matrix product of their outputs in float32, and reports peak memory; and it
compares a complete least-squares removal of 1,000 units with one Cholesky factorisation of their
Gram matrix plus one pass over the data. Each side runs in a process of its own. Last, it prints how
much outputs change in float64 when redundant units are removed with the repair `affine`.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import torch

from sentei import Cut, Mask, Probe, find_units
from sentei.criteria import angles, scores
from sentei.datasets import mnist
from sentei.network.units import Group
from sentei.probe.summaries import second_moments
from sentei.pruning.loop import mask_cut_
from sentei.pruning.rules.proposals import lowest, mixed
from sentei.training import mlp

CASES = {  # activation, and the factor of the copied unit's incoming weights
    "sigmoid duplicates": ("sigmoid", 1.0),
    "sigmoid complements": ("sigmoid", -1.0),
    "tanh opposites": ("tanh", -1.0),
    "constants": ("sigmoid", 0.0),
    "scaled ReLU copies": ("relu", 0.3),
}
PARTS = ("product", "angles", "pass", "curve")


def main() -> None:
    """Measure each part in a process of its own, and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.part:
        seconds, memory = PARTS_BY_NAME[asked.part]()
        print(seconds, memory)
        return
    found = {part: _measured(part) for part in PARTS}
    times = {part: seconds for part, (seconds, _) in found.items()}
    print("| what | seconds | against | peak memory |\n| --- | --- | --- | --- |")
    for name, against in (("angles", "product"), ("curve", "pass")):
        ratio = times[name] / times[against]
        print(f"| {against} | {times[against]:.1f} | 1 | {found[against][1]:.2f} GB |")
        print(f"| {name} | {times[name]:.1f} | {ratio:.1f} | {found[name][1]:.2f} GB |")
    print("\n| removed units, with `affine` | outputs change by |\n| --- | --- |")
    for what, apart in exactness().items():
        print(f"| {what} | {apart:.1e} |")


@torch.no_grad()
def exactness() -> dict[str, float]:
    """Return the largest change of any output of a float64 784-64-10 on 1,000 images.

    Eight units are removed that others can replace exactly.
    """
    x = mnist().test.inputs[:1000].double()
    y = torch.zeros(1000, dtype=torch.long)
    found = {}
    for what, (activation, scale) in CASES.items():
        model = mlp("784-64-10", activation, seed=1).double().eval()
        weight, bias = (model.get_parameter(f"fc1.{name}") for name in ("weight", "bias"))
        for unit in range(8):
            weight[unit] = scale * weight[unit + 8]
            bias[unit] = scale * bias[unit + 8]
        (group,) = find_units(model, x[:8])
        mask = Mask.full([group])
        doomed: dict[Group, torch.Tensor] = {group: torch.arange(8)}
        cut = Cut(doomed, mixed("affine", Probe(model, (x, y)), doomed, mask))
        before = model(x)
        mask_cut_(model, mask, cut)
        found[what] = (model(x) - before).abs().max().item()
    return found


@torch.no_grad()
def product() -> float:
    """Time the float32 product of 4,096 units' outputs with themselves, over 60,000 samples."""
    o = torch.rand(60_000, 4_096)
    return _timed(lambda: o.T @ o)


def all_angles() -> float:
    """Time the angles between all units, from the network and its data."""
    data = mnist("full").train
    model = mlp("784-4096-10").eval()
    (group,) = find_units(model, data.inputs[:2])
    probe = Probe(model, data)
    return _timed(lambda: angles(probe, group))


@torch.no_grad()
def one_pass() -> float:
    """Time one pass that gathers the Gram matrix of 1,000 units, and its Cholesky factorisation."""
    probe, group = _thousand()
    seconds = _timed(lambda: second_moments(probe, group))
    (gram,) = second_moments(probe, group).values()
    square = gram.covariance + torch.eye(group.size, dtype=torch.float64)
    return seconds + _timed(lambda: torch.linalg.cholesky(square))


def complete_curve() -> float:
    """Time the removal of 1,000 units one at a time by `obs`, each repaired by least squares."""
    probe, group = _thousand()

    def remove_all() -> None:
        mask = Mask.full([group])
        while mask.count(group) > 1:
            doomed = lowest({group: scores("obs", probe, group)}, mask, [group], 1)
            cut = Cut(doomed, mixed("least_squares", probe, doomed, mask))
            mask = mask_cut_(probe.model, mask, cut)
            probe.update_(mask)

    return _timed(remove_all)


def _thousand() -> tuple:
    data = mnist("full").train
    model = mlp("784-1000-10").eval()
    (group,) = find_units(model, data.inputs[:2])
    return Probe(model, data), group


def _timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def _with_memory(work: Callable[[], float]) -> Callable[[], tuple[float, float]]:
    return lambda: (work(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


PARTS_BY_NAME = {
    "product": _with_memory(product),
    "angles": _with_memory(all_angles),
    "pass": _with_memory(one_pass),
    "curve": _with_memory(complete_curve),
}


def _measured(part: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--part", part], capture_output=True, text=True, check=True
    )
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory)


if __name__ == "__main__":
    main()
