"""An emitted C file's self-test on an emulated Cortex-M4: the board that needs no board."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from sentei.errors import FileError
from sentei.formats.c.compiled import STRICT

TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")  # Debian's gcc-arm-none-eabi, qemu-system-arm

# The processor begins with what stands at address 0: a stack, and where to go. newlib's start-up
# code does the rest and speaks to the emulator by semihosting.
_START = """\
void _start(void);
__attribute__((section(".vectors"), used)) static const struct { void *stack; void (*reset)(void); }
    vectors = {(void *)0x20010000, _start};
"""


def self_test(path: str | Path, timeout: float = 120) -> str:
    """What the self-test of a C file prints on QEMU's mps2-an386 (Cortex-M4, no operating system).

    Raises:
        FileError: a tool is missing, the file does not compile, or a golden vector fails.
    """
    path = Path(path).resolve()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise FileError(
            f"{path.name} is tested on an emulated board with {' and '.join(missing)}, which this "
            "machine does not have: apt-get install gcc-arm-none-eabi qemu-system-arm"
        )
    defined = f"-D{_name(path).upper()}_SELF_TEST"
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        start, image = Path(folder) / "start.c", Path(folder) / "image.elf"
        start.write_text(_START)
        cpu = ["-mcpu=cortex-m4", "-mthumb", "--specs=rdimon.specs"]
        place = "-Wl,--section-start=.vectors=0"
        sources = [str(path), str(start), "-lm", "-o", str(image)]
        _run([TOOLS[0], *STRICT, *cpu, "-O2", defined, place, *sources], path, timeout)
        board = ["-M", "mps2-an386", "-semihosting", "-nographic", "-monitor", "none"]
        silent = ["-serial", "null", "-kernel", str(image)]
        return _run([TOOLS[1], *board, *silent], path, timeout)


def _run(command: list[str], path: Path, timeout: float) -> str:
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
        said = (done.stdout + done.stderr)[:2000]
        raise FileError(f"{path.name}: {command[0]} ended with {done.returncode}: {said}")
    return done.stdout + (done.stderr if command[0] == TOOLS[1] else "")


def _name(path: Path) -> str:
    text = path.with_suffix(".h").read_text()
    return text.split("_predict(", 1)[0].rsplit(" ", 1)[-1]
