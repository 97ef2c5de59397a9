"""Time scoring on an accelerator against the CPU; prints a table with the name of the card.

`--device cpu` measures the CPU against itself, which shows that the benchmark runs.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import torch
from torch import nn

import sentei


def network(width: int) -> nn.Module:
    """Return a convolutional network of three widths."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)),
    )


def seconds(criterion: str, device: torch.device, width: int, rows: int) -> float:
    """Return the seconds in which a criterion scores all units, recording included."""
    model = network(width).to(device)
    inputs, targets = torch.randn(rows, 3, 32, 32), torch.randint(0, 10, (rows,))
    groups = sentei.find_units(model, inputs[:8].to(device))
    start = perf_counter()
    probe = sentei.Probe(model, (inputs, targets))
    for group in groups:
        sentei.criteria.scores(criterion, probe, group)  # on the CPU, so that nothing is pending
    return perf_counter() - start


def main() -> None:
    """Print a row for each criterion."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default=None)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2000)
    given = parser.parse_args()
    there = torch.accelerator.current_accelerator(check_available=True)
    if given.device is None and there is None:
        parser.error("there is no accelerator on this machine; --device cpu measures the CPU")
    device = there if given.device is None else torch.device(given.device)
    assert device is not None
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{card}, torch {torch.__version__}; the CPU on {torch.get_num_threads()} threads")
    print("| criterion | CPU | device | ratio |\n| --- | ---: | ---: | ---: |")
    for criterion in ("magnitude", "taylor1", "taylor2", "ablation"):
        pair = torch.device("cpu"), device
        for each in pair:  # what a device does for the first time takes longer
            seconds(criterion, each, 4, 16)
        cpu, own = (seconds(criterion, each, given.width, given.rows) for each in pair)
        print(f"| {criterion} | {cpu:.2f} s | {own:.2f} s | {cpu / own:.1f} |")


if __name__ == "__main__":
    main()
