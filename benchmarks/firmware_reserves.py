"""What a program takes beside a network's constants: code, the compiler's libraries, stack.

Links a program that only classifies one sample, with the network and without it, for a Cortex-M0+
and an ATmega2560, and prints the difference less the network's constants. The reserves in
sentei.pruning.boards are above the largest of them.

Run: python benchmarks/firmware_reserves.py. Needs gcc-arm-none-eabi with newlib, and gcc-avr with
avr-libc; stacks are counted under qemu-system-arm.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import sentei
from sentei.formats.c.cycles import costs
from sentei.network.encoding.format import C_FORMATS, c_numbers
from sentei.network.encoding.size import bytes_in

APART = ("-Os", "-std=c99", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
TARGETS = {
    "Cortex-M0+": (
        *("arm-none-eabi-gcc", "-mcpu=cortex-m0plus", "-mthumb"),
        *("--specs=nano.specs", "--specs=nosys.specs", "-w"),
    ),
    "ATmega2560": ("avr-gcc", "-mmcu=atmega2560"),
}


class Recurrent(nn.Module):
    """A GRU over 40 features, of which the last state is classified."""

    def __init__(self):
        super().__init__()
        self.steps, self.last = nn.GRU(40, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return 10 outputs for sequences (N, steps, 40)."""
        return self.last(self.steps(x)[0][:, -1])


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return networks by name, with inputs."""
    return {
        "64-32-10, ReLU": (
            nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
            torch.randn(9, 64),
        ),
        "64-32-10, sigmoid, softmax": (
            nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10), nn.Softmax(1)),
            torch.randn(9, 64),
        ),
        "two padded Conv1d, ReLU": (
            nn.Sequential(
                *(nn.Conv1d(6, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
                *(nn.Conv1d(8, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
                *(nn.Flatten(), nn.Linear(8, 6)),
            ),
            torch.randn(9, 6, 32),
        ),
        "GRU 40-32": (Recurrent(), torch.randn(9, 10, 40)),
    }


def linked(target: Sequence[str], folder: Path, sources: Sequence[str]) -> int:
    """Return the bytes of flash of a linked program."""
    build = [*target, *APART, *sources, "-lm", "-o", "program.elf"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    size = target[0].replace("gcc", "size")
    told = subprocess.run([size, "program.elf"], cwd=folder, check=True, capture_output=True)
    text, data = map(int, re.findall(r"\d+", told.stdout.decode().splitlines()[1])[:2])
    return text + data


def main() -> None:
    """Print a line for each network and format."""
    torch.set_num_threads(1)
    names = " | ".join(f"code, {target}" for target in TARGETS)
    print(f"| network | format | {names} | stack, M0+ |\n| --- | --- |{' ---: |' * 3}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "empty.c").write_text("int main(void) { for (;;) { } }\n")
        empty = {name: linked(target, folder, ["empty.c"]) for name, target in TARGETS.items()}
        for name, (network, x) in networks().items():
            network.eval()
            for format in C_FORMATS:
                if "GRU" in name and c_numbers(format).activation < 4:
                    continue
                sentei.export(network, folder / "net.c", x, format=format)
                kind = re.findall(r"net_classify\(const (\w+)", (folder / "net.h").read_text())[0]
                (folder / "main.c").write_text(
                    f'#include "net.h"\nstatic {kind} x[NET_INPUTS];\nvolatile int k;\n'
                    "int main(void) { k = net_classify(x); for (;;) { } }\n"
                )
                constants = bytes_in(network, sentei.Mask.full([]), format, x)
                code = [
                    linked(target, folder, ["main.c", "net.c"]) - empty[each] - constants
                    for each, target in TARGETS.items()
                ]
                stack = costs(folder / "net.c", x[0])["cortex-m0plus"].stack
                print(f"| {name} | `{format}` | {code[0]:,} | {code[1]:,} | {stack} |", flush=True)
        print("An empty program: " + ", ".join(f"{n:,} bytes, {t}" for t, n in empty.items()))


if __name__ == "__main__":
    main()
