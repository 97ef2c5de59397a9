"""What work would cost: shares of a pass against a count of the calls that a unit reaches."""

import pytest
import torch
from torch import nn

import sentei
import zoo
from sentei.network.calls import Calls
from sentei.network.encoding.size import Counted, calls_counted
from sentei.probe.estimates import ablation_passes, downstream, estimates


def reached(model, x, group):
    """The share of a pass's multiply-adds in calls whose input changes with the group's first unit.

    The unit is NaN where it is read; every call that NaN arrives at has to be computed again.
    """
    counted = {True: 0, False: 0}

    def answer(call):
        read = call.input.clone()
        for part in group.listeners:
            if part.parameter == call.weight:
                read.movedim(call.axis, 0)[call.channels(part.index[0])] = torch.nan
        out = call(read)
        weight = call.given[call.use.weight]
        products = out.numel() * weight[0].numel() if call.mixes else 0
        counted[bool(read.isnan().any())] += products
        return out

    with torch.no_grad(), Calls(model.eval(), answer):
        model(x)
    return counted[True] / sum(counted.values())


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 7), nn.ReLU()),
        nn.Linear(7, 3),
    )


CHAINS = {
    "perceptron": (lambda: sentei.training.mlp([9, 8, 6, 5, 3]), (9,)),
    "convolutions": (convolutional, (2, 8, 8)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_share_is_what_a_unit_reaches(name):
    make, shape = CHAINS[name]
    model, x = make(), torch.randn(2, *shape)
    groups = sentei.find_units(model, x)
    shares = downstream(calls_counted(model.eval(), x), groups)
    assert list(shares) == groups
    assert len(set(shares.values())) == len(groups) > 1
    for group in groups:
        assert shares[group] == pytest.approx(reached(model, x, group)), group.name
    by_unit = sum(group.size * reached(model, x, group) for group in groups)
    assert ablation_passes(shares, 50) == pytest.approx(50 * (1 + by_unit))


def test_of_branches_at_least_what_a_unit_reaches():
    model, x = zoo.build("residual")
    shares = downstream(calls_counted(model.eval(), x), sentei.find_units(model, x))
    assert all(reached(model, x, g) <= share + 1e-9 for g, share in shares.items())
    assert min(shares.values()) < 1


def test_all_of_a_pass_where_multiply_adds_are_not_known():
    groups = sentei.find_units(convolutional(), torch.randn(2, 2, 8, 8))
    assert set(downstream([], groups).values()) == {1.0}
    recurrent = [Counted("rnn.weight_ih_l0", 0, 8)]  # torch does not expose its products
    assert set(downstream(recurrent, groups).values()) == {1.0}


def test_memory_by_hand():
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    groups = sentei.find_units(model, torch.randn(2, 4))
    found = {e.work: e.memory for e in estimates(model, torch.randn(2, 4), groups, 100)}
    assert found["ablation"] == found["taylor1"] == 100 * 4 * (4 + 10 + 10 + 3)
    assert found["magnitude"] == 40 * 2 * 8
    assert found["finding"] == 3 * 4 * (40 + 10 + 30 + 3)
    (most,) = {
        e.memory for e in estimates(model, torch.randn(2, 4), groups, 10**9) if "abl" in e.work
    }
    assert most == 2 << 30  # more is read again at each pass


def test_passes_are_timed_on_one_thread():
    class Threads(nn.Module):
        def forward(self, x):
            used.add(torch.get_num_threads())
            return x

    used, own = set(), torch.get_num_threads()
    torch.set_num_threads(2)
    model = nn.Sequential(nn.Linear(4, 10), Threads(), nn.Linear(10, 3))
    groups = sentei.find_units(model, torch.randn(2, 4))
    used.clear()
    estimates(model, torch.randn(2, 4), groups, 10)
    found = torch.get_num_threads()
    torch.set_num_threads(own)
    assert (used, found) == ({1}, 2)


def test_estimates_follow_samples_and_leave_the_network_alone():
    model, x = convolutional(), torch.randn(2, 2, 8, 8)
    groups = sentei.find_units(model, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    few, many = ({e.work: e for e in estimates(model, x, groups, n)} for n in (10, 1000))
    assert list(few) == ["finding", "shrinking", "magnitude", "taylor1", "ablation"]
    assert all(each.seconds > 0 for each in few.values())
    for work in ("taylor1", "ablation"):
        assert many[work].passes == pytest.approx(100 * few[work].passes)
    assert [many[w].passes for w in ("finding", "magnitude")] == [few["finding"].passes, 0]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
