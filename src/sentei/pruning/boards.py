"""Memory sizes of microcontroller boards, and the part of them that a network may use."""

from __future__ import annotations

from dataclasses import dataclass

from sentei.errors import UnreachableError, unknown
from sentei.network.encoding.format import c_numbers
from sentei.pruning.rules.limits import MemoryBudget

# Flash reserved for code, estimated for Cortex-M0+ and AVR at -Os: a network's code takes 0.3 to
# 1.5 KiB, the compiler's floating-point routines and expf up to 3 KiB. The rest of the reserve is
# for the caller's program.
CODE = 6 * 1024
STACK = 512  # newlib-nano takes 280 of it, a perceptron's functions 160 (gcc -fstack-usage)


@dataclass(frozen=True)
class Board:
    """The memory of a microcontroller board in bytes, from the data sheet of its processor."""

    flash: int
    ram: int
    processor: str

    def memory_budget(self, format: str, inputs: int, *, floats: bool = False) -> MemoryBudget:
        """Return the flash and RAM that remain for a network on this board.

        Args:
            format: a C format, such as "c-int8".
            inputs: numbers in one sample, which the caller keeps in RAM.
            floats: whether they are floats in every format: the network standardises its inputs.

        Raises:
            ValueError: a format that is not a C format, with the nearest one.
            UnreachableError: no RAM remains beside the stack and one sample.
        """
        each = 4 if floats else c_numbers(format).activation
        ram = self.ram - STACK - inputs * each
        if ram <= 0:
            raise UnreachableError(
                f"a sample of {inputs:,} numbers takes {inputs * each:,} bytes as {format}, the "
                f"stack {STACK}; the {self.processor} has {self.ram:,} bytes of RAM. Use "
                f"{'' if floats else 'c-int8-int8, which stores an input in one byte, '}fewer "
                "inputs, or another board."
            )
        return MemoryBudget(format, self.flash - CODE, ram)


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
    """Return the board with this name.

    Raises:
        ValueError: no board has this name; the message gives the nearest one.
    """
    if name not in BOARDS:
        raise ValueError(unknown("board", name, BOARDS))
    return BOARDS[name]
