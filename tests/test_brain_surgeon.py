"""Optimal brain surgeon for synapses, beside inverses and least squares computed one by one."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import hand
from sentei import (
    CriterionError,
    Cut,
    GroupError,
    Mask,
    Probe,
    Progress,
    PruneWhileTraining,
    Recipe,
    find_synapses,
    one_shot,
    pattern,
    pick,
    prune,
    ranked,
    shrink,
    train,
)
from sentei.criteria import Obs, obs, scores
from sentei.criteria.repairs.compensation import damped, refitted, saliencies, swept

NOW = Progress(1, None, 1, 1)
ROWS, COLUMNS = 5, 8


@pytest.fixture
def problem():
    """Weights, mean products of correlated inputs, and which synapses stay: half of them."""
    generator = torch.Generator().manual_seed(3)
    make = lambda *shape: torch.randn(*shape, generator=generator).double()  # noqa: E731
    x = make(COLUMNS, 40) + 0.8 * make(1, 40)
    alive = torch.rand(ROWS, COLUMNS, generator=generator) < 0.5
    return make(1, ROWS, COLUMNS), (x @ x.T / 40)[None], alive[None]


def numpy_obs(weight, hessian, dead):
    """Hassibi and Stork's update, one synapse after another, each by an inverse of its own.

    What was visited is fixed: the inverse is that of the columns from the synapse on.
    """
    weight = weight.copy()
    for q in range(len(weight)):
        if dead(q, weight):
            inverse = np.linalg.inv(hessian[q:, q:])
            weight[q:] -= weight[q] / inverse[0, 0] * inverse[0]
            weight[q] = 0
    return weight


def test_a_sweep_is_the_loop_of_inverses(problem):
    weights, products, alive = problem
    found, stay, _ = swept(weights, products, alive)
    assert torch.equal(stay, alive)
    for row in range(ROWS):
        expected = numpy_obs(
            weights[0, row].numpy(),
            products[0].numpy(),
            lambda q, _, row=row: not alive[0, row, q],
        )
        assert np.allclose(found[0, row], expected, atol=1e-12)
        assert not found[0, row][~alive[0, row]].any()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (1, 4), (3, 8)])
def test_a_sweep_chooses_in_sets_by_what_is_left_of_the_weights(problem, n, m):
    weights, products, _ = problem
    found, alive, _ = swept(weights, products, torch.ones_like(weights).bool(), (n, m))
    hessian = products[0].numpy()
    behind = [np.linalg.inv(hessian[q:, q:])[0, 0] for q in range(COLUMNS)]
    for row in range(ROWS):
        chosen: set[int] = set()

        def dead(q, weight, chosen=chosen):
            if q % m == 0:
                cost = weight[q : q + m] ** 2 / behind[q : q + m]
                chosen.update(q + i for i in np.argsort(cost)[: m - n])
            return q in chosen

        expected = numpy_obs(weights[0, row].numpy(), hessian, dead)
        assert np.allclose(found[0, row], expected, atol=1e-12)
        assert (~alive[0, row]).nonzero().flatten().tolist() == sorted(chosen)


def test_a_wide_sweep_goes_on_behind_its_blocks():
    torch.manual_seed(0)
    x, weights = torch.randn(300, 400).double(), torch.randn(1, 3, 300).double()
    products, alive = (x @ x.T / 400)[None], torch.rand(1, 3, 300) < 0.5
    found = swept(weights, products, alive)[0]
    one = numpy_obs(weights[0, 1].numpy(), products[0].numpy(), lambda q, _: not alive[0, 1, q])
    assert np.allclose(found[0, 1], one, atol=1e-9)


@pytest.mark.parametrize("whole", [True, False])
def test_saliencies_are_half_the_error_after_refitting_the_others(problem, whole):
    weights, products, alive = problem
    alive = torch.ones_like(alive) if whole else alive
    weights = weights * alive
    found = saliencies(weights, products, alive)
    for row, q in itertools.product(range(ROWS), range(COLUMNS)):
        without = alive[0, row].clone()
        without[q] = False
        expected = least_error(weights[0, row], products[0], without) / 2
        assert found[0, row, q].item() == pytest.approx(expected, abs=1e-12)


def root_of(products):
    """Inputs with these mean products."""
    return np.linalg.cholesky(products.numpy()).T


def least_error(weight, products, alive):
    """The least mean squared change of a row's output, by numpy's least squares."""
    x = root_of(products)
    wanted = x @ weight.numpy()
    kept = x[:, alive.numpy()]
    solution = np.linalg.lstsq(kept, wanted, rcond=None)[0]
    return float(((kept @ solution - wanted) ** 2).sum())


def error(weights, found, products):
    difference = weights - found
    return (difference @ products * difference).sum(-1)


def test_refitting_is_least_squares_and_a_sweep_is_near(problem):
    weights, products, alive = problem
    exact = error(weights, refitted(weights, products, alive), products)[0]
    by_sweep = error(weights, swept(weights, products, alive)[0], products)[0]
    zeroed = error(weights, weights * alive, products)[0]
    for row in range(ROWS):
        least = least_error(weights[0, row], products[0], alive[0, row])
        assert exact[row].item() == pytest.approx(least, abs=1e-10)
    assert (exact <= by_sweep + 1e-12).all()
    assert exact.sum() < by_sweep.sum() < zeroed.sum()
    assert not refitted(weights, products, alive)[~alive].any()


def trained():
    """A small network trained on correlated inputs, and its data."""
    torch.manual_seed(0)
    mixes = torch.randn(6, 16)
    x = torch.randn(400, 6) @ mixes + 0.3 * torch.randn(400, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    model = hand.mlp(16, 24, 16, 4, act=nn.ReLU)
    train(model, (x, y), Recipe(30, lr=0.01))
    return model, (x, y)


def output_errors(model, samples, propose):
    """The relative squared change of each layer's outputs on what it reads in the whole network."""
    pruned = copy.deepcopy(model)
    groups = find_synapses(pruned)
    *_, last = prune(pruned, groups, Probe(pruned, samples), propose)
    assert last.measured.synapses == sum(group.size for group in groups) // 2
    x, errors = samples[0], []
    for before, after in zip(model, pruned, strict=True):
        if isinstance(before, nn.Linear):
            shift = (after(x) - before(x)).square().sum()
            errors.append((shift / (before(x) - before.bias).square().sum()).item())
        x = before(x)
    return errors


