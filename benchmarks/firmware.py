"""Measure emitted C code on MNIST's 10,000 test images: agreement, accuracy, bytes and latency.

Float32 outputs of C and of PyTorch are also compared with the network in float64, which shows the
rounding error of each.

Run: python benchmarks/firmware.py FOLDER, after benchmarks/firmware_networks.py FOLDER. Needs a C
compiler and onnxruntime; everything runs on one thread, one image at a time.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import sentei
from sentei import datasets
from sentei.formats.c.compiled import Compiled
from sentei.network.encoding.format import C_FORMATS
from sentei.network.encoding.size import bytes_in, latency, ram_in


def main(folder: Path) -> None:
    """Measure every network in the folder."""
    torch.set_num_threads(1)
    data = datasets.load("mnist", flat=True)
    for path in sorted(folder.glob("*.safetensors")):
        network, mask = sentei.load(path), sentei.load_mask(path)
        flat = isinstance(network[0], nn.Linear)  # pyright: ignore[reportIndexIssue]
        shape = (-1, 784) if flat else (-1, 1, 28, 28)
        seen = data.train.inputs[:1000].reshape(shape)
        images, targets = data.test.inputs.reshape(shape), data.test.targets
        exact = copy.deepcopy(network).double()
        with torch.no_grad():
            wanted = torch.cat([network(block) for block in images.split(1000)])
            truth = torch.cat([exact(block.double()) for block in images.split(1000)])
        right = float((wanted.argmax(1) == targets).float().mean())
        off = float((wanted - truth).abs().max())
        print(
            f"{path.stem}: PyTorch {right:.2%}, {truth.abs().max():.1f} the largest output, "
            f"within {off:.1e} of float64"
        )
        with tempfile.TemporaryDirectory() as scratch:
            for format in C_FORMATS:
                measure(network, mask, format, seen, (images, targets), wanted, truth, scratch)
            speed(network, mask, images[:1], Path(scratch))


def measure(
    network: nn.Module,
    mask: sentei.Mask,
    format: str,
    seen: torch.Tensor,
    test: tuple[torch.Tensor, torch.Tensor],
    wanted: torch.Tensor,
    truth: torch.Tensor,
    scratch: str,
) -> None:
    """Export one network in one format, and print its measurements."""
    images, targets = test
    file = Path(scratch) / f"{format.replace('-', '_')}.c"
    sentei.export(network, file, example=seen, mask=mask, format=format)
    compiled = Compiled(file)
    got = compiled(images)
    accuracy = float((got.argmax(1) == targets).float().mean())
    other = int((got.argmax(1) != wanted.argmax(1)).sum())
    off, wrong = (float((got - y).abs().max()) for y in (wanted, truth))
    took = compiled.latency(images[0]) * 1e6
    sizes = bytes_in(network, mask, format, seen), ram_in(network, mask, format, seen)
    print(
        f"  {format}: {accuracy:.2%}, {sizes[0]:,} bytes of flash, {sizes[1]:,} of RAM, "
        f"{other} other classes, outputs within {off:.1e} of PyTorch and {wrong:.1e} of float64, "
        f"{took:.0f} µs"
    )


def speed(network: nn.Module, mask: sentei.Mask, image: torch.Tensor, scratch: Path) -> None:
    """Print the latency of PyTorch and of onnxruntime on the same image."""
    import time
    from statistics import median

    import onnxruntime

    file = scratch / "net.onnx"
    sentei.export(network, file, example=image, mask=mask)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    given, times = {"input": image.numpy()}, []
    for _ in range(310):
        begin = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - begin)
    print(
        f"  PyTorch {latency(network, image, 300) * 1e6:.0f} µs, "
        f"onnxruntime {median(times[10:]) * 1e6:.0f} µs"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
