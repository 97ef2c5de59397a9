"""Remove half of a transformer's attention heads, with no repair, by heads, and by whole matrices.

Run: python benchmarks/heads.py [--seeds 3]. One thread, MNIST: a transformer of two blocks of width
32 that reads an image as 28 tokens, trained on 10,000 images, four epochs. Of the four heads of a
block the two with the lowest scores go in one step, with 500 training images to measure on; losses
and accuracies are those of 1,000 other images, without retraining, means over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch
from torch import nn

from sentei import Probe, Recipe, find_units, one_shot, prune, ranked, train
from sentei.datasets import Samples, mnist
from sentei.training import evaluate
from synapses import Rows

REPAIRS = (None, "least_squares", "least_squares_by_column")
Row = tuple[float, float]


def measured(model: nn.Module, compared: Samples) -> Row:
    """Return loss and accuracy."""
    found = evaluate(model, compared)
    return found.loss, found.accuracy or 0.0


def without_half(model: nn.Module, learn: Samples, criterion: str, repair: str | None) -> nn.Module:
    """Return a copy of a network without half of the heads of each block."""
    own = copy.deepcopy(model)
    heads = [g for g in find_units(own, learn.inputs[:2]) if g.kind == "head"]
    probe = Probe(own, (learn.inputs[:500], learn.targets[:500]))
    list(prune(own, heads, probe, ranked(criterion, one_shot("50 %"), "group", repair)))
    return own


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    torch.set_num_threads(1)
    data = mnist()
    learn, compared = data.train, data.validation.first(1000)
    rows: dict[tuple[str, str], list[Row]] = {}
    for seed in range(parser.parse_args().seeds):
        torch.manual_seed(seed)
        model = Rows()
        train(model, (learn.inputs[:10_000], learn.targets[:10_000]), Recipe(4, seed=seed))
        rows.setdefault(("untouched", ""), []).append(measured(model, compared))
        for criterion in ("activation", "ablation"):
            for repair in REPAIRS:
                small = without_half(model, learn, criterion, repair)
                rows.setdefault((criterion, repair or "none"), []).append(measured(small, compared))
    print("| heads go by | repair | loss | accuracy |\n| --- | --- | ---: | ---: |")
    for (criterion, repair), found in rows.items():
        loss, accuracy = (statistics.mean(column) for column in zip(*found, strict=True))
        print(f"| {criterion} | {repair} | {loss:.3f} | {accuracy:.1%} |")


if __name__ == "__main__":
    main()
