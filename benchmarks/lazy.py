"""Time pruning one unit at a time by lazy ranking, beside exact ranking and first-order Taylor.

Run: python benchmarks/lazy.py [784-300-100-10]. Every unit is removed, ranked anew each time on
10,000 images of MNIST. First-order Taylor takes one backward pass for each removal. Seconds are
processor seconds on one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import process_time

import torch
from torch import Tensor, nn

from ablation import remove, taylor
from sentei import Mask, Neurons, Probe, find_units
from sentei.criteria import ablation
from sentei.datasets import Samples, mnist
from sentei.network.units import Group
from sentei.pruning.rules.lazy_scores import LazyScores
from sentei.pruning.rules.proposals import lowest
from sentei.training import Recipe, mlp, train


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    shape = sys.argv[1] if len(sys.argv) > 1 else "784-300-100-10"
    samples = mnist().train.first(10_000)
    model = mlp(shape)
    train(model, samples, Recipe(epochs=2, batch_size=100, lr=1e-3))
    model.eval()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    seconds, orders = {}, {}
    for how in ("lazy", "taylor", "exact"):
        model.load_state_dict(start)
        begun = process_time()
        orders[how], evaluations = emptied(model, samples, how)
        seconds[how] = process_time() - begun
        print(f"{shape} {how:<7}{seconds[how]:8.1f} s, {evaluations:,} evaluations", flush=True)
    for how in ("lazy", "exact"):
        print(f"{how} takes {seconds[how] / seconds['taylor']:.2f} times as long as Taylor")
    print(f"the lazy order is the exact one: {orders['lazy'] == orders['exact']}")


def emptied(model: nn.Module, samples: Samples, how: str) -> tuple[list[tuple[str, int]], int]:
    """Remove every unit; return the order, and how many units were measured."""
    probe, known = Probe(model, samples), LazyScores()
    groups = find_units(model, samples.inputs[:2])
    measured = 0
    whole = probe.rises_without

    def counted(group: Group, units: Tensor | None = None, mix: None = None) -> Tensor:
        nonlocal measured
        measured += int(probe.alive(group).sum()) if units is None else len(units)
        return whole(group, units, mix)

    probe.rises_without = counted  # pyright: ignore[reportAttributeAccessIssue]
    order = []
    for step in range(1, sum(group.size for group in groups) + 1):
        mask = Mask.full(groups).joined(probe.mask)
        found = scores(how, model, samples, probe, known, groups, mask, step)
        ((group, unit),) = lowest(found, mask, groups, 1, dict.fromkeys(groups, 0)).items()
        assert isinstance(group, Neurons)
        remove(model, probe, group, unit)
        order.append((group.name, int(unit)))
    return order, measured


def scores(
    how: str,
    model: nn.Module,
    samples: Samples,
    probe: Probe,
    known: LazyScores,
    groups: list[Neurons],
    mask: Mask,
    step: int,
) -> Mapping[Group, Tensor]:
    """Score all units one of the three ways."""
    if how == "lazy":
        return known(probe, [(groups, 1)], mask, dict.fromkeys(groups, 0), step)
    if how == "exact":
        return {group: ablation(probe, group) for group in groups}
    return dict(zip(groups, taylor(model, groups, samples), strict=True))


if __name__ == "__main__":
    main()