@pytest.mark.parametrize(
    "proposal",
    [
        lambda criterion: ranked(criterion, one_shot("50 %"), within="group"),
        lambda criterion: pattern(2, 4, criterion),
    ],
)
def test_obs_changes_a_trained_layers_outputs_least(proposal):
    model, samples = trained()
    by = {n: output_errors(model, samples, proposal(n)) for n in ("obs", "wanda", "magnitude")}
    for ours, others in zip(by["obs"], zip(by["wanda"], by["magnitude"]), strict=True):
        assert ours < min(others)
    assert sum(by["wanda"]) < sum(by["magnitude"])


@pytest.mark.parametrize("criterion", ["magnitude", "obs"])
def test_a_patterns_repair_is_least_squares_for_each_output(criterion):
    model, (x, y) = trained()
    (group,) = pick(find_synapses(model), ["2"])
    probe, before = Probe(model, (x, y)), model[2].weight.detach().double()
    propose = pattern(2, 4, criterion, repair="least_squares")
    cut = propose(probe, [group], Mask.full([group]), NOW)
    assert cut is not None
    alive = Mask.full([group]).without(cut.doomed).alive(group).view(group.shape)
    reads = model[1](model[0](x)).detach().double()
    # The damping is as many more samples, each of which one column alone reads.
    damping = (0.01 * reads.square().sum(0).mean()).sqrt()
    reads = torch.cat([reads, damping * torch.eye(24).double()])
    for row in range(16):
        kept = reads[:, alive[row]].numpy()
        wanted = (reads @ before[row]).numpy()
        solution = np.linalg.lstsq(kept, wanted, rcond=None)[0]
        found = cut.updates["2.weight"][row]
        assert np.allclose(found[alive[row]].numpy(), solution, atol=1e-5)
        assert not found[~alive[row]].any()


