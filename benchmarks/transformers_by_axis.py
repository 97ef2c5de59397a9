"""Prune two trained transformers by every axis to equal numbers of parameters, and compare.

Run: python benchmarks/transformers_by_axis.py [--only ViT] [--seeds 0 1 2] [--page]. One thread;
needs sentei[transformers]. A network is trained with each seed (kept in runs/axes), then cut. Each
result is a line of benchmarks/transformers_by_axis.jsonl; what is measured already is left out, so
the run may be stopped and called again. `--page` only draws the figures and writes the tables of
docs/transformers.md anew from the results, which every run does at its end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import nn

from axes_cuts import Workshop
from axes_networks import NETWORKS, first, trained
from axes_page import write_page
from axes_results import (
    ALL,
    AXES,
    CHOSEN,
    EIGHTHS,
    FILE,
    NOT_DONE,
    PATTERN,
    REPAIRED,
    UNTOUCHED,
    WAYS,
    key,
    results,
)
from sentei import Recipe, shrink, train
from sentei.network.encoding.size import multiply_adds
from sentei.running import ForwardCall
from sentei.training import Distillation, evaluate

DISTILLED = (CHOSEN, REPAIRED)  # ways


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = [asked.only] if asked.only else [*NETWORKS]
    if not asked.page:
        for name in names:
            for seed in asked.seeds:
                measure(name, seed, asked.ways)
    write_page(results())


def measure(name: str, seed: int, ways: list[str]) -> None:
    """Measure all cuts of one network that are not among the results yet."""
    done = {key(row) for row in results()}
    shop = Workshop(trained(name, seed), NETWORKS[name], seed)
    for way, axis, eighths in [(UNTOUCHED, UNTOUCHED, 8), *todo(ways)]:
        asked = {"network": name, "seed": seed, "axis": axis, "way": way, "eighths": eighths}
        if key(asked) in done:
            continue
        begin = process_time()
        row = asked | cut(shop, axis, way, eighths)
        print(*row.values(), f"{process_time() - begin:.1f} s", flush=True)
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def todo(ways: list[str]) -> Iterator[tuple[str, str, int]]:
    """Yield (way, axis, eighths of the synapses that stay), the axis that takes longest at last."""
    last = [(way, ALL) for way in ways]
    for way, axis in [*((way, axis) for way in ways for axis in AXES if axis != ALL), *last]:
        if (axis, way) not in NOT_DONE:
            yield from ((way, axis, eighths) for eighths in EIGHTHS)


def cut(shop: Workshop, axis: str, way: str, eighths: int) -> dict[str, Any]:
    """Cut a network; return its size and quality, before and after a short distillation."""
    if axis == UNTOUCHED:
        return {"parameters": shop.whole, **sizes(shop.model, shop), **quality(shop.model, shop)}
    made, forward = shop.made(axis, way, eighths), shop.network.forward
    if made is None:
        return {"parameters": None}
    small, masked = made.model, axis == PATTERN
    if not masked:
        small = shrink(made.model, made.mask, shop.samples[0][:2], forward=forward)
    row = {"parameters": made.parameters, **sizes(small, shop), **quality(small, shop)}
    if way in DISTILLED:
        learn = first(shop.network.data().train, shop.network.distilling)
        held = [lambda: made.mask.apply_(small)] if masked else []
        train(small, learn, distillation(shop), forward=forward, after_update=held)
        row |= {f"distilled_{name}": value for name, value in quality(small, shop).items()}
    return row


def distillation(shop: Workshop) -> Recipe:
    """Return how a small network learns from the whole one, the same for all cuts."""
    teacher = Distillation(shop.model, temperature=2.0, weight=0.5)
    size = shop.network.recipe.batch_size
    return Recipe(1, "adam", 3e-4, size, seed=shop.seed, distillation=teacher, decay="cosine")


def quality(model: nn.Module, shop: Workshop) -> dict[str, float]:
    """Return accuracy and mean loss on test samples."""
    network = shop.network
    test = first(network.data().test, network.tested)
    found = evaluate(model, test, forward=network.forward, batch_size=64)
    return {"accuracy": found.accuracy or 0.0, "loss": found.loss}


@torch.no_grad()
def sizes(small: nn.Module, shop: Workshop, repeats: int = 7) -> dict[str, float]:
    """Return multiply-adds, and the processor time of a pass as a part of the whole network's.

    Passes of both networks take turns; medians.
    """
    network, whole = shop.network, shop.model
    inputs = shop.samples[0][: network.timed]
    seconds: dict[nn.Module, list[float]] = {small: [], whole: []}
    for _ in range(repeats):
        for model, times in seconds.items():
            begin = process_time()
            network.forward(model, inputs)
            times.append(process_time() - begin)
    products = multiply_adds(small, ForwardCall(inputs[:2], network.forward))
    return {
        "multiply_adds": products,
        "latency": median(seconds[small]) / median(seconds[whole]),
    }


if __name__ == "__main__":
    main()
