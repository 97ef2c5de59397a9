"""The record of weights during training, the criteria that need it, and rewinding."""

import copy

import pytest
import torch
from torch import nn

import hand
from sentei import (
    CriterionError,
    FineTune,
    GroupError,
    Mask,
    Probe,
    Recipe,
    Trajectory,
    find_synapses,
    find_units,
    shrink_,
    train,
)
from sentei.criteria import gradient, karnin, wsf


def data(rows=40, width=4):
    torch.manual_seed(3)
    return torch.randn(rows, width), torch.randint(0, 3, (rows,))


def test_wsf_by_hand():
    model = nn.Sequential(nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[1.0, -2.0]])
    trajectory = Trajectory(model)
    model[0].weight.data = torch.tensor([[-0.5, -2.0]])
    probe = Probe(model, (torch.zeros(1, 2), torch.zeros(1, 1)), "half_squared_error", trajectory)
    assert wsf(probe, find_synapses(model)[0]).tolist() == [1.5, 0.0]


def test_an_input_that_never_lights_has_wsf_zero_unless_weights_decay():
    inputs, targets = data()
    inputs[:, 1] = 0
    for decay, still in ((0.0, True), (0.01, False)):
        model = hand.mlp(4, 6, 3)
        trajectory = Trajectory(model)
        recipe = Recipe(5, "sgd", weight_decay=decay)
        train(model, (inputs, targets), recipe, after_update=[trajectory])
        probe = Probe(model, (inputs, targets), trajectory=trajectory)
        scores = wsf(probe, find_synapses(model)[0]).view(6, 4)
        assert bool((scores[:, 1] == 0).all()) is still
        assert (scores[:, [0, 2, 3]] > 0).all()


@pytest.mark.parametrize("start", [0.0, 0.2, -0.5])
def test_karnin_is_what_a_quadratic_rises_by(start):
    # E(w) = 2 (w - 1.5)^2 with w from 0: what removing w_f costs is E(0) - E(w_f), and the line
    # from w(0) to w_f is the parabola's chord, so that for w(0) = 0 it is exact.
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(start)
    trajectory, optimizer = Trajectory(model), torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(600):
        optimizer.zero_grad()
        (2 * (model.weight - 1.5).square().sum()).backward()
        optimizer.step()
        trajectory()
    end = model.weight.item()
    probe = Probe(model, (torch.zeros(1, 1), torch.zeros(1, 1)), "half_squared_error", trajectory)
    energy = [2 * (w - 1.5) ** 2 for w in (0.0, start, end)]
    chord = (energy[1] - energy[2]) * end / (end - start)
    assert karnin(probe, find_synapses(model)[0]).item() == pytest.approx(chord, rel=0.01)
    if start == 0:
        assert chord == pytest.approx(energy[0] - energy[2])
    assert trajectory.updates == 600


def test_karnin_of_a_unit_is_the_sum_over_what_reads_it():
    model = hand.mlp(4, 6, 3)
    trajectory = Trajectory(model)
    train(model, data(), Recipe(3, "adam"), after_update=[trajectory])
    probe = Probe(model, data(), trajectory=trajectory)
    second = karnin(probe, find_synapses(model)[1]).view(3, 6)
    assert torch.allclose(karnin(probe, hand.hidden(model)[0]), second.sum(0))


def test_gradient_sees_the_dead():
    model = hand.mlp(4, 6, 3)
    groups = find_synapses(model)
    mask = Mask.full(groups).without({groups[0]: [3, 5]})
    mask.apply_(model)
    inputs, targets = data(3000)
    probe = Probe(model, (inputs, targets))
    nn.functional.cross_entropy(model(inputs), targets).backward()
    assert model[0].weight.grad is not None
    wanted = model[0].weight.grad.flatten().abs().double()
    model.zero_grad()
    found = gradient(probe, groups[0])
    assert torch.allclose(found, wanted, atol=1e-7)
    assert (found[[3, 5]] > 0).all()
    assert model[0].weight.grad is None
    model[0].weight.requires_grad_(False)
    assert torch.equal(gradient(probe, groups[0]), found)
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("name", ["wsf", "karnin"])
def test_a_missing_trajectory_is_an_error_that_says_how_to_record_one(name):
    model = hand.mlp(4, 6, 3)
    asked = {"wsf": wsf, "karnin": karnin}[name]
    with pytest.raises(CriterionError, match=r"Trajectory\(model\) before training"):
        asked(Probe(model, data()), find_synapses(model)[0])
    twin = Trajectory(copy.deepcopy(model))
    with pytest.raises(GroupError, match="another network's"):
        asked(Probe(model, data(), trajectory=twin), find_synapses(model)[0])


