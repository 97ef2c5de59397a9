"""An emitted C file, compiled on this machine and run: its accuracy and its speed as they are."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from sentei.errors import FileError
from sentei.formats.c import as_c, write_c
from sentei.formats.c.quantised import outputs
from sentei.network.mask import Mask
from sentei.samples import Samples

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")


def compiler() -> str | None:
    """The C compiler of this machine; None if it has none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def named(path: Path) -> str:
    """What all names of an emitted file begin with."""
    return re.findall(r"void (\w+)_predict", path.with_suffix(".h").read_text())[0]


def input_step(path: Path) -> float | None:
    """What one step of an emitted file's int8 inputs counts; None where they are floats."""
    found = re.findall(r"_INPUT_STEP ([-\d.e]+)", path.with_suffix(".h").read_text())
    return float(found[0]) if found else None


def shipped(
    network: nn.Module, calibration: Tensor, mask: Mask | None, format: str, samples: Samples
) -> float:
    """The accuracy of a network as C: the emitted code's, or without a compiler what it computes.

    Args:
        network: as for `write_c`.
        calibration: (N, ...) real inputs.
        mask: what is dead in it.
        format: "c", "c-int8" or "c-int8-int8".
        samples: inputs and classes.
    """
    inputs, targets = samples
    if compiler() is None:
        net = as_c(network, calibration, mask, format)
        said = torch.cat([outputs(net, block) for block in inputs.split(1000)])
        return float((said.argmax(1) == targets).float().mean())
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        path = Path(folder) / "net.c"
        write_c(network, path, calibration, mask, format)
        return Compiled(path).accuracy(inputs, targets)


class Compiled:
    """A C file that `write_c` wrote, as a function of tensors.

    Args:
        path: the .c file, its header beside it.
        optimise: how the compiler is to optimise.

    Raises:
        FileError: no C compiler, or one that does not take the file without a warning.
    """

    def __init__(self, path: str | Path, optimise: str = "-O3"):
        path = Path(path)
        cc = compiler()
        if cc is None:
            raise FileError(
                f"{path} is measured by compiling it, and there is no C compiler (cc, gcc or "
                "clang); install one"
            )
        head = path.with_suffix(".h").read_text()
        name = named(path)
        defined = dict(re.findall(rf"#define {name.upper()}_(\w+) ([-\d.e]+)", head))
        self.inputs, self.outputs = int(defined["INPUTS"]), int(defined["OUTPUTS"])
        self.step = input_step(path)
        flags = [*STRICT, optimise, "-shared", "-fPIC"]
        with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
            library = str(Path(folder) / "net.so")
            done = subprocess.run(
                [cc, *flags, "-o", library, str(path), "-lm"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise FileError(f"{path} does not compile: {done.stderr[:2000]}")
            loaded = ctypes.CDLL(library)  # stays, though its file goes
        self._predict = getattr(loaded, f"{name}_predict")

    def __call__(self, samples: Tensor) -> Tensor:
        """(N, …) inputs in real units to (N, outputs)."""
        rows = self._rows(samples)
        out = np.zeros((len(rows), self.outputs), dtype=np.float32)
        for x, y in zip(rows, out, strict=True):
            self._predict(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p))
        return torch.from_numpy(out)

    def accuracy(self, samples: Tensor, targets: Tensor) -> float:
        """Part of the samples whose largest output is their class."""
        return float((self(samples).argmax(1) == targets.cpu()).float().mean())

    def latency(self, sample: Tensor, repeats: int = 300) -> float:
        """Seconds for one sample: the median of `repeats` after ten that are not counted."""
        (x,) = self._rows(sample.reshape(1, -1))
        y = np.zeros(self.outputs, dtype=np.float32)
        given = x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p)
        times = []
        for _ in range(repeats + 10):
            begin = perf_counter()
            self._predict(*given)
            times.append(perf_counter() - begin)
        return float(np.median(times[10:]))

    def _rows(self, samples: Tensor) -> np.ndarray:
        flat = samples.detach().cpu().float().reshape(len(samples), -1)
        if flat.shape[1] != self.inputs:
            raise ValueError(f"a sample has {self.inputs} numbers; these have {flat.shape[1]}")
        if self.step is None:
            return np.ascontiguousarray(flat.numpy())
        whole = flat * torch.tensor(1.0 / self.step)
        whole = torch.trunc(whole + torch.copysign(torch.tensor(0.5), whole)).clamp(-127, 127)
        return np.ascontiguousarray(whole.numpy().astype(np.int8))
