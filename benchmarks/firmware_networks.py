"""Train MNIST networks for firmware, and prune them to a number of synapses during training.

    python benchmarks/firmware_networks.py FOLDER

writes a .safetensors file with a mask for each size; existing files are kept. The largest
convolutional network is the teacher of the multilayer perceptrons (distillation). Test images are
not used here; `benchmarks/firmware.py` measures the emitted C code on them.
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
from sentei.network.encoding.size import bytes_in
from sentei.network.units import Group
from sentei.pruning.rules.proposals import lowest

TEMPERATURE = 3.0

# name: (widths, synapses to keep, epochs)
CNNS = {
    "cnn32": ((20, 40), 21_500, 14),
    "cnn16": ((16, 32), 10_600, 14),
    "cnn8": ((16, 32), 5_000, 16),
}
MLPS = {
    "mlp32": ((160, 60), 19_000, 16),
    "mlp16": ((128, 40), 9_500, 16),
    "mlp8": ((100, 32), 4_500, 16),
}


def cnn(first: int, second: int) -> nn.Sequential:
    """Build two 5 by 5 convolutions, each with batch norm and 2 by 2 pooling, and a dense layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, first, 5), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * second, 10)),
    )


def mlp(first: int, second: int) -> nn.Sequential:
    """Build a ReLU network of two hidden layers."""
    return nn.Sequential(
        *(nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()),
        nn.Linear(second, 10),
    )


def shifted(images: Tensor, down: Tensor, across: Tensor, most: int) -> Tensor:
    """Return (N, 1, 28, 28) images, each moved by `down - most` and `across - most` pixels."""
    padded = F.pad(images, (most, most, most, most))
    rows = down[:, None, None] + torch.arange(28)[:, None]
    columns = across[:, None, None] + torch.arange(28)
    return padded[torch.arange(len(images))[:, None, None], 0, rows, columns].unsqueeze(1)


@torch.no_grad()
def soft_targets(teacher: nn.Module, images: Tensor, most: int) -> Tensor:
    """Return (shifts, shifts, N, 10) soft targets: the teacher's classes of each shifted image."""
    shifts = range(2 * most + 1)
    targets = torch.empty(len(shifts), len(shifts), len(images), 10)
    for down in shifts:
        for across in shifts:
            for rows in torch.arange(len(images)).split(1000):
                moved = (torch.full((len(rows),), shift) for shift in (down, across))
                logits = teacher(shifted(images[rows], next(moved), next(moved), most))
                targets[down, across, rows] = F.softmax(logits / TEMPERATURE, 1)
    return targets


def trained(
    network: nn.Sequential, keep: int, epochs: int, soft_labels: Tensor | None, data: datasets.Split
) -> sentei.Mask:
    """Train with a one-cycle learning rate, and prune by magnitude in the first three fifths."""
    images, targets = data.train
    images, flat = images.reshape(-1, 1, 28, 28), isinstance(network[0], nn.Linear)
    most = 1 if flat else 2  # pixels
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
            down, across = torch.randint(0, 2 * most + 1, (2, len(rows)))
            batch = shifted(images[rows], down, across, most)
            outputs = network(batch.flatten(1) if flat else batch)
            loss = F.cross_entropy(outputs, targets[rows])
            if soft_labels is not None:
                own = F.log_softmax(outputs / TEMPERATURE, 1)
                soft = F.kl_div(own, soft_labels[down, across, rows], reduction="batchmean")
                loss = 0.3 * loss + 0.7 * TEMPERATURE**2 * soft
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


def fitted(
    network: nn.Sequential, mask: sentei.Mask, budget: int, data: datasets.Split
) -> sentei.Mask:
    """Remove the smallest weights until the network fits the budget, then retrain briefly."""
    shape = (-1, 784) if isinstance(network[0], nn.Linear) else (-1, 1, 28, 28)
    example = data.train.inputs[:2].reshape(shape)
    groups = sentei.find_synapses(network)
    while bytes_in(network, mask, "c-int8", example) > budget:
        scores: dict[Group, Tensor] = {
            g: network.get_parameter(g.parameter).detach().abs().reshape(-1) for g in groups
        }
        some = sum(mask.count(g) for g in groups) // 100
        mask = mask.without(lowest(scores, mask, groups, some))
    mask.apply_(network)
    samples = data.train.inputs.reshape(shape), data.train.targets
    sentei.FineTune(samples, sentei.Recipe(epochs=3, lr=2e-4))(network, mask)
    return mask


def main(folder: Path) -> None:
    """Train and save the networks whose files do not exist yet."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    data = datasets.load("mnist", flat=True)
    soft_labels = None
    for name, (widths, keep, epochs) in {**CNNS, **MLPS}.items():
        path = folder / f"{name}.safetensors"
        if path.exists():
            continue
        print(name, flush=True)
        torch.manual_seed(0)
        flat = name in MLPS
        network = mlp(*widths) if flat else cnn(*widths)
        if flat and soft_labels is None:
            teacher = sentei.load(folder / "cnn32.safetensors")
            soft_labels = soft_targets(teacher, data.train.inputs.reshape(-1, 1, 28, 28), 1)
        example = data.train.inputs[:2].reshape((-1, 784) if flat else (-1, 1, 28, 28))
        mask = trained(network, keep, epochs, soft_labels if flat else None, data)
        budget = int(name[3:]) * 1024
        if bytes_in(network.eval(), mask, "c-int8", example) > budget:
            mask = fitted(network, mask, budget, data)
        network.eval()
        seen = data.validation.inputs if flat else data.validation.inputs.reshape(-1, 1, 28, 28)
        with torch.no_grad():
            right = (network(seen).argmax(1) == data.validation.targets).float().mean()
        print(f"  validation {right:.4f}", flush=True)
        sentei.save(network, path, mask=mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
