"""Norms that cannot be counted: their streams are not offered, and the reason is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei

D = 12
TIED = "an operation over all of them, such as a norm or a product, ties them together"
UNCOUNTED = "a module with a scale of its own that divides by the mean square or by the variance"


class Pictures(nn.Module):
    """A residual block between norms over all channels and pixels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, D, 3, padding=1), nn.Conv2d(D, D, 3, padding=1)
        self.first, self.last = nn.GroupNorm(1, D), nn.GroupNorm(1, D)
        self.head = nn.Linear(D, 3)

    def forward(self, x):
        x = self.a(x.view(-1, 1, 2, 2))
        return self.head(self.last(x + F.relu(self.b(self.first(x)))).mean((2, 3)))


class Rows(nn.Module):
    """A layer, what is done to its units, and a layer that reads them."""

    def __init__(self, between, norm=None):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, D), norm, nn.Linear(D, 3)
        self.between, self.scale = between, nn.Parameter(torch.ones(D))

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


def response(model, x):
    """Divide by the mean over units of their lengths: a global response norm."""
    length = x.abs()
    return x * model.scale * (length / (length.mean(-1, keepdim=True) + 1e-6))


CASES = {
    "one group": (Pictures, TIED),
    "softmax": (lambda: Rows(lambda m, x: F.softmax(m.norm(x), -1), nn.LayerNorm(D)), TIED),
    "response": (lambda: Rows(response), UNCOUNTED),
    "no scale": (
        lambda: Rows(lambda m, x: m.norm(x), nn.LayerNorm(D, elementwise_affine=False)),
        UNCOUNTED,
    ),
    "in the forward": (
        lambda: Rows(lambda m, x: F.layer_norm(x, x.shape[-1:], m.scale)),
        UNCOUNTED,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason_is_said(name):
    make, reason = CASES[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(3, 4)
    assert sentei.find_units(model, x) == []
    said = {each.parameter: each.reason for each in sentei.not_offered(model, x)}
    assert reason in said["a.weight"]


def test_a_length_that_zeros_do_not_change_needs_no_count():
    """The root of a sum of squares is the same without zeros: units can go as they are."""
    torch.manual_seed(0)
    model, x = Rows(lambda _, x: x / x.norm(dim=1, keepdim=True)), torch.randn(3, 4)
    (group,) = sentei.find_units(model, x)
    assert (group.kind, group.size) == ("stream", D)
    mask = sentei.Mask.full([group]).without({group: [0, 7]})
    small = sentei.shrink(model, mask, x)
    with torch.no_grad():
        unit = model.a(x)
        unit[:, [0, 7]] = 0
        want = model.b(unit / unit.norm(dim=1, keepdim=True))
        assert torch.allclose(small(x), want, atol=1e-6)
    assert small.a.out_features == D - 2
