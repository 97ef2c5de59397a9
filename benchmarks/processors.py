"""Time measurements on one and two ranks, and sweeps of jobs here, on loky and on Dask.

One sweep is of 20 short jobs, one of 8 longer ones. Prints tables of seconds and ratios. Every way
has to give the results of one process, or the benchmark ends with an error. `--smoke` runs small
sizes; `--only ranks|short|long` runs one part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from torch import nn

import sentei
from sentei.experiments.comparing import compare, ways
from sentei.jobs.workers import Workers
from sentei.samples import Samples, fingerprint

REPEATS = 3


def network(width: int) -> nn.Module:
    """Return a convolutional network whose scoring is arithmetic almost alone."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(16 * width, 10)),
    )


def scored(width: int, rows: int) -> dict[str, tuple[float, float, str]]:
    """Return for each criterion the medians of wall and processor seconds, and a hash of scores."""
    model = network(width)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 3, 32, 32, generator=generator)
    targets = torch.randint(0, 10, (rows,), generator=generator)
    groups = sentei.find_units(model, inputs[:8])
    found = {}
    for criterion in ("ablation", "taylor2"):
        seconds, worked, scores = [], [], []
        for _ in range(REPEATS):
            probe = sentei.Probe(model, (inputs, targets))
            probe.loss()
            start, began = perf_counter(), process_time()
            scores = [sentei.criteria.scores(criterion, probe, group) for group in groups]
            seconds.append(perf_counter() - start)
            worked.append(process_time() - began)
        found[criterion] = median(seconds), median(worked), fingerprint(scores)
    return found


def rank(number: int, world: int, folder: str, width: int, rows: int) -> None:
    """Measure as one of several ranks, each on one thread, and write down what was found."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=number, world_size=world
    )
    found = scored(width, rows)
    torch.distributed.barrier()
    Path(folder, f"{number}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def on_ranks(world: int, width: int, rows: int) -> list[dict[str, tuple[float, float, str]]]:
    """Return what `scored` finds on each of a number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        context = get_context("spawn")
        arguments = (world, folder, width, rows)
        started = [context.Process(target=rank, args=(n, *arguments)) for n in range(world)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        return [json.loads(Path(folder, f"{n}.json").read_text()) for n in range(world)]


def sweep(workers: Workers, rows: int, seeds: int, epochs: int) -> tuple[float, list]:
    """Return the seconds of a comparison of four runs for each seed, and its curves."""
    torch.manual_seed(0)
    model = sentei.training.build("16-48-26:tanh")
    data = sentei.datasets.load("letter")
    todo = ways(["ablation", "taylor2"], [None, "least_squares"], [epochs])
    learn, judge = Samples(*data.train.first(rows)), Samples(*data.validation)
    start = perf_counter()
    # For each seed also a run of exact scores to compare with.
    curves = compare(model, learn, judge, todo, seeds=seeds, samples=rows, workers=workers)
    return perf_counter() - start, curves


def show_ranks(width: int, rows: int) -> None:
    """Print what two ranks save."""
    one, two = (on_ranks(world, width, rows) for world in (1, 2))
    for name in one[0]:
        hashes = {found[name][2] for found in (*one, *two)}
        assert len(hashes) == 1, f"{name}: ranks found other scores"
        for at, what in enumerate(("seconds", "of a processor")):
            alone, shared = (max(float(found[name][at]) for found in each) for each in (one, two))
            ratio = alone / shared
            print(f"{name:10} 1 rank {alone:6.2f}, 2 ranks {shared:6.2f} {what}: {ratio:.2f}")


def show_sweep(rows: int, seeds: int, epochs: int) -> None:
    """Print what two processes save in a sweep."""
    here, curves = sweep(Workers(), rows, seeds, epochs)
    print(f"{4 * seeds} runs, {here / (5 * seeds):.1f} s each on average; here {here:7.2f} s")
    for backend in ("loky", "dask"):
        seconds, found = sweep(Workers(2, backend), rows, seeds, epochs)
        assert found == curves, f"{backend} found other curves"
        print(f"{backend:10} {seconds:7.2f} s   {here / seconds:.2f}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", choices=("ranks", "short", "long"))
    given = parser.parse_args()
    small = given.smoke
    torch.set_num_threads(1)
    if given.only in (None, "ranks"):
        show_ranks(*((4, 64) if small else (24, 512)))
    if given.only in (None, "short"):
        show_sweep(300 if small else 3000, seeds=1 if small else 5, epochs=1)
    if given.only in (None, "long"):
        show_sweep(300 if small else 6000, seeds=1 if small else 2, epochs=1 if small else 6)


if __name__ == "__main__":
    main()
