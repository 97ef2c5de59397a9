"""Sweeping and folding: an output is constant or it is not."""

import pytest
import torch
from torch import nn

from hand import group
from sentei import Mask, find_synapses
from sentei.network.folding import sweep_

X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None].repeat(1, 4)


class Wobbling(nn.Module):
    """Adds to each hidden unit a part of the first input, past the weights."""

    def __init__(self, amount: float, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)
        self.amount = amount
        self.double()
        with torch.no_grad():
            self.first.bias.fill_(scale)

    def forward(self, x):
        return self.last(self.first(x) + self.amount * x[:, :1])


@pytest.mark.parametrize(
    ("amount", "scale", "swept"),
    [
        (0.0, 1.0, True),
        (9e-7, 1.0, True),  # from 1 - 9e-7 to 1 + 9e-7: a spread of 1.8e-6 around 1
        (2e-6, 1.0, False),
        (1e-3, 1.0, False),
        (0.05, 1.0, False),
        (0.9, 10.0, False),
        (4e-7, 0.0, True),
        (1e-6, 0.0, False),
        (4e-5, 99.0, True),
        (1e-4, 99.0, False),
    ],
)
def test_a_unit_without_inputs_goes_only_if_its_output_is_constant(amount, scale, swept):
    model, units = Wobbling(amount, scale), group("first", 3, "last")
    weights = find_synapses(model)[0]
    mask = Mask.full([units, weights]).without({weights: [4, 5, 6, 7]})  # unit 1 reads nothing
    mask.apply_(model)
    before = model(X)
    after = sweep_(model, mask, X)
    assert after.dead(units).tolist() == ([1] if swept else [])
    assert torch.allclose(model(X), before, rtol=0, atol=2 * amount + 1e-12)
