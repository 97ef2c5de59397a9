"""Run an exported C file on an emulated Cortex-M4 (QEMU): self-test, classes, code size."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from string import Template

from torch import Tensor

from sentei.errors import FileError
from sentei.formats.c.compiled import STRICT, input_scale, input_type, named
from sentei.formats.c.dialect import literal
from sentei.formats.c.integers import quantise

TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")  # Debian's gcc-arm-none-eabi, qemu-system-arm

BOARD = (
    *("-M", "mps2-an386", "-semihosting", "-nographic", "-monitor", "none"),
    *("-serial", "null"),
)

# At reset the processor reads two words at address 0: the stack pointer and the reset handler.
# newlib's start-up code does the rest and calls the emulator by semihosting.
START = """\
void _start(void);
static void reset(void)
{
    *(volatile unsigned *)0xE000ED88u |= 0xF00000u; /* the floating-point unit, if there is one */
    _start();
}
__attribute__((section(".vectors"), used)) static const struct { void *stack; void (*reset)(void); }
    vectors = {(void *)0x20010000, reset};
"""

_MAIN = Template("""\
#include <stdio.h>
#include "$header"
static const $kind samples[] = {$values};
int main(void)
{
    unsigned n;
    for (n = 0; n < $count; n++) printf("%d ", ${prefix}_classify(samples + n * ${up}_INPUTS));
    return 0;
}
""")


def check(name: str) -> None:
    """Raise FileError if a tool for the emulated board is missing.

    Raises:
        FileError: names the packages to install.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise FileError(
            f"{name} is tested on an emulated board with {' and '.join(missing)}, which this "
            "machine does not have: apt-get install gcc-arm-none-eabi qemu-system-arm"
        )


def self_test(path: str | Path, timeout: float = 120) -> str:
    """Return the self-test output of a C file on QEMU's mps2-an386 (bare-metal Cortex-M4).

    Raises:
        FileError: a tool is missing, the file does not compile, or a golden vector fails.
    """
    path = Path(path).resolve()
    return _run_on_board(path, [f"-D{named(path).upper()}_SELF_TEST"], timeout)


def classify(path: str | Path, samples: Tensor, timeout: float = 120) -> list[int]:
    """Return the classes that a C file predicts for samples, in a test program on the same board.

    Args:
        path: the .c file, with its header in the same folder.
        samples: (N, ...) inputs in real units; they are stored in the program's flash.
        timeout: seconds for compiling, and for running.

    Raises:
        FileError: a tool is missing, or the file does not compile.
    """
    path = Path(path).resolve()
    name, scale = named(path), input_scale(path)
    flat = samples.detach().cpu().float().reshape(len(samples), -1)
    values = (quantise(flat, scale) if scale else flat).reshape(-1).tolist()
    words = [str(int(v)) if scale else literal(v) for v in values]
    main = _MAIN.substitute(
        header=path.with_suffix(".h"),
        prefix=name,
        up=name.upper(),
        kind=input_type(path),
        count=len(flat),
        values=",".join(words),
    )
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        program = Path(folder) / "main.c"
        program.write_text(main)
        return [int(word) for word in _run_on_board(path, [str(program)], timeout).split()]


def sizes(path: str | Path, cpu: str = "cortex-m0plus", timeout: float = 120) -> tuple[int, ...]:
    """Return the bytes of text, data and bss of a C file compiled at -Os.

    That is code and constants, initialised data, other static data. libgcc and libm, which the
    linker adds, are not included.

    Raises:
        FileError: a tool is missing, or the file does not compile.
    """
    path = Path(path).resolve()
    check(path.name)
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        compiled = str(Path(folder) / "net.o")
        flags = [*STRICT, f"-mcpu={cpu}", "-mthumb", "-Os", "-c", str(path), "-o", compiled]
        ran([TOOLS[0], *flags], path, timeout)
        listed = ran(["arm-none-eabi-size", compiled], path, timeout)
    return tuple(map(int, listed.splitlines()[1].split()[:3]))


def _run_on_board(path: Path, more: list[str], timeout: float) -> str:
    """Compile a C file with the arguments `more`, run it on the board and return what it prints."""
    check(path.name)
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        start, image = Path(folder) / "start.c", Path(folder) / "image.elf"
        start.write_text(START)
        cpu = ["-mcpu=cortex-m4", "-mthumb", "--specs=rdimon.specs"]
        link = "-Wl,--section-start=.vectors=0"
        sources = [*more, str(path), str(start), "-lm", "-o", str(image)]
        ran([TOOLS[0], *STRICT, *cpu, "-O2", link, *sources], path, timeout)
        return ran([TOOLS[1], *BOARD, "-kernel", str(image)], path, timeout)


def ran(command: list[str], path: Path, timeout: float) -> str:
    """Run a command and return its output; raise FileError if it fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise FileError(f"{path.name}: {command[0]} did not end within {timeout} s") from error
    if done.returncode:
        output = (done.stdout + done.stderr)[:2000]
        raise FileError(f"{path.name}: {command[0]} ended with {done.returncode}: {output}")
    return done.stdout + (done.stderr if command[0] == TOOLS[1] else "")
