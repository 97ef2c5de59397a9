"""Layers that store only alive synapses: same outputs, chosen by timing, saved and loaded."""

import logging

import pytest
import torch
from torch import nn

import hand
from sentei import FileError, Mask, find_synapses, load, save, shrink
from sentei.network.surgery import sparse
from sentei.network.surgery.sparse import SparseLinear


def pruned(kept=0.02):
    model = hand.mlp(300, 200, 10)
    groups = find_synapses(model)
    torch.manual_seed(1)
    doomed = {groups[0]: (torch.rand(groups[0].size) > kept).nonzero().flatten()}
    return model, Mask.full(groups).without(doomed)


def timed(dense, csr):
    """Return a fake timing function: the dense layer's time, then the CSR layer's, in turn."""
    answers = iter([dense, csr] * 9)
    return lambda _: next(answers)


def test_csr_is_the_same_function_with_and_without_bias():
    for bias in (True, False):
        layer = nn.Linear(7, 5, bias=bias)
        layer.weight.data[torch.rand(5, 7) > 0.3] = 0
        layer.weight.data[2] = 0
        made = SparseLinear.of(layer)
        assert made.alive == int((layer.weight != 0).sum())
        for shape in ((7,), (1, 7), (4, 7), (2, 3, 7), (0, 7)):
            x = torch.randn(shape)
            assert torch.allclose(made(x), layer(x), atol=1e-6)
        made.values *= 2  # a change in place is seen
        layer.weight.data *= 2
        assert torch.allclose(made(torch.ones(7)), layer(torch.ones(7)), atol=1e-6)


def test_shrink_becomes_sparse_where_it_is_faster_and_says_so(monkeypatch, caplog):
    model, mask = pruned()
    x = torch.randn(64, 300)
    wanted = shrink(model, mask, x)(x)
    monkeypatch.setattr(sparse, "seconds", timed(2e-6, 1e-6))
    with caplog.at_level(logging.INFO, "sentei"):
        small = shrink(model, mask, x, sparse="auto")
    assert isinstance(small[0], SparseLinear)
    assert type(small[2]) is nn.Linear  # all alive
    assert torch.allclose(small(x), wanted, atol=1e-5)
    assert "layer '0', 2." in caplog.text
    assert "64 rows at once: dense 2.0 us, CSR 1.0 us; it becomes CSR" in caplog.text
    monkeypatch.setattr(sparse, "seconds", timed(1e-6, 2e-6))
    with caplog.at_level(logging.INFO, "sentei"):
        assert type(shrink(model, mask, x, sparse="auto")[0]) is nn.Linear
    assert "it stays dense" in caplog.text
    assert type(model[0]) is nn.Linear


def test_a_timing_is_of_one_call():
    calls = []
    assert 0 < sparse.seconds(lambda: calls.append(1)) < 1
    assert len(calls) > sparse.TRIES


def test_a_sparse_network_is_saved_and_loaded_by_itself(monkeypatch, tmp_path):
    model, mask = pruned()
    x = torch.randn(64, 300)
    monkeypatch.setattr(sparse, "seconds", timed(2e-6, 1e-6))
    small = shrink(model, mask, x, sparse="auto")
    save(small, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors")
    assert isinstance(again[0], SparseLinear)
    assert torch.equal(again(x), small(x))
    dense = tmp_path / "dense.safetensors"
    save(shrink(model, mask, x), dense)
    assert (tmp_path / "small.safetensors").stat().st_size < dense.stat().st_size / 5
    with pytest.raises(FileError, match="does not fit"):
        load(tmp_path / "small.safetensors", into=hand.mlp(300, 200, 10))


def test_indices_that_lead_outside_are_refused(tmp_path):
    layer = nn.Linear(7, 5)
    made = nn.Sequential(SparseLinear.of(layer))
    made[0].columns[3] = 900
    save(made, tmp_path / "odd.safetensors")
    again = load(tmp_path / "odd.safetensors")
    with pytest.raises(RuntimeError, match=r"invariant|col_indices"):
        again(torch.zeros(1, 7))


def test_another_word_is_refused():
    model, mask = pruned()
    with pytest.raises(ValueError, match="Did you mean 'auto'"):
        shrink(model, mask, sparse="aut")
