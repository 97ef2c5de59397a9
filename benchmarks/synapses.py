"""Compare what removing half the synapses by several criteria changes, layer by layer and in all.

Run: python benchmarks/synapses.py [--seeds 3] [--kernels]. One thread, MNIST. Networks are pruned
in one step, with a tenth of their training images or fewer to measure on, and compared on others,
without retraining. The error of a layer is the squared change of its outputs on what it reads in
the untouched network, as a part of their square; the tables show the mean over layers and seeds.
`--kernels` times torch's matrix products with half the weights zero against a dense one instead.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import process_time

import torch
from torch import Tensor, nn

from sentei import Probe, Recipe, find_synapses, one_shot, pattern, prune, ranked, train
from sentei.datasets import Samples, mnist
from sentei.network.units import Synapses
from sentei.probe.summaries import input_products
from sentei.pruning.rules.proposals import Proposal
from sentei.training import mlp

CRITERIA = ("magnitude", "wanda", "obs")


class Rows(nn.Module):
    """A transformer that reads an image as 28 tokens, its rows."""

    def __init__(self, width: int = 32, layers: int = 2):
        super().__init__()
        self.embedding = nn.Linear(28, width)
        self.position = nn.Parameter(torch.randn(28, width) / 10)
        block = partial(nn.TransformerEncoderLayer, dropout=0.0, batch_first=True)
        self.blocks = nn.Sequential(*(block(width, 4, 4 * width) for _ in range(layers)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 10) of images (N, 784)."""
        tokens = self.embedding(x.unflatten(1, (28, 28))) + self.position
        return self.head(self.blocks(tokens).mean(1))


@dataclass(frozen=True)
class Case:
    """A network, and how many images it is trained, pruned and compared on."""

    make: Callable[[int], nn.Module]
    images: int
    epochs: int
    measured: int
    compared: int


NETWORKS = {
    "784-256-128-10": Case(
        lambda seed: mlp("784-256-128-10", "relu", seed=seed), 20_000, 8, 2000, 5000
    ),
    "a transformer of two blocks of width 32": Case(lambda _: Rows(), 10_000, 4, 500, 1000),
}


def proposals() -> Iterator[tuple[str, str, Proposal]]:
    """Yield (what stays, how, proposal)."""
    for name in CRITERIA:
        yield "half of each layer", name, ranked(name, one_shot("50 %"), within="group")
    for name in CRITERIA:
        yield "2:4", name, pattern(2, 4, name)
    for name in CRITERIA:
        yield "2:4", f"{name}, least squares", pattern(2, 4, name, "least_squares")


def main() -> None:
    """Print a table for each network, or one of kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kernels", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.kernels:
        kernels()
        return
    for name, case in NETWORKS.items():
        table(name, case, asked.seeds)


def table(name: str, case: Case, seeds: int) -> None:
    """Train a network with each seed, prune each in all ways, and print the means."""
    data = mnist()
    learn, seen = data.train, data.validation
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = case.make(seed)
        train(model, _first(learn, case.images), Recipe(case.epochs, seed=seed))
        check = Probe(model, _first(seen, case.compared))
        groups = find_synapses(model)
        before = (0.0, check.loss(), check.accuracy() or 0.0)
        found.setdefault(("all", "untouched"), []).append(before)
        for stays, how, propose in proposals():
            row = measured(model, check, groups, _first(learn, case.measured), propose)
            found.setdefault((stays, how), []).append(row)
    print(f"\n{name}\n\n| what stays | by | error of outputs | loss | accuracy |")
    print("| --- | --- | --- | --- | --- |")
    for (stays, how), rows in found.items():
        error, loss, accuracy = (statistics.mean(column) for column in zip(*rows, strict=True))
        print(f"| {stays} | {how} | {error:.4f} | {loss:.3f} | {accuracy:.2%} |")


def _first(samples: Samples, count: int) -> tuple[Tensor, Tensor]:
    return samples.inputs[:count], samples.targets[:count]


def measured(
    model: nn.Module,
    check: Probe,
    groups: list[Synapses],
    calibration: tuple[Tensor, Tensor],
    propose: Proposal,
) -> tuple[float, float, float]:
    """Prune a copy; return the mean error of its layers' outputs, its loss and its accuracy."""
    pruned = copy.deepcopy(model)
    list(prune(pruned, groups, Probe(pruned, calibration), propose))
    errors = []
    for group in groups:
        moments = input_products(check, group)
        before, after = (
            moments.layout.matrices(network.get_parameter(group.parameter).detach().double())
            for network in (model, pruned)
        )
        shift, size = ((w @ moments.means * w).sum() for w in (after - before, before))
        errors.append(float(shift / size))
    own = Probe(pruned, (check.samples.head.inputs, check.samples.head.targets))
    return statistics.mean(errors), own.loss(), own.accuracy() or 0.0


def kernels(width: int = 1024, rows: int = 256, times: int = 15) -> None:
    """Time one linear layer of 1,024 by 1,024 in several forms, relative to a dense one."""
    torch.manual_seed(0)
    x, weight = torch.randn(rows, width), torch.randn(width, width)
    forms: dict[str, Tensor] = {"dense": weight}
    halves = torch.rand_like(weight) < 0.5
    forms["half of all, compressed rows (csr)"] = (weight * halves).to_sparse_csr()
    for block in (4, 16, 64):
        for share in (0.5, 0.75, 0.9):
            kept = torch.rand(width // block, width // block) >= share
            mask = kept.repeat_interleave(block, 0).repeat_interleave(block, 1)
            name = f"{share:.0%} of blocks of {block} x {block} gone (bsr)"
            forms[name] = (weight * mask).to_sparse_bsr(block)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(times):
        for name, form in forms.items():
            start = process_time()
            torch.matmul(form, x.T)
            taken[name].append(process_time() - start)
    dense = statistics.median(taken["dense"])
    print("| weights | time, dense = 1 |\n| --- | --- |")
    for name, each in taken.items():
        print(f"| {name} | {statistics.median(each) / dense:.2f} |")
    shrunk = torch.randn(width // 2, width)
    each = []
    for _ in range(times):
        start = process_time()
        torch.matmul(shrunk, x.T)
        each.append(process_time() - start)
    print(f"| half the rows deleted | {statistics.median(each) / dense:.2f} |")
    try:
        torch.sparse.to_sparse_semi_structured(weight.half())
    except Exception as error:
        print(f"\n2:4 on this processor: {type(error).__name__}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
