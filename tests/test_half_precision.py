"""Networks in half precision: scores that rank units as in float32, added up in float64."""

import copy

import pytest
import torch
from torch import nn

import sentei
from sentei.criteria import CRITERIA
from sentei.criteria.agreement import spearman


@pytest.fixture(scope="module")
def probes():
    """A trained network in float32 and copies of it in half precision, with their Probes."""
    torch.manual_seed(0)
    x = torch.randn(400, 20)
    y = (x @ torch.randn(20, 3)).argmax(1)
    model = nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 16), nn.ReLU())
    model = nn.Sequential(*model, nn.Linear(16, 3))
    sentei.train(model, (x, y), sentei.Recipe(epochs=8, lr=0.005))
    kinds = torch.float32, torch.bfloat16, torch.float16
    copies = {kind: copy.deepcopy(model).to(kind) for kind in kinds}
    groups = sentei.find_units(model, x[:4])
    assert groups == sentei.find_units(copies[torch.bfloat16], x[:4].bfloat16())
    return groups, {kind: sentei.Probe(own, (x.to(kind), y)) for kind, own in copies.items()}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_units_rank_as_in_float32(criterion, probes):
    groups, of = probes
    refused = lambda kind: isinstance(scored(criterion, of[kind], groups), str)  # noqa: E731
    if refused(torch.float32):
        assert refused(torch.bfloat16)
    else:
        whole = scored(criterion, of[torch.float32], groups)
        for kind, least in ((torch.bfloat16, 0.85), (torch.float16, 0.98)):
            found = scored(criterion, of[kind], groups)
            assert found.dtype == torch.float64
            assert spearman(found, whole) > least


def scored(criterion, probe, groups):
    try:
        return torch.cat([sentei.criteria.scores(criterion, probe, group) for group in groups])
    except sentei.errors.CriterionError as error:
        return str(error)
