"""Microcontroller boards by name, and what of their memory a network may have. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from sentei.errors import UnreachableError, unknown
from sentei.pruning.rules.limits import MemoryBudget

# An estimate for Cortex-M0+ and AVR at -Os: a network's code takes 0.3 to 1.5 KiB, the compiler's
# own floating point and expf up to 3 KiB. The rest of the reserve is the caller's program.
CODE = 6 * 1024
STACK = 512  # newlib-nano keeps 280 of it, a perceptron's functions 160 (gcc -fstack-usage)


@dataclass(frozen=True)
class Board:
    """A board's memory in bytes, as its processor's data sheet has it."""

    flash: int
    ram: int
    processor: str

    def memory_budget(self, format: str, inputs: int) -> MemoryBudget:
        """What a network on it may take.

        Args:
            format: "c", "c-int8" or "c-int8-int8".
            inputs: numbers in a sample, which the caller keeps in RAM.

        Raises:
            UnreachableError: a sample leaves no RAM.
        """
        each = 1 if format.endswith("-int8-int8") else 4
        left = self.ram - STACK - inputs * each
        if left <= 0:
            raise UnreachableError(
                f"a sample of {inputs:,} numbers takes {inputs * each:,} bytes as {format}, the "
                f"stack {STACK}; the {self.processor} has {self.ram:,} bytes of RAM. Use "
                "c-int8-int8, whose inputs take a byte each, fewer inputs, or another board."
            )
        return MemoryBudget(format, self.flash - CODE, left)


BOARDS = {
    "arduino-mega": Board(256 * 1024, 8 * 1024, "ATmega2560"),
    "arduino-nano-33-ble": Board(1024 * 1024, 256 * 1024, "nRF52840, Cortex-M4F"),
    "arduino-uno": Board(32 * 1024, 2 * 1024, "ATmega328P"),
    "arduino-zero": Board(256 * 1024, 32 * 1024, "SAMD21, Cortex-M0+"),
    "blue-pill": Board(64 * 1024, 20 * 1024, "STM32F103C8, Cortex-M3"),
    "mps2-an386": Board(4096 * 1024, 4096 * 1024, "Cortex-M4, which QEMU emulates"),
    "micro-bit-v1": Board(256 * 1024, 16 * 1024, "nRF51822, Cortex-M0"),
    "micro-bit-v2": Board(512 * 1024, 128 * 1024, "nRF52833, Cortex-M4F"),
    "nucleo-f031k6": Board(32 * 1024, 4 * 1024, "STM32F031K6, Cortex-M0"),
    "nucleo-l031k6": Board(32 * 1024, 8 * 1024, "STM32L031K6, Cortex-M0+"),
    "nucleo-f401re": Board(512 * 1024, 96 * 1024, "STM32F401RE, Cortex-M4F"),
    "raspberry-pi-pico": Board(2048 * 1024, 264 * 1024, "RP2040, Cortex-M0+"),
}


def board(name: str) -> Board:
    """The board of this name.

    Raises:
        ValueError: there is none, with the nearest name.
    """
    if name not in BOARDS:
        raise ValueError(unknown("board", name, BOARDS))
    return BOARDS[name]
