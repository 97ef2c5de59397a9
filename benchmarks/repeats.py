"""Compare training several small networks one by one and stacked: processor time per update.

Run: python benchmarks/repeats.py. One thread. The networks of the distinctiveness paper, batches of
100, Adam: one after the other, and as one network whose weights have an additional dimension
(batched matrix products, grouped convolutions), each with its own samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.training import distinctiveness_cnn, mlp

ROWS, BATCH = 20_000, 100
Forward = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure both ways for one, five and ten networks."""
    torch.set_num_threads(1)
    print(
        "| network | networks | one by one | stacked | ratio |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, make, stack, shape, updates in (
        ("784-64-10", lambda: mlp("784-64-10"), stacked_mlp, (784,), 60),
        ("CNN", distinctiveness_cnn, stacked_cnn, (1, 28, 28), 8),
    ):
        for count in (1, 5, 10):
            alone = min(one_by_one(make, shape, count, updates) for _ in range(3))
            together = min(at_once(stack, shape, count, updates) for _ in range(3))
            times = f"{1e3 * alone:.2f} ms | {1e3 * together:.2f} ms | {alone / together:.1f}"
            print(f"| {name} | {count} | {times} |", flush=True)


def one_by_one(
    make: Callable[[], nn.Module], shape: Sequence[int], count: int, updates: int
) -> float:
    """Return processor seconds per network and update, trained one after the other."""
    x, y, orders = _data(shape, count)
    networks = [make() for _ in range(count)]
    optimizers = [_adam(list(network.parameters())) for network in networks]
    start = process_time()
    for network, optimizer, order in zip(networks, optimizers, orders, strict=True):
        for rows in order.split(BATCH)[:updates]:
            _update(optimizer, F.cross_entropy(network(x[rows]), y[rows]))
    return (process_time() - start) / updates / count


def at_once(
    stack: Callable[[int], tuple[list[nn.Parameter], Forward]],
    shape: Sequence[int],
    count: int,
    updates: int,
) -> float:
    """Return processor seconds per network and update, trained as one stacked network."""
    x, y, orders = _data(shape, count)
    parameters, forward = stack(count)
    optimizer = _adam(parameters)
    start = process_time()
    for rows in orders.split(BATCH, 1)[:updates]:
        losses = F.cross_entropy(
            forward(x[rows]).flatten(0, 1), y[rows].flatten(), reduction="none"
        )
        _update(optimizer, losses.view(count, -1).mean(1).sum())
    return (process_time() - start) / updates / count


def stacked_mlp(count: int) -> tuple[list[nn.Parameter], Forward]:
    """Build `count` networks 784-64-10 as one, with a leading dimension."""
    w1, b1, w2, b2 = (_random(count, *size) for size in ((784, 64), (1, 64), (64, 10), (1, 10)))
    forward = lambda x: torch.baddbmm(b2, torch.baddbmm(b1, x, w1).sigmoid(), w2)  # noqa: E731
    return [w1, b1, w2, b2], forward


def stacked_cnn(count: int) -> tuple[list[nn.Parameter], Forward]:
    """Build `count` of the paper's convolutional networks as one, with grouped convolutions."""
    k1, c1, k2, c2 = (
        _random(10 * count, 1, 5, 5), _random(10 * count),
        _random(20 * count, 10, 5, 5), _random(20 * count),
    )  # fmt: skip
    w1, b1, w2, b2 = (_random(count, *size) for size in ((320, 64), (1, 64), (64, 10), (1, 10)))

    def forward(x: Tensor) -> Tensor:
        h = x[:, :, 0].transpose(0, 1)
        for kernel, bias in ((k1, c1), (k2, c2)):
            h = F.max_pool2d(F.conv2d(h, kernel, bias, groups=count), 2).relu()
        h = h.reshape(BATCH, count, 320).transpose(0, 1)
        return torch.baddbmm(b2, torch.baddbmm(b1, h, w1).relu(), w2)

    return [k1, c1, k2, c2, w1, b1, w2, b2], forward


def _data(shape: Sequence[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    orders = torch.stack([torch.randperm(ROWS) for _ in range(count)])
    return torch.randn(ROWS, *shape), torch.randint(0, 10, (ROWS,)), orders


def _random(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*size) * 0.05)


def _adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.005, fused=True)


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
