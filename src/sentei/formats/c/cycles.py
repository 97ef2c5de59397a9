"""Count what one call of a C file takes on a processor: instructions, cycles, stack.

QEMU lists every run of instructions, so their number is exact. Cycles are an estimate: each
instruction takes what the processor's reference manual says, with no wait states of the flash.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import Template

import numpy as np
from torch import Tensor

from sentei.formats.c.compiled import STRICT, input_scale, input_type, named
from sentei.formats.c.dialect import literal
from sentei.formats.c.emulated import BOARD, START, TOOLS, check, ran
from sentei.formats.c.integers import quantise


@dataclass(frozen=True)
class Timing:
    """The cycles of instructions, from the technical reference manual of a processor.

    Attributes:
        build: flags of the compiler for this processor, as far as the emulated board runs it.
        megahertz: a usual clock of boards with this processor.
        load: of a load from memory.
        store: of a store.
        taken: of a branch that is taken; of one that is not, 1.
        call: of a call of a function whose address is in the instruction.
        floats: of multiplying and adding floats in one instruction.
        divide: of an integer division; of one of floats, 14.
        long: of a multiplication whose product has 64 bits.
        fused: of one whose product is added to a number.
    """

    build: tuple[str, ...]
    megahertz: int
    load: int
    store: int
    taken: int
    call: int
    floats: int = 1
    divide: int = 1
    long: int = 1
    fused: int = 1


# The emulated board is an M4, which runs the instructions of the M0, M0+ and M3 too. There is no
# M33: it runs what an M4 runs.
_M0: tuple[str, ...] = ("-mcpu=cortex-m0plus",)
_M3: tuple[str, ...] = ("-mcpu=cortex-m3",)
_M4: tuple[str, ...] = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")

# Arm's technical reference manuals of the Cortex-M0, M0+ (DDI 0484), M3 (DDI 0337) and M4 (100166)
# have such tables, for memory without wait states. Where those of the M3 and M4 give a range, this
# is its middle: a branch that is taken, 2 to 4, a division, 2 to 12, a long product of the M3, 3 to
# 5. Loads that follow one another overlap there, which is not counted. Of the M33 no such table is
# public: these are the M4's with the shortest branch. Compared with the manuals' text were loads,
# stores, products and divisions; not the branches of the M0+ and M4, nor the M0.
PROCESSORS: Mapping[str, Timing] = {
    "cortex-m0": Timing(_M0, 48, load=2, store=2, taken=3, call=4),
    "cortex-m0plus": Timing(_M0, 48, load=2, store=2, taken=2, call=3),
    "cortex-m3": Timing(_M3, 72, load=2, store=1, taken=3, call=3, divide=7, long=4, fused=2),
    "cortex-m4": Timing(_M4, 64, load=2, store=1, taken=3, call=3, floats=3, divide=7),
    "cortex-m33": Timing(_M4, 64, load=2, store=1, taken=2, call=2, floats=3, divide=7),
}


@dataclass(frozen=True)
class Taken:
    """What one call takes: instructions, estimated cycles, and bytes of stack."""

    instructions: int
    cycles: int
    stack: int


_MAIN = Template("""\
#include <stdio.h>
#include "$header"
static const $kind x[] = {$values};
static $out y[${up}_OUTPUTS];
int main(void)
{
    register unsigned char *sp __asm__("sp");
    volatile unsigned char *const top = sp - 1;
    unsigned k;
    for (k = 0; k < 4096u; k++) top[-(int)k] = 0xA5u;
    $compute(x, y);
    for (k = 4096u; k > 0u && top[-(int)(k - 1u)] == 0xA5u; k--) { }
    printf("%u", k);
    return 0;
}
""")


def costs(
    path: str | Path,
    sample: Tensor,
    timeout: float = 300,
    processors: Sequence[str] = ("cortex-m0plus", "cortex-m4", "cortex-m33"),
) -> dict[str, Taken]:
    """Return what one call of a C file takes on some of `PROCESSORS`, compiled at -O2.

    Where activations are integers, that is `NAME_predict_steps`, otherwise `NAME_predict`.

    Args:
        path: the .c file, with its header in the same folder.
        sample: one input in real units.
        timeout: seconds for compiling, and for running.
        processors: names in `PROCESSORS`.

    Raises:
        FileError: a tool is missing, or the file does not compile.
    """
    path = Path(path).resolve()
    check(path.name)
    timings = {cpu: PROCESSORS[cpu] for cpu in processors}
    builds = dict.fromkeys(timing.build for timing in timings.values())
    runs = {build: _counted(path, sample, build, timeout) for build in builds}
    found = {}
    for cpu, timing in timings.items():
        pairs, code, stack = runs[timing.build]
        cycles = sum(n * _cycles(code[a], a, b, timing) for (a, b), n in pairs.items())
        found[cpu] = Taken(pairs.total(), cycles, stack)
    return found


def _counted(
    path: Path, sample: Tensor, build: Sequence[str], timeout: float
) -> tuple[Counter[tuple[int, int]], dict[int, str], int]:
    """Return how often each instruction ran with the one after it, the code, and the stack."""
    compute = f"{named(path)}_predict"
    has_steps = f"void {compute}_steps(" in path.with_suffix(".h").read_text("utf-8")
    compute += "_steps" * has_steps
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        image, log = Path(folder) / "image.elf", Path(folder) / "log"
        for name, text in (("start.c", START), ("main.c", _main(path, sample, compute, has_steps))):
            (Path(folder) / name).write_text(text)
        sources = [str(Path(folder) / name) for name in ("main.c", "start.c")]
        flags = [*STRICT, *build, "-mthumb", "--specs=rdimon.specs", "-O2"]
        link = ["-Wl,--section-start=.vectors=0", *sources, str(path), "-lm", "-o", str(image)]
        ran([TOOLS[0], *flags, *link], path, timeout)
        listing = ["-d", "exec,nochain", "-D", str(log)]
        stack = ran([TOOLS[1], *BOARD, *listing, "-kernel", str(image)], path, timeout)
        listed = ran(["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(image)], path, 60)
        words = re.findall(r"^ +([0-9a-f]+):\t(.*)$", listed, re.MULTILINE)
        code = {int(place, 16): word.replace("\t", " ") for place, word in words}
        begin = re.search(rf"^([0-9a-f]+) <{compute}>:", listed, re.MULTILINE)
        assert begin is not None
        return _expanded(_within(log, int(begin[1], 16)), code), code, int(stack)


def _main(path: Path, sample: Tensor, compute: str, has_steps: bool) -> str:
    scale, flat = input_scale(path), sample.detach().cpu().float().reshape(1, -1)
    values = (flat if scale is None else quantise(flat, scale)).reshape(-1).tolist()
    return _MAIN.substitute(
        header=path.with_suffix(".h"),
        up=named(path).upper(),
        kind=input_type(path),
        out="int16_t" if has_steps else "float",
        compute=compute,
        values=",".join(literal(v) if scale is None else str(int(v)) for v in values),
    )


def _within(log: Path, begin: int) -> Counter[tuple[int, int]]:
    """Return how often each run of instructions up to a branch ran, with the one after it.

    Args:
        log: QEMU's list of the places where such runs begin.
        begin: where the function begins whose first call counts.
    """
    parts = []
    with log.open("rb") as file:
        while lines := file.readlines(1 << 24):
            found = re.findall(
                rb"^Trace [^[]*\[[0-9a-f]+/([0-9a-f]+)/", b"".join(lines), re.MULTILINE
            )
            parts.append(np.array([int(place, 16) for place in found], dtype=np.int64))
    places = np.concatenate(parts)
    first = int(np.nonzero(places == begin)[0][0])
    caller = int(places[first - 1])  # its run ends with the call; it goes on after that
    (ends,) = np.nonzero((places[first:] > caller) & (places[first:] <= caller + _LONGEST))
    last = first + int(ends[0])
    here, after = places[first:last].tolist(), places[first + 1 : last + 1].tolist()
    return Counter(zip(here, after, strict=True))


def _expanded(runs: Counter[tuple[int, int]], code: Mapping[int, str]) -> Counter[tuple[int, int]]:
    """Return how often each instruction ran with the one after it, from runs up to a branch."""
    order = sorted(code)
    following = dict(pairwise(order))
    pairs: Counter[tuple[int, int]] = Counter()
    for (at, after), n in runs.items():
        places = [at]
        while not _BRANCH.match(code[places[-1]]):
            places.append(following[places[-1]])
        # A run that does not end with its branch ended before `after`: at the end of a page.
        if not _leads(code[places[-1]], following[places[-1]], after) and after in places:
            places = places[: places.index(after)]
        for pair in pairwise([*places, after]):
            pairs[pair] += n
    return pairs


def _leads(branch: str, following: int, after: int) -> bool:
    """Return whether a branch may go on at `after`."""
    target = re.search(r"\s([0-9a-f]+) <", branch)
    return target is None or after in (int(target[1], 16), following)


# A branch ends a run; so does an instruction that writes the program counter.
_BRANCH = re.compile(
    r"(b|bl|bx|blx|cbz|cbnz|b(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le))(\.[nw])?\s|"
    r"(pop|ldm)\S*\s.*pc|mov\s+pc|add\s+pc|tb[bh]"
)
_LONGEST = 64  # bytes from where the caller's last run began to the instruction after its call


def _cycles(code: str, at: int, after: int, timing: Timing) -> int:  # noqa: PLR0911 - a table
    """Return the cycles of one instruction, and of the branch if it is one that was taken."""
    word = re.split(r"[ .]", code, maxsplit=1)[0]
    registers = _registers(code)
    if word.startswith(("ldm", "pop", "vpop", "vldm")):
        return 1 + registers + (timing.taken if "pc" in code else 0)
    if word.startswith(("stm", "push", "vpush", "vstm")):
        return 1 + registers
    if word.startswith(("ldr", "vldr")):
        return timing.load
    if word.startswith(("str", "vstr")):
        return timing.store
    if word.startswith(("sdiv", "udiv")):
        return timing.divide
    if word in ("smull", "umull", "smlal", "umlal"):
        return timing.long
    if word in ("mla", "mls"):
        return timing.fused
    if word.startswith("vdiv"):
        return 14
    if word.startswith(("vmla", "vfma", "vmls", "vnmul", "vfms")):
        return timing.floats
    if word == "bl":
        return timing.call
    return 1 if 0 < after - at <= 4 else timing.taken


def _registers(code: str) -> int:
    """Return how many registers an instruction lists in braces."""
    listed = re.search(r"\{(.*)\}", code)
    total = 0
    for part in listed[1].split(",") if listed else ():
        ends = [int(n) for n in re.findall(r"\d+", part)]
        total += ends[1] - ends[0] + 1 if "-" in part else 1
    return total
