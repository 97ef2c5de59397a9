"""What the formats cost on boards: flash, RAM, instructions and cycles of one sample, by QEMU.

Run: python benchmarks/firmware_costs.py. Needs gcc-arm-none-eabi and qemu-system-arm. Prints the
tables of docs/guides/firmware.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import sentei
from sentei.formats.c.cycles import costs
from sentei.formats.c.emulated import sizes
from sentei.network.encoding.format import C_FORMATS
from sentei.network.encoding.size import ram_in


def perceptron() -> tuple[nn.Sequential, Tensor, float]:
    """Return the 64-32-10 example, inputs, and the share of its synapses that is alive."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), torch.randn(9, 64), 0.2


def convolutional() -> tuple[nn.Sequential, Tensor, float]:
    """Return a network for six sensor channels of 64 samples, inputs, and the share alive."""
    layers = (
        *(nn.Conv1d(6, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(16, 24, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(24, 6)),
    )
    return nn.Sequential(*layers), torch.randn(64, 6, 64), 0.5


def main() -> None:
    """Print one line for each network, format and processor."""
    torch.set_num_threads(1)
    print("| network | format | flash, M0+ | RAM | processor | instructions | cycles | stack |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for build in (perceptron, convolutional):
        torch.manual_seed(0)
        network, x, alive = build()
        network.eval()
        links = sentei.find_synapses(network)
        dead = {g: torch.randperm(g.size)[: int(g.size * (1 - alive))] for g in links}
        mask = sentei.Mask.full(links).without(dead)
        mask.apply_(network)
        for format in C_FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "net.c"
                sentei.export(network, path, example=x, mask=mask, format=format)
                flash, ram = sum(sizes(path)[:2]), ram_in(network, mask, format, x)
                for cpu, cost in costs(path, x[0]).items():
                    print(
                        f"| {build.__name__} | `{format}` | {flash:,} | {ram:,} | {cpu} | "
                        f"{cost.instructions:,} | {cost.cycles:,} | {cost.stack} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
