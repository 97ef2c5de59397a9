"""Compile an exported C file on this machine and measure its accuracy and its latency."""

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
from sentei.formats.c.integers import Scale, quantise
from sentei.formats.c.quantised import outputs
from sentei.network.mask import Mask
from sentei.samples import Samples

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")


def compiler() -> str | None:
    """Return the path of a C compiler on this machine; None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def named(path: Path) -> str:
    """Return the prefix of all names in an exported C file."""
    return re.findall(r"^void (\w+)_predict", _header(path), re.MULTILINE)[0]


def input_scale(path: Path) -> Scale | None:
    """Return how an exported file takes its inputs; None if they are floats."""
    found = re.search(
        r"^/\* An input v is passed .* to (\d+)\. \*/\n#define \w+_INPUT_STEP ([-\d.e]+)",
        _header(path),
        re.MULTILINE,
    )
    return None if found is None else Scale(float(found[2]), int(found[1]))


def input_type(path: Path) -> str:
    """Return the C type of an input of an exported file."""
    return re.findall(r"^void \w+_predict\(const (\w+) x", _header(path), re.MULTILINE)[0]


def has_classify(path: Path) -> bool:
    """Return whether an exported C file has a function that returns the class of a sample."""
    return re.search(r"^int \w+_classify\(", _header(path), re.MULTILINE) is not None


def _header(path: Path) -> str:
    return path.with_suffix(".h").read_text("utf-8")


def shipped(
    network: nn.Module, calibration: Tensor, mask: Mask | None, format: str, samples: Samples
) -> float:
    """Return the accuracy of a network exported to C: compiled if possible, else emulated in torch.

    Args:
        network: as for `write_c`.
        calibration: (N, ...) real inputs.
        mask: which synapses of the network are dead.
        format: a C format, such as "c-int8".
        samples: inputs and classes.
    """
    inputs, targets = samples
    if compiler() is None:
        net = as_c(network, calibration, mask, format)
        predicted = torch.cat([outputs(net, block) for block in inputs.split(1000)])
        return float((predicted.argmax(1) == targets).float().mean())
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        path = Path(folder) / "net.c"
        write_c(network, path, calibration, mask, format)
        return Compiled(path).accuracy(inputs, targets)


class Compiled:
    """Compile a C file that `write_c` wrote, and call it with tensors.

    Args:
        path: the .c file, with its header in the same folder.
        optimise: optimisation flag for the compiler.

    Raises:
        FileError: there is no C compiler, or the file does not compile without warnings.
    """

    def __init__(self, path: str | Path, optimise: str = "-O3"):
        path = Path(path)
        cc = compiler()
        if cc is None:
            raise FileError(
                f"{path} has to be compiled to be measured, and there is no C compiler (cc, gcc or "
                "clang); install one"
            )
        name = named(path)
        sizes = rf"^#define {name.upper()}_(\w+) ([-\d.e]+)"
        defined = dict(re.findall(sizes, _header(path), re.MULTILINE))
        self.inputs, self.outputs = int(defined["INPUTS"]), int(defined["OUTPUTS"])
        self.scale, self.type = input_scale(path), input_type(path).removesuffix("_t")
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
            loaded = ctypes.CDLL(library)  # stays loaded after its file is deleted
        self._predict = getattr(loaded, f"{name}_predict")

    def __call__(self, samples: Tensor) -> Tensor:
        """Compute (N, outputs) from (N, …) inputs in real units."""
        rows = self._rows(samples)
        out = np.zeros((len(rows), self.outputs), dtype=np.float32)
        for x, y in zip(rows, out, strict=True):
            self._predict(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p))
        return torch.from_numpy(out)

    def accuracy(self, samples: Tensor, targets: Tensor) -> float:
        """Return the fraction of samples whose largest output is their class."""
        return float((self(samples).argmax(1) == targets.cpu()).float().mean())

    def latency(self, sample: Tensor, repeats: int = 300) -> float:
        """Return seconds per sample: the median of `repeats` calls after ten uncounted ones."""
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
        """Return samples as C expects them: (N, inputs) float32, or int8 steps."""
        flat = samples.detach().cpu().float().reshape(len(samples), -1)
        if flat.shape[1] != self.inputs:
            raise ValueError(f"a sample has {self.inputs} numbers; these have {flat.shape[1]}")
        if self.scale is None:
            return np.ascontiguousarray(flat.numpy())
        return np.ascontiguousarray(quantise(flat, self.scale).numpy().astype(self.type))
