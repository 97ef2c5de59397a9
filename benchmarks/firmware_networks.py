"""MNIST networks for firmware: trained, and pruned to a number of synapses while they train.

    python benchmarks/firmware_networks.py FOLDER

writes one .safetensors with its mask for each size, those that are there already left alone. The
largest convolutional network teaches the multilayer perceptrons. Test images are not looked at;
`benchmarks/firmware.py` does that, with the emitted C.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sentei
from sentei import datasets

# name: (widths, synapses to keep, epochs)
CNNS = {
    "cnn32": ((20, 40), 21_500, 14),
    "cnn16": ((16, 32), 10_600, 14),
    "cnn8": ((16, 32), 5_000, 16),
}
MLPS = {
    "mlp32": ((160, 60), 19_000, 30),
    "mlp16": ((128, 40), 9_500, 30),
    "mlp8": ((100, 32), 4_500, 30),
}


def cnn(first: int, second: int) -> nn.Sequential:
    """Two 5 by 5 convolutions with batch norm, each halved by pooling, and one dense layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, first, 5), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * second, 10)),
    )


def mlp(first: int, second: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        *(nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()),
        nn.Linear(second, 10),
    )


def shifted(images: Tensor, most: int) -> Tensor:
    """(N, 1, 28, 28) images, each moved by up to `most` pixels either way."""
    padded = F.pad(images, (most, most, most, most))
    rows, columns = (torch.randint(0, 2 * most + 1, (len(images), 1, 1)) for _ in range(2))
    rows, columns = rows + torch.arange(28)[:, None], columns + torch.arange(28)
    return padded[torch.arange(len(images))[:, None, None], 0, rows, columns].unsqueeze(1)


def trained(
    network: nn.Sequential, keep: int, epochs: int, teacher: nn.Module | None, data: datasets.Split
) -> sentei.Mask:
    """Train with a one-cycle rate, pruning by magnitude in the first three fifths."""
    images, targets = data.train
    images, flat = images.reshape(-1, 1, 28, 28), isinstance(network[0], nn.Linear)
    updates = epochs * (len(images) // 128)
    optimizer = torch.optim.Adam(network.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, updates, pct_start=0.1)
    propose = sentei.ranked("magnitude", sentei.cubic(keep))
    pruner = sentei.PruneWhileTraining(
        network, sentei.find_synapses(network), propose, every=100, total=updates, finish=0.6
    ).attach(optimizer)
    for epoch in range(epochs):
        begin, right = time.perf_counter(), 0
        for rows in torch.randperm(len(images)).split(128)[: len(images) // 128]:
            batch = shifted(images[rows], 1 if flat else 2)
            outputs = network(batch.flatten(1) if flat else batch)
            loss = F.cross_entropy(outputs, targets[rows])
            if teacher is not None:
                with torch.no_grad():
                    told = F.softmax(teacher(batch) / 3, 1)
                soft = F.kl_div(F.log_softmax(outputs / 3, 1), told, reduction="batchmean")
                loss = 0.3 * loss + 0.7 * 9 * soft  # 9 is the square of the temperature
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            right += int((outputs.argmax(1) == targets[rows]).sum())
        alive = sum(pruner.mask.count(g) for g in pruner.groups)
        took = time.perf_counter() - begin
        accuracy = right / len(images)
        print(f"  epoch {epoch + 1}: {accuracy:.4f}, {alive} synapses, {took:.0f} s", flush=True)
    pruner.detach()
    return pruner.mask


def main(folder: Path) -> None:
    """Train what is missing."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data = datasets.load("mnist", flat=True)
    for name, (widths, keep, epochs) in {**CNNS, **MLPS}.items():
        path = folder / f"{name}.safetensors"
        if path.exists():
            continue
        print(name, flush=True)
        torch.manual_seed(0)
        flat = name in MLPS
        network = mlp(*widths) if flat else cnn(*widths)
        teacher = sentei.load(folder / "cnn32.safetensors") if flat else None
        mask = trained(network, keep, epochs, teacher, data)
        network.eval()
        seen = data.validation.inputs if flat else data.validation.inputs.reshape(-1, 1, 28, 28)
        with torch.no_grad():
            right = (network(seen).argmax(1) == data.validation.targets).float().mean()
        print(f"  validation {right:.4f}", flush=True)
        sentei.save(network, path, mask=mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
