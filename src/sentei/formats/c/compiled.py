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
from torch import Tensor

from sentei.errors import FileError

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")


def compiler() -> str | None:
    """The C compiler of this machine; None if it has none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


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
        name = re.findall(r"void (\w+)_predict", head)[0]
        defined = dict(re.findall(rf"#define {name.upper()}_(\w+) ([-\d.e]+)", head))
        self.inputs, self.outputs = int(defined["INPUTS"]), int(defined["OUTPUTS"])
        self.step = float(defined["INPUT_STEP"]) if "INPUT_STEP" in defined else None
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
