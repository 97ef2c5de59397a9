"""Pruning while training: any optimizer, masked or deleted units, and nothing left attached."""

import copy

import pytest
import torch
from torch import nn

from hand import mlp
from sentei import (
    CriterionError,
    GroupError,
    Mask,
    Probe,
    ScheduleError,
    StructureError,
    find_synapses,
    find_units,
    fixed,
    linear,
    ranked,
    synapses_at_most,
)
from sentei.pruning.while_training.during import PruneWhileTraining
from training_loops import OPTIMIZERS, X, Y, falling, network, restore, states, train


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_dead_synapses_and_their_state_stay_exactly_zero(make):
    model = network()
    optimizer, links = make(model.parameters()), find_synapses(model)
    pruner = PruneWhileTraining(model, links, falling(), every=10).attach(optimizer)
    train(model, optimizer, 55)
    assert pruner.updates == 55
    assert pruner.events == 4
    assert sum(pruner.mask.count(link) for link in links) == round(0.4 * (72 + 120 + 20))
    for link in links:
        weight, dead = model.get_parameter(link.parameter), pruner.mask.dead(link)
        assert dead.numel()
        assert not weight.flatten()[dead].any()
        assert not weight.grad.flatten()[dead].any()
        assert (weight.flatten()[pruner.mask.alive(link)] != 0).all()
        for value in optimizer.state[weight].values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                assert not value.flatten()[dead].any()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("clip", [None, 0.05], ids=["", "clipped"])
def test_masked_training_is_the_training_of_the_smaller_network(make, clip):
    trained = []
    for delete in (False, True):
        model = network()
        optimizer = make(model.parameters())
        propose = ranked("magnitude", linear("50 %", 3), within="group")
        pruner = PruneWhileTraining(
            model, find_units(model, X), propose, every=10, delete=delete, example=X
        ).attach(optimizer)
        train(model, optimizer, 45, clip)
        trained.append((model, pruner))
    (masked, _), (small, pruner) = trained
    assert [small[i].out_features for i in (0, 2)] == [6, 5]
    assert pruner.mask == Mask.full(pruner.mask.groups)
    assert torch.allclose(masked(X), small(X), rtol=0, atol=1e-12)


def test_units_and_inputs_that_die_of_dead_synapses_are_deleted():
    model = network()
    optimizer, links = torch.optim.SGD(model.parameters(), lr=0.1), find_synapses(model)
    doomed = {link: torch.ones(link.size) for link in links}
    doomed[links[0]].view(12, 6)[:, 4] = 0  # input 4 goes unread
    doomed[links[1]].view(10, 12)[:, 7] = 0  # unit 7 of the first layer, too
    propose = ranked(fixed(doomed), linear(by=12 + 10, keep=72 + 120 + 20 - 22))
    pruner = PruneWhileTraining(
        model, links, propose, every=5, delete=True, example=X, total=30
    ).attach(optimizer)
    first = model[0].weight
    train(model, optimizer, 4)
    before = copy.deepcopy(model)
    train(model, optimizer, 1)
    select, smaller = model[0][0], model[0][1]
    assert select.index.tolist() == [0, 1, 2, 3, 5]
    assert smaller.weight is first
    assert tuple(first.shape) == (11, 5)
    assert tuple(model[2].weight.shape) == (10, 11)
    assert before[0].weight.shape == (12, 6)
    train(model, optimizer, 25)
    assert sum(pruner.mask.count(group) for group in pruner.groups) == 55 + 110 + 20


def test_accumulated_gradients_are_silenced_too():
    model = network()
    optimizer, links = torch.optim.Adam(model.parameters(), lr=0.01), find_synapses(model)
    pruner = PruneWhileTraining(model, links, falling(), every=5).attach(optimizer)
    train(model, optimizer, 30, accumulate=3)
    assert pruner.updates == 30
    for link in links:
        assert not model.get_parameter(link.parameter).grad.flatten()[pruner.mask.dead(link)].any()


def test_a_resumed_training_goes_on_to_the_same_bits():
    def start():
        model = network()
        optimizer = OPTIMIZERS["adam"](model.parameters())
        pruner = PruneWhileTraining(model, find_synapses(model), falling(), every=7)
        return model, optimizer, pruner

    whole, optimizer, pruner = start()
    pruner.attach(optimizer)
    train(whole, optimizer, 18)
    kept = states(whole, optimizer, pruner)
    train(whole, optimizer, 18)

    again, optimizer, pruner = start()
    restore(kept, again, optimizer, pruner)
    pruner.attach(optimizer)
    train(again, optimizer, 18)
    assert pruner.updates == 36
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_nothing_stays_behind():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    before = set(vars(model)), set(vars(optimizer))
    pruner = PruneWhileTraining(model, find_synapses(model), falling(), every=2).attach(optimizer)
    train(model, optimizer, 6)
    pruner.detach()
    assert (set(vars(model)), set(vars(optimizer))) == before
    assert not optimizer._optimizer_step_post_hooks
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters() if p.ndim > 1)
    seen = pruner.updates
    train(model, optimizer, 3)
    assert pruner.updates == seen
    assert any((model.get_parameter(g.parameter) != 0).all() for g in pruner.groups)
    pruner.attach(optimizer)


