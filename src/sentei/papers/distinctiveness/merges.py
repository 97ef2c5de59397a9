"""The merges that the paper may mean: literal readings of its text, as edits of the weights.

None of them is a repair: most leave a removed unit read by the next layer, or drop its constant
output without adding it to the bias. `w_in` are a unit's incoming weights and bias, `w_out` its
outgoing weights. A pair is (removed unit, kept unit); the removed unit's weights are set to zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sentei.pruning.rules.twins import Pairing

Edit = Callable[[nn.Linear, nn.Linear, Pairing], None]


@torch.no_grad()
def incoming(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:  # noqa: ARG001
    """Add the removed unit's w_in to the kept unit's, and zero the former; w_out is not changed."""
    for removed, kept in pairing.alike:
        before.weight[kept] += before.weight[removed]
        before.bias[kept] += before.bias[removed]
        _zero_incoming(before, removed)
    for removed, _ in pairing.opposite:
        _zero_incoming(before, removed)


@torch.no_grad()
def both_sides(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:
    """Add the removed unit's w_in and w_out to the kept unit's, and zero the former."""
    for removed, kept in pairing.alike:
        before.weight[kept] += before.weight[removed]
        before.bias[kept] += before.bias[removed]
        after.weight[:, kept] += after.weight[:, removed]
        _zero_incoming(before, removed)
        after.weight[:, removed] = 0
    for removed, _ in pairing.opposite:
        _zero_incoming(before, removed)
        after.weight[:, removed] = 0


@torch.no_grad()
def outgoing(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:  # noqa: ARG001
    """Add the removed unit's w_out to the kept unit's; remove both of an opposite pair."""
    for removed, kept in pairing.alike:
        after.weight[:, kept] += after.weight[:, removed]
        after.weight[:, removed] = 0
    for removed, _ in pairing.opposite:
        after.weight[:, removed] = 0


@torch.no_grad()
def outgoing_and_constant(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:
    """Like `outgoing`, but add half the sum of an opposite pair's w_out to the bias."""
    for removed, _ in pairing.opposite:
        after.bias.add_(after.weight[:, removed] / 2)
    outgoing(before, after, pairing)


@torch.no_grad()
def silence(before: nn.Linear, after: nn.Linear, pairing: Pairing) -> None:  # noqa: ARG001
    """Set the removed units' w_out to zero, and change no other weight."""
    after.weight[:, pairing.gone] = 0


EDITS: dict[str, Edit] = {
    "incoming": incoming,
    "both sides": both_sides,
    "outgoing": outgoing,
    "outgoing, constant folded": outgoing_and_constant,
    "nobody": silence,
}
REWIRING = ("incoming", "both sides")  # these edit incoming weights


def _zero_incoming(before: nn.Linear, removed: int) -> None:
    """Set the unit's incoming weights and bias to zero."""
    before.weight[removed] = 0
    before.bias[removed] = 0
