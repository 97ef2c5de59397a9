"""Time networks with few alive synapses: masked, shrunk, and with layers as CSR.

Run: python benchmarks/sparse.py [--synapses 1259] [--threads 1]. Trains 784-20-10 and
784-300-100-10 on MNIST for three epochs, and keeps --synapses of the first one's synapses and 8 %
of the second one's, by magnitude. Prints the least time of one pass, for batches of 1 and 256, of
the dense parent, the masked network, the shrunk network with dense layers, and the shrunk network
with every layer as CSR; and the time of an epoch of training, masked and shrunk. The last column is
the choice of `shrink(..., sparse="auto")`.
"""

from __future__ import annotations

import argparse
import copy
from time import perf_counter

import torch
from torch import nn

from sentei import Mask, Recipe, find_synapses, find_units, shrink, train
from sentei.datasets import Samples, mnist
from sentei.network.folding import sweep_
from sentei.network.surgery.sparse import SparseLinear, seconds
from sentei.network.units import Group
from sentei.pruning.rules.proposals import lowest
from sentei.training import mlp


def pruned(widths: str, synapses: int, samples: Samples) -> tuple[nn.Module, nn.Module, Mask]:
    """Return the dense parent, its masked copy, and the mask after a sweep."""
    parent = mlp(widths, "relu", seed=0)
    train(parent, samples, Recipe(epochs=3, batch_size=256))
    groups = find_synapses(parent)
    full = Mask.full(groups)
    scores: dict[Group, torch.Tensor] = {
        g: parent.get_parameter(g.parameter).detach().abs().flatten() for g in groups
    }
    total = sum(group.size for group in groups)
    units = find_units(parent, samples.inputs[:8], inputs=True)
    mask = Mask.full([*groups, *units]).without(lowest(scores, full, groups, total - synapses))
    masked = copy.deepcopy(parent)
    mask.apply_(masked)
    mask = sweep_(masked, mask, samples.inputs[:64])
    return parent, masked, mask


def compressed(network: nn.Module) -> nn.Module:
    """Return a copy in which every linear layer is CSR, even where that is slower."""
    copied = copy.deepcopy(network)
    for path, layer in list(copied.named_modules()):
        if type(layer) is nn.Linear:
            owner, _, name = path.rpartition(".")
            setattr(copied.get_submodule(owner), name, SparseLinear.of(layer))
    return copied


def epoch(network: nn.Module, samples: Samples, mask: Mask | None) -> float:
    """Return the seconds of one epoch in batches of 256; with a mask, dead weights stay zero."""
    recipe = Recipe(epochs=1, optimizer="sgd", batch_size=256)
    hold = [lambda: mask.hold_(network)] if mask is not None else []
    started = perf_counter()
    train(network, samples, recipe, after_update=hold)
    return perf_counter() - started


@torch.no_grad()
def row(parent: nn.Module, masked: nn.Module, small: nn.Module, mask: Mask, x: torch.Tensor) -> str:
    """Return one line of the table."""
    networks = parent, masked, small, compressed(small)
    times = [1e6 * seconds(lambda n=n: n(x)) for n in networks]
    auto = shrink(masked, mask, x, sparse="auto")
    chosen = [type(m).__name__ for m in auto.modules() if type(m) in (nn.Linear, SparseLinear)]
    words = " ".join("CSR" if name == "SparseLinear" else "dense" for name in chosen)
    return "".join(f"{time:>10.1f}" for time in times) + f"   {words}"


def main() -> None:
    """Train, prune, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--synapses", type=int, default=1259)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    samples = mnist().train
    for widths, synapses in (("784-20-10", asked.synapses), ("784-300-100-10", 21_296)):
        parent, masked, mask = pruned(widths, synapses, samples)
        small = shrink(masked, mask, samples.inputs[:64])
        left = [g.size for g in find_units(small, samples.inputs[:8])]
        print(f"\n{widths}, {synapses:,} synapses, hidden units left {left}; us a pass")
        print(f"{'batch':>6}{'parent':>10}{'masked':>10}{'shrunk':>10}{'CSR':>10}   auto")
        for batch in (1, 256):
            x = samples.inputs[:batch].clone()
            print(f"{batch:>6}" + row(parent, masked, small, mask, x))
        times = epoch(masked, samples, mask), epoch(small, samples, None)
        print(f"an epoch of training: masked {times[0]:.2f} s, shrunk {times[1]:.2f} s")


if __name__ == "__main__":
    main()
