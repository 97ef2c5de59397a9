"""On an accelerator, if this machine has one: the scores, steps and cuts of the CPU."""

import copy

import pytest
import torch
from torch import nn

import sentei


@pytest.fixture
def device():
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        pytest.skip("there is no accelerator on this machine")
    return found


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(6 * 36, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


@pytest.mark.parametrize("criterion", ["ablation", "taylor2", "magnitude", "distinctiveness"])
def test_scores_are_those_of_the_cpu(device, criterion):
    data = torch.randn(300, 1, 8, 8), torch.arange(300) % 3
    found = []
    for where in ("cpu", device):
        model = network().to(where)
        groups = sentei.find_units(model, data[0][:8].to(where))
        probe = sentei.Probe(model, data)
        each = [sentei.criteria.scores(criterion, probe, group) for group in groups]
        assert all(of.device.type == "cpu" for of in each)
        found.append(torch.cat(each))
    assert torch.allclose(*found, rtol=1e-3, atol=1e-5)


def test_a_run_and_its_cut_are_those_of_the_cpu(device):
    data = torch.randn(300, 1, 8, 8), torch.arange(300) % 3
    sizes = []
    for where in ("cpu", device):
        model = network().to(where)
        example = data[0][:8].to(where)
        probe = sentei.Probe(model, data)
        steps = sentei.prune(
            *(model, sentei.find_units(model, example), probe),
            sentei.ranked("magnitude", sentei.one_at_a_time()),
            sentei.units_at_most(9),
        )
        *_, last = steps
        small = sentei.shrink(copy.deepcopy(model), last.mask, example)
        assert next(small.parameters()).device.type == torch.device(where).type
        sizes.append([tuple(p.shape) for p in small.parameters()])
    assert sizes[0] == sizes[1]