def test_units_have_no_wsf_and_no_gradient():
    model = hand.mlp(4, 6, 3)
    probe = Probe(model, data(), trajectory=Trajectory(model))
    for asked in (wsf, gradient):
        with pytest.raises(CriterionError, match="single synapses"):
            asked(probe, hand.hidden(model)[0])


def test_a_trajectory_is_cut_along_and_saved():
    model = hand.mlp(4, 6, 3)
    trajectory = Trajectory(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(data()[0]).square().sum().backward()
        optimizer.step()
        trajectory()
    trajectory.check_()
    start, moved = trajectory.start("0.weight"), trajectory.karnin("0.weight")
    assert torch.equal(trajectory.checked("0.weight"), model[0].weight)
    assert not torch.equal(trajectory.before("0.weight"), model[0].weight)
    groups = find_units(model, data()[0], inputs=True)
    doomed = {g: [1, 2] if g.kind == "neuron" else [0] for g in groups}
    shrink_(model, Mask.full(groups).without(doomed), optimizer, trajectory, data()[0])
    # The first layer reads through a Select now: its weight has another name.
    rows, columns = [0, 3, 4, 5], [1, 2, 3]
    assert torch.equal(trajectory.start("0.1.weight"), start[rows][:, columns])
    assert torch.equal(trajectory.karnin("0.1.weight"), moved[rows][:, columns])
    held = trajectory.state_dict()
    model(data()[0]).square().sum().backward()
    optimizer.step()
    trajectory()
    assert trajectory.updates == 4
    trajectory.load_state_dict(held)
    assert trajectory.updates == 3
    assert torch.equal(trajectory.start("0.1.weight"), start[rows][:, columns])
    with pytest.raises(GroupError, match="only for the network it was recorded on"):
        Trajectory(hand.mlp(4, 6, 3)).load_state_dict(held)
    model[2] = nn.Linear(4, 3)
    with pytest.raises(GroupError, match="replaced"):
        trajectory()


def test_a_trajectory_may_leave_karnins_sums_out():
    model = hand.mlp(4, 6, 3)
    trajectory = Trajectory(model, sums=False)
    before = trajectory.start("0.weight")
    model(data()[0]).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    trajectory()
    assert torch.equal(trajectory.before("0.weight"), before)
    with pytest.raises(CriterionError, match="sums=True"):
        trajectory.karnin("0.weight")
    other = Trajectory(model)
    other.load_state_dict(trajectory.state_dict())
    assert not other.sums


def test_an_undo_rewinds_the_trajectory_with_the_optimizer():
    model = hand.mlp(4, 6, 3)
    trajectory = Trajectory(model)
    tune = FineTune(data(), Recipe(1, "adam"), after_update=[trajectory])
    mask = Mask.full(find_synapses(model))
    tune(model, mask)
    held, weights = tune.state_dict(), copy.deepcopy(model.state_dict())
    sums = trajectory.karnin("0.weight")
    tune(model, mask)
    assert not torch.equal(trajectory.karnin("0.weight"), sums)
    after = trajectory.karnin("0.weight")
    model.load_state_dict(weights)
    tune.load_state_dict(held)
    assert torch.equal(trajectory.karnin("0.weight"), sums)
    tune(model, mask)
    assert torch.equal(trajectory.karnin("0.weight"), after)
    with pytest.raises(ValueError, match="same after_update"):
        FineTune(data(), Recipe(1, "adam")).load_state_dict(held)
