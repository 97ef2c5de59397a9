"""What the paper may have done with a pair: literal readings, as edits of the weights.

Most leave a removed unit heard or its constant unsaid, so none is a repair. `w_in` are a unit's
incoming weights and bias, `w_out` its outgoing ones; of a pair (gone, kept), "gone" is zeroed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sentei.pruning.rules.twins import Pairing

Edit = Callable[[nn.Linear, nn.Linear, Pairing], None]


@torch.no_grad()
def incoming(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:  # noqa: ARG001
    """The kept unit's w_in += the gone one's, whose w_in is zeroed; its w_out stays."""
    for gone, kept in pairing.alike:
        before.weight[kept] += before.weight[gone]
        before.bias[kept] += before.bias[gone]
        _silence_in(before, gone)
    for gone, _ in pairing.opposite:
        _silence_in(before, gone)


@torch.no_grad()
def both_sides(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:
    """The kept unit's w_in and w_out += the gone one's, which are zeroed."""
    for gone, kept in pairing.alike:
        before.weight[kept] += before.weight[gone]
        before.bias[kept] += before.bias[gone]
        after.weight[:, kept] += after.weight[:, gone]
        _silence_in(before, gone)
        after.weight[:, gone] = 0
    for gone, _ in pairing.opposite:
        _silence_in(before, gone)
        after.weight[:, gone] = 0


@torch.no_grad()
def outgoing(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:  # noqa: ARG001
    """The kept unit's w_out += the gone one's; both of an opposite pair go without a word."""
    for gone, kept in pairing.alike:
        after.weight[:, kept] += after.weight[:, gone]
        after.weight[:, gone] = 0
    for gone, _ in pairing.opposite:
        after.weight[:, gone] = 0


@torch.no_grad()
def outgoing_and_constant(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:
    """As `outgoing`, but half the sum of an opposite pair's w_out goes into the bias."""
    for gone, _ in pairing.opposite:
        after.bias.add_(after.weight[:, gone] / 2)
    outgoing(before, after, pairing)


@torch.no_grad()
def silence(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:  # noqa: ARG001
    """Nobody takes over."""
    after.weight[:, pairing.gone] = 0


EDITS: dict[str, Edit] = {
    "incoming": incoming,
    "both sides": both_sides,
    "outgoing": outgoing,
    "outgoing, constant folded": outgoing_and_constant,
    "nobody": silence,
}
REWIRING = ("incoming", "both sides")  # these edit what a unit hears


def _silence_in(before: nn.Linear, gone: int) -> None:
    before.weight[gone] = 0
    before.bias[gone] = 0
