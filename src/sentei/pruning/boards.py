"""Memory sizes of microcontroller boards, and the part of them that a network may use."""

from __future__ import annotations

from dataclasses import dataclass

from sentei.errors import UnreachableError, unknown
from sentei.network.encoding.format import c_numbers
from sentei.pruning.rules.limits import MemoryBudget

# Flash reserved for code beside the network's constants. Measured with
# benchmarks/firmware_reserves.py at -Os on a Cortex-M0+ and an ATmega2560: the code of a network
# with at most two convolutions, and the compiler's libraries, take at most 4,804 bytes with floats
# and 3,852 with integers; those of a GRU, 6,240. The rest is for the caller's program.
CODE = 6 * 1024
CONVOLUTION = 1536  # from the third convolution on: 700 bytes on a Cortex-M0+, 1,360 on AVR
RECURRENT = 2 * 1024
STACK = 512  # functions of a network take at most 216 bytes of it, measured in the same way


@dataclass(frozen=True)
class Board:
    """The memory of a microcontroller board in bytes, from the data sheet of its processor.

    Attributes:
        flash: bytes of flash.
        ram: bytes of RAM.
        processor: name of the processor.
        core: its core, as `sentei.formats.c.cycles.PROCESSORS` names it; None if cycles of this
            core are not estimated.
        megahertz: its usual clock.
    """

    flash: int
    ram: int
    processor: str
    core: str | None
    megahertz: int

    def memory_budget(
        self,
        format: str,
        inputs: int,
        *,
        floats: bool = False,
        convolutions: int = 0,
        recurrent: bool = False,
    ) -> MemoryBudget:
        """Return the flash and RAM that remain for a network on this board.

        Args:
            format: a C format, such as "c-int8".
            inputs: numbers in one sample, which the caller keeps in RAM.
            floats: whether they are floats in every format: the network standardises its inputs.
            convolutions: how many convolutions the network has; each has code of its own.
            recurrent: whether it has recurrent layers.

        Raises:
            ValueError: a format that is not a C format, with the nearest one.
            UnreachableError: no RAM remains beside the stack and one sample, or no flash beside
                the code.
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
        code = CODE + CONVOLUTION * max(convolutions - 2, 0) + RECURRENT * recurrent
        if code >= self.flash:
            raise UnreachableError(
                f"the network's code may take {code:,} bytes, with {convolutions} convolutions; "
                f"the {self.processor} has {self.flash:,} bytes of flash. Use fewer convolutions, "
                "or another board."
            )
        return MemoryBudget(format, self.flash - code, ram)


_M0, _PLUS, _M3, _M4 = "cortex-m0", "cortex-m0plus", "cortex-m3", "cortex-m4"
BOARDS = {
    "arduino-mega": Board(256 * 1024, 8 * 1024, "ATmega2560", None, 16),
    "arduino-nano-33-ble": Board(1024 * 1024, 256 * 1024, "nRF52840, Cortex-M4F", _M4, 64),
    "arduino-uno": Board(32 * 1024, 2 * 1024, "ATmega328P", None, 16),
    "arduino-zero": Board(256 * 1024, 32 * 1024, "SAMD21, Cortex-M0+", _PLUS, 48),
    "blue-pill": Board(64 * 1024, 20 * 1024, "STM32F103C8, Cortex-M3", _M3, 72),
    "mps2-an386": Board(4096 * 1024, 4096 * 1024, "Cortex-M4, which QEMU emulates", _M4, 25),
    "micro-bit-v1": Board(256 * 1024, 16 * 1024, "nRF51822, Cortex-M0", _M0, 16),
    "micro-bit-v2": Board(512 * 1024, 128 * 1024, "nRF52833, Cortex-M4F", _M4, 64),
    "nucleo-f031k6": Board(32 * 1024, 4 * 1024, "STM32F031K6, Cortex-M0", _M0, 48),
    "nucleo-l031k6": Board(32 * 1024, 8 * 1024, "STM32L031K6, Cortex-M0+", _PLUS, 32),
    "nucleo-f401re": Board(512 * 1024, 96 * 1024, "STM32F401RE, Cortex-M4F", _M4, 84),
    "raspberry-pi-pico": Board(2048 * 1024, 264 * 1024, "RP2040, Cortex-M0+", _PLUS, 125),
}


def board(name: str) -> Board:
    """Return the board with this name.

    Raises:
        ValueError: no board has this name; the message gives the nearest one.
    """
    if name not in BOARDS:
        raise ValueError(unknown("board", name, BOARDS))
    return BOARDS[name]