def test_updates_travel_in_the_cut_and_the_dead_stay_zero(tmp_path):
    model, samples = trained()
    groups, first = find_synapses(model), copy.deepcopy(model)
    propose = ranked("obs", one_shot("50 %"))
    steps = list(prune(model, groups, Probe(model, samples), propose, journal=tmp_path / "run"))
    mask = steps[-1].mask
    for group in groups:
        weight = model.get_parameter(group.parameter).flatten()
        assert not weight[~mask.alive(group)].any()
        was = first.get_parameter(group.parameter).flatten()
        assert not torch.equal(weight[mask.alive(group)], was[mask.alive(group)])
    assert torch.equal(steps[-1].network()[2].weight, model[2].weight)
    small = shrink(model, mask, example=samples[0])
    assert torch.allclose(small(samples[0]), model(samples[0]), atol=1e-4)
    again = prune(
        first, find_synapses(first), Probe(first, samples), propose,
        journal=tmp_path / "run", resume=True,
    )  # fmt: skip
    assert [step.mask for step in again] == [step.mask for step in steps]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), model.parameters()))


def test_scores_after_a_cut_are_those_of_the_synapses_that_are_left():
    model, samples = trained()
    groups = find_synapses(model)
    *_, last = prune(
        model, groups, Probe(model, samples), ranked("obs", one_shot("50 %"), within="group")
    )
    probe = Probe(model, samples)
    probe.update_(last.mask)
    reads = model[1](model[0](samples[0])).detach().double()
    products = damped((reads.T @ reads / len(reads))[None], 0.01)[0]
    weight, alive = model[2].weight.detach().double(), last.mask.alive(groups[1]).view(16, 24)
    found = scores("obs", probe, groups[1]).view(16, 24)
    for row, q in ((0, int(alive[0].nonzero()[3])), (7, int(alive[7].nonzero()[0]))):
        without = alive[row].clone()
        without[q] = False
        expected = least_error(weight[row], products, without) / 2
        assert found[row, q].item() == pytest.approx(expected, rel=1e-5)
    assert not found[~alive].any()


def test_obs_while_training_and_in_several_steps():
    model, (x, y) = trained()
    groups = find_synapses(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = PruneWhileTraining(model, groups, pattern(2, 4, "obs"), every=2, total=6)
    pruner.attach(optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        pruner.observe(x, y)
        optimizer.step()
    pruner.detach()
    assert pruner.events == 1
    for group in groups:
        alive = pruner.mask.alive(group)
        assert (alive.view(-1, 4).sum(1) == 2).all()
        assert not model.get_parameter(group.parameter).flatten()[~alive].any()


def test_bad_dampings_and_updates_are_refused():
    for damping in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="damping= is a finite number"):
            Obs(damping)
    with pytest.raises(ValueError, match='repair= of a pattern is "least_squares" or None'):
        pattern(2, 4, repair="mean")
    model = hand.mlp(4, 4, 2)
    x = torch.randn(9, 4)
    x[:, 1] = x[:, 0]
    probe, groups = Probe(model, (x, torch.arange(9) % 2)), find_synapses(model)
    assert obs(probe, groups[0]).isfinite().all()
    with pytest.raises(CriterionError, match="have no inverse"):
        Obs(0.0)(probe, groups[0])
    whole = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(GroupError, match=r"alive= .* got torch.bool in shape \(4,\)"):
        obs.compensated(probe, groups[0], whole[0])
    for sets in ((2, 3), (4, 4), (0, 2)):
        with pytest.raises(GroupError, match="m a divisor of the 4 inputs"):
            obs.compensated(probe, groups[0], whole, sets)
    before = [p.clone() for p in model.parameters()]
    for name, weight in (("0.weight", torch.zeros(3, 3)), ("9.weight", torch.zeros(4, 4))):
        cut = Cut({groups[0]: torch.tensor([0])}, updates={"2.bias": torch.zeros(2), name: weight})
        with pytest.raises(GroupError, match="whole parameters"):
            list(prune(model, groups, probe, lambda *_, cut=cut: cut))
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_updates_of_other_weights_are_measured_too():
    model = hand.mlp(4, 4, 2)
    probe, groups = Probe(model, (torch.randn(9, 4), torch.arange(9) % 2)), find_synapses(model)
    probe.loss()
    cuts = [Cut({groups[1]: torch.tensor([0])}, updates={"0.bias": torch.ones(4)}), None]
    *_, last = prune(model, groups, probe, lambda *_: cuts.pop(0))
    assert model[0].bias.tolist() == [1, 1, 1, 1]
    assert last.measured.loss == pytest.approx(
        Probe(model, (probe.samples.head.inputs, torch.arange(9) % 2)).loss()
    )