def test_a_budget_ends_the_proposals():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = PruneWhileTraining(
        model, find_synapses(model), ranked("magnitude", linear(by=30)), every=2,
        until=synapses_at_most(130),
    ).attach(optimizer)  # fmt: skip
    train(model, optimizer, 30)
    assert pruner.reached
    assert pruner.events == 3
    assert sum(pruner.mask.count(group) for group in pruner.groups) == 212 - 90


def test_criteria_that_measure_take_a_probe_or_the_batch():
    removed = []
    for way in ("probe", "batch"):
        model = network()
        optimizer, units = torch.optim.SGD(model.parameters(), lr=0.1), find_units(model, X)
        probe = Probe(model, (X, Y)) if way == "probe" else None
        pruner = PruneWhileTraining(
            model, units, ranked("ablation", linear(by=3)), every=5, probe=probe
        ).attach(optimizer)
        observe = pruner.observe if way == "batch" else lambda x, y: None
        train(model, optimizer, 10, before=observe)
        removed.append([pruner.mask.dead(group).tolist() for group in units])
    assert removed[0] == removed[1]
    assert sum(map(len, removed[0])) == 6


def test_a_criterion_without_evidence_says_how_to_give_it():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    propose = ranked("ablation", linear(by=1))
    PruneWhileTraining(model, find_units(model, X), propose, every=1).attach(optimizer)
    with pytest.raises(CriterionError, match=r"probe=.*observe"):
        train(model, optimizer, 1)


def test_replaced_parameters_are_said_at_the_next_update():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    PruneWhileTraining(model, find_synapses(model), falling()).attach(optimizer)
    train(model, optimizer, 1)
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    with pytest.raises(StructureError, match=r"'2\.weight' was replaced"):
        train(model, optimizer, 1)


def test_what_cannot_be_is_refused_before_anything_changes():
    model = network()
    links = find_synapses(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = PruneWhileTraining(model, links, falling()).attach(optimizer)
    with pytest.raises(ValueError, match="attached already"):
        pruner.attach(optimizer)
    with pytest.raises(StructureError, match=r"another pruner holds '0\.weight'"):
        PruneWhileTraining(model, links, falling()).attach(optimizer)
    pruner.detach()
    with pytest.raises(StructureError, match=r"does not own '4\.weight'"):
        PruneWhileTraining(model, links, falling()).attach(
            torch.optim.SGD(model[:3].parameters(), lr=0.1)
        )
    with pytest.raises(GroupError, match="not this model's"):
        PruneWhileTraining(mlp(3, 2, 2), links, falling())
    for wrong in ({"every": 0}, {"every": "2 weeks"}, {"every": "2 epochs"}, {"total": 20}):
        with pytest.raises(ScheduleError):
            PruneWhileTraining(model, links, falling(), **wrong)
    with pytest.raises(ValueError, match="other groups"):
        pruner.load_state_dict(PruneWhileTraining(model, links[:1], falling()).state_dict())


def test_epochs_are_counted_in_updates():
    pruner = PruneWhileTraining(
        network(), find_synapses(network()), falling(), "2 epochs", "12 epochs", steps_per_epoch=469
    )
    assert (pruner.cadence.every, pruner.cadence.proposals) == (938, 6)


def test_mixed_precision_keeps_the_dead_at_zero():
    model = network().float()
    optimizer, links = torch.optim.Adam(model.parameters(), lr=0.01), find_synapses(model)
    pruner = PruneWhileTraining(model, links, falling(), every=4).attach(optimizer)
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(X.float()), Y)
        loss.backward()
        optimizer.step()
    for link in links:
        assert not model.get_parameter(link.parameter).flatten()[pruner.mask.dead(link)].any()


def test_proposals_end_after_the_first_part_of_training():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = PruneWhileTraining(
        model, find_synapses(model), ranked("magnitude", linear("40 %")),
        every=5, total=50, finish=0.7,
    ).attach(optimizer)  # fmt: skip
    train(model, optimizer, 50)
    assert pruner.events == 7
    assert sum(pruner.mask.count(group) for group in pruner.groups) == round(0.4 * 212)
    for wrong in ({"finish": 0.05}, {"finish": 0}, {"total": None, "finish": 0.5}):
        with pytest.raises(ScheduleError, match=r"ever be pruned|finish="):
            PruneWhileTraining(
                model, pruner.groups, falling(), **{"every": 5, "total": 50, **wrong}
            )
