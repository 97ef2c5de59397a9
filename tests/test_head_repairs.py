"""Least-squares repair of attention heads, which are vectors of several features."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sentei import Cut, Mask, Neurons, Probe, find_units
from sentei.criteria.repairs.affine import least_squares
from sentei.network.calls import Calls
from sentei.pruning.loop import mask_cut_


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(50, 5, 12)
    nn.init.normal_(model.attention.in_proj_bias)
    groups = [group for group in find_units(model, x[:2]) if group.kind == "head"]
    return model, Probe(model, (x, torch.arange(50) % 3)), groups[0], x


def heads_read(model, group, x):
    """What the output projection reads of each head, (heads, samples times positions, features)."""
    read = []

    def answer(call):
        if call.weight == "attention.out_proj.weight":
            read.append(call.input.detach().reshape(-1, 12).T)
        return call()

    with torch.no_grad(), Calls(model.eval(), answer):
        model(x)
    return read[0][group.listeners[0].index].transpose(1, 2).double().numpy()


@pytest.mark.parametrize("doomed", [[1], [0, 3]])
def test_heads_are_fitted_as_by_numpy(setting, doomed):
    model, probe, group, x = setting
    assert isinstance(group, Neurons)
    kept = [head for head in range(4) if head not in doomed]
    mask = Mask.full([group]).without({group: doomed})
    (rows,) = least_squares(probe, group, torch.tensor(doomed), mask).values()
    values = heads_read(model, group, x).reshape(4, -1)
    design = np.column_stack([*values[kept], np.ones(values.shape[1])])
    for head, row in zip(doomed, rows.numpy(), strict=True):
        expected = np.linalg.lstsq(design, values[head], rcond=None)[0]
        assert np.allclose(row[[*kept, 4]], expected, atol=1e-5)
        assert not row[doomed].any()


def test_a_repaired_head_changes_the_attentions_output_less(setting):
    model, probe, group, x = setting
    mask, doomed = Mask.full([group]), torch.tensor([2])
    after = mask.without({group: doomed})
    outputs = {}
    for name, mix in {
        "none": {},
        "least squares": least_squares(probe, group, doomed, after),
    }.items():
        cut = copy.deepcopy(model)
        mask_cut_(cut, mask, Cut({group: doomed}, mix))
        outputs[name] = cut.attention(x, x, x)[0]
    whole = model.attention(x, x, x)[0]
    error = {name: (found - whole).square().mean().item() for name, found in outputs.items()}
    assert error["least squares"] < error["none"]
