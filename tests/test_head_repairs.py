"""Least-squares repair of attention heads, which are vectors of several features."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sentei import Cut, Mask, Neurons, Probe, find_units, one_shot, prune, ranked, report
from sentei.criteria import Ablation, scores
from sentei.criteria.repairs.affine import least_squares, least_squares_by_column
from sentei.errors import GroupError
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


# Each column of a head by all columns of the others.


def read_and_given(model, x):
    """What the output projection reads and returns, (samples times positions, features)."""
    seen = []

    def answer(call):
        result = call()
        if call.weight == "attention.out_proj.weight":
            seen.extend(t.detach().reshape(-1, 12).double().numpy() for t in (call.input, result))
        return result

    with torch.no_grad(), Calls(model.eval(), answer):
        model(x)
    return seen


@pytest.mark.parametrize("doomed", [[1], [0, 3], [0, 1, 2]])
def test_the_projection_of_the_heads_that_stay_is_that_of_numpy(setting, doomed):
    model, probe, group, x = setting
    model.double()
    probe = Probe(model, (x.double(), torch.arange(50) % 3))
    kept = [head for head in range(4) if head not in doomed]
    columns = group.listeners[0].index[kept].flatten().numpy()
    read, given = read_and_given(model, x.double())
    design = np.column_stack([read[:, columns], np.ones(len(read))])
    expected = np.linalg.lstsq(design, given, rcond=None)[0]
    mask, units = Mask.full([group]), torch.tensor(doomed)
    mix = least_squares_by_column(probe, group, units, mask.without({group: units}))
    assert [rows.shape for rows in mix.values()] == [(3 * len(doomed), 13)]
    mask_cut_(model, mask, Cut({group: units}, mix))
    weight, bias = (t.detach().numpy() for t in model.attention.out_proj.parameters())
    assert np.allclose(weight[:, columns].T, expected[:-1], atol=1e-6)
    assert np.allclose(bias, expected[-1], atol=1e-6)
    gone = np.setdiff1d(np.arange(12), columns)
    assert not weight[:, gone].any()


def test_heads_that_went_before_fit_nothing(setting):
    model, probe, group, x = setting
    before = Mask.full([group]).without({group: [2]})
    probe.update_(before)
    after = before.without({group: [0]})
    (rows,) = least_squares_by_column(probe, group, torch.tensor([0]), after).values()
    read, _ = read_and_given(model, x)
    columns = group.listeners[0].index
    design = np.column_stack([read[:, columns[[1, 3]].flatten()], np.ones(len(read))])
    expected = np.linalg.lstsq(design, read[:, columns[0]], rcond=None)[0]
    assert np.allclose(rows.numpy()[:, [*range(3, 6), *range(9, 12), 12]], expected.T, atol=1e-4)
    assert not rows[:, [*range(3), *range(6, 9)]].any()


def test_the_fit_by_column_is_the_closer_one_and_needs_no_bias():
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(80, 5, 12)
    model.attention = nn.MultiheadAttention(12, 4, bias=False, batch_first=True)
    model.eval()
    group = next(g for g in find_units(model, x[:2]) if g.kind == "head")
    probe = Probe(model, (x, torch.arange(80) % 3))
    mask, units = Mask.full([group]), torch.tensor([1, 2])
    after, whole, errors = mask.without({group: units}), model.attention(x, x, x)[0], []
    for how in (least_squares_by_column, least_squares, None):
        cut = copy.deepcopy(model)
        mix = {} if how is None else how(probe, group, units, after)
        assert not any(rows[:, -1].any() for rows in mix.values())
        mask_cut_(cut, mask, Cut({group: units}, mix))
        errors.append((cut.attention(x, x, x)[0] - whole).square().mean().item())
    assert errors[0] < 0.7 * min(errors[1:])


def test_a_run_repairs_heads_by_column_and_its_page_is_written(setting, tmp_path):
    model, probe, group, _ = setting
    before = copy.deepcopy(model)
    propose = ranked("magnitude", one_shot(2), repair="least_squares_by_column")
    *_, last = prune(model, [group], probe, propose, journal=tmp_path / "run")
    assert last.mask.count(group) == 2
    assert not torch.equal(model.attention.out_proj.bias, before.attention.out_proj.bias)
    report(tmp_path / "run", tmp_path / "page.html", before)


def test_removals_of_heads_are_not_measured_with_the_fit_by_column(setting):
    _, probe, group, _ = setting
    with pytest.raises(GroupError, match="one share for each unit"):
        scores(Ablation("least_squares_by_column"), probe, group)
