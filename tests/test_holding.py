"""A pruner in a user's own training loop: misuse is refused or does no harm."""

import copy
import math

import pytest
import torch
from torch import nn

from sentei import (
    BudgetError,
    GroupError,
    Mask,
    Probe,
    ScheduleError,
    StructureError,
    Trajectory,
    any_of,
    find_synapses,
    find_units,
    fixed,
    geometric,
    linear,
    loss_at_most,
    only,
    ranked,
    synapses_at_most,
    units_at_most,
)
from sentei.pruning.while_training.during import PruneWhileTraining
from training_loops import OPTIMIZERS, X, Y, falling, network, restore, states, train

SGD = OPTIMIZERS["sgd"]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = (nn.Linear(6, 10).double() for _ in "ab")
        self.out = nn.Linear(20, 2).double()

    def forward(self, x):
        return self.out(torch.cat([self.a(x), self.b(x)], 1).tanh())


@pytest.mark.parametrize("schedule", [linear("40 %", 4), geometric(by="20 %")], ids=repr)
def test_a_layer_that_is_emptied_still_counts_at_the_start(schedule):
    left = []
    for delete in (False, True):
        model = Branches()
        units, optimizer = find_units(model, X), SGD(model.parameters())
        first = {g: torch.full((g.size,), float(i)) for i, g in enumerate(units)}
        seen = []

        def propose(probe, groups, mask, progress, seen=seen, first=first):
            seen.append((progress.start, progress.remaining))
            kept = {g: first[next(f for f in first if f.name == g.name)][: g.size] for g in groups}
            return ranked(fixed(kept), schedule)(probe, groups, mask, progress)

        pruner = PruneWhileTraining(
            model, units, propose, every=2, total=14, delete=delete, example=X
        ).attach(optimizer)
        train(model, optimizer, 14)
        left.append((seen, sum(pruner.mask.count(group) for group in pruner.groups)))
    assert left[0] == left[1]
    assert {start for start, _ in left[0][0]} == {20}


def test_a_frozen_weight_may_be_pruned_and_leaves_no_hook():
    model = network()
    model[2].weight.requires_grad_(False)
    optimizer, links = SGD(model.parameters()), find_synapses(model)
    pruner = PruneWhileTraining(model, links, falling(), every=2).attach(optimizer)
    train(model, optimizer, 8)
    assert not model[2].weight.flatten()[pruner.mask.dead(links[1])].any()
    pruner.detach()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_what_is_infinite_leaves_the_dead_at_zero():
    model = network()
    links = find_synapses(model)
    optimizer = torch.optim.Adam(model.parameters(), eps=0.0)
    pruner = PruneWhileTraining(model, links, falling(), every=1).attach(optimizer)
    train(model, optimizer, 4)
    for link in links:
        assert not model.get_parameter(link.parameter).flatten()[pruner.mask.dead(link)].any()
    weight, dead = model[0].weight, pruner.mask.dead(links[0])
    for odd in (math.inf, -math.inf, math.nan):
        weight.grad = None
        (weight * odd).sum().backward()
        assert not weight.grad.flatten()[dead].any()
        assert weight.grad.flatten()[pruner.mask.alive(links[0])].isfinite().logical_not().all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_kind_of_number_is_zeroed_in_any_layout(kind):
    model = nn.Conv2d(4, 3, 3).to(kind).to(memory_format=torch.channels_last)
    (links,) = find_synapses(model)
    mask = Mask.full([links]).without({links: range(0, 108, 3)})
    with torch.no_grad():
        model.weight.fill_(-2.5)
        model.weight[1, 2, 0, 0] = math.nan
        mask.apply_(model)
    assert torch.equal(model.weight.flatten()[::3], torch.zeros(36, dtype=kind))
    assert (model.weight.flatten() == -2.5).sum() + model.weight.isnan().sum() == 72


def test_an_update_that_a_scaler_skips_is_none():
    for fused in (False, True):
        model = network().float()
        optimizer = torch.optim.Adam(model.parameters(), fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1e38)  # pyright: ignore
        links = find_synapses(model)
        pruner = PruneWhileTraining(model, links, falling(), every=1).attach(optimizer)
        for _ in range(12):
            optimizer.zero_grad()
            loss = 100 * nn.functional.cross_entropy(model(X.float()), Y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        taken = int(optimizer.state[model[0].weight].get("step", torch.tensor(0)))
        assert 0 < pruner.updates == taken < 12


def test_a_resumed_budget_is_of_the_start():
    def start():
        model = network()
        optimizer = OPTIMIZERS["adam"](model.parameters())
        pruner = PruneWhileTraining(
            model, find_synapses(model), ranked("magnitude", linear(by=20)), every=2,
            until=synapses_at_most("50 %"),
        )  # fmt: skip
        return model, optimizer, pruner

    whole, optimizer, pruner = start()
    pruner.attach(optimizer)
    train(whole, optimizer, 6)
    kept = states(whole, optimizer, pruner)
    pruner.detach()
    pruner.attach(optimizer)  # a pause is no start
    train(whole, optimizer, 14)
    again, optimizer, resumed = start()
    restore(kept, again, optimizer, resumed)
    resumed.attach(optimizer)
    train(again, optimizer, 14)
    assert pruner.reached
    assert resumed.mask == pruner.mask
    assert sum(resumed.mask.count(group) for group in resumed.groups) == 92


def test_a_resumed_deletion_goes_on_to_the_same_bits():
    def start(sizes):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Linear(6, sizes[0]), nn.Tanh(), nn.Linear(sizes[0], sizes[1]), nn.ReLU(),
            nn.Linear(sizes[1], 2),
        ).double()  # fmt: skip
        optimizer = OPTIMIZERS["rmsprop"](model.parameters())
        past = Trajectory(model)
        propose = ranked("karnin", linear("40 %", 5), within="group")
        pruner = PruneWhileTraining(
            model, find_units(model, X), propose, every=3, delete=True, example=X, trajectory=past
        )
        return model, optimizer, past, pruner

    whole = start((12, 10))
    whole[3].attach(whole[1])
    train(whole[0], whole[1], 8)
    kept = states(*whole)
    train(whole[0], whole[1], 10)
    again = start((whole_size(kept[0], "0"), whole_size(kept[0], "2")))
    restore(kept, *again)
    again[3].attach(again[1])
    train(again[0], again[1], 10)
    assert again[0][0].out_features == whole[0][0].out_features == 5
    for name, value in whole[0].state_dict().items():
        assert torch.equal(again[0].state_dict()[name], value)


def whole_size(state, layer):
    return len(state[f"{layer}.weight"])


def test_dead_synapses_stay_silent_after_units_were_deleted():
    trained = []
    for delete in (False, True):
        model = network()
        links, optimizer = find_synapses(model), OPTIMIZERS["adam"](model.parameters())
        doomed = {link: torch.rand(link.size, generator=torch.Generator().manual_seed(2)) + 1
                  for link in links}  # fmt: skip
        doomed[links[1]].view(10, 12)[:, 7] = 0  # unit 7 goes unread
        mask = Mask.full(links).without({links[0]: range(0, 72, 5), links[2]: [3]})
        pruner = PruneWhileTraining(
            model, links, ranked(fixed(doomed), linear(by=10, keep=186)), every=3, total=3,
            delete=delete, example=X, mask=mask,
        ).attach(optimizer)  # fmt: skip
        train(model, optimizer, 12, clip=0.05)
        trained.append(model)
        left = sum(pruner.mask.count(group) for group in pruner.groups)
    assert trained[1][0].out_features == 11
    assert left == 212 - 15 - 1 - 10 - 5  # 5 alive synapses led to unit 7
    assert torch.allclose(trained[0](X), trained[1](X), rtol=0, atol=1e-12)


def test_what_is_dead_to_begin_with_stays_dead():
    model = network()
    links, optimizer = find_synapses(model), SGD(model.parameters())
    mask = Mask.full(links[:2]).without({links[0]: [0, 5], links[1]: [7]})
    pruner = PruneWhileTraining(
        model, links[1:], ranked("magnitude", linear(by=10)), every=2, mask=mask
    ).attach(optimizer)
    assert not model[0].weight.flatten()[[0, 5]].any()
    train(model, optimizer, 4)
    assert pruner.mask.dead(links[0]).tolist() == [0, 5]
    assert not model[0].weight.flatten()[[0, 5]].any()
    assert pruner.mask.count(links[1]) + pruner.mask.count(links[2]) == 139 - 20


def test_gradients_that_nobody_clears_are_silent_after_the_cut():
    model = network()
    links, optimizer = find_synapses(model), SGD(model.parameters())
    pruner = PruneWhileTraining(model, links, falling(), every=1).attach(optimizer)
    train(model, optimizer, 1)
    for link in links:
        gradient = model.get_parameter(link.parameter).grad.flatten()
        assert not gradient[pruner.mask.dead(link)].any()


def test_a_probe_is_given_back_as_it_was():
    model = network()
    probe, optimizer = Probe(model, (X, Y)), SGD(model.parameters())
    before = probe.mask
    pruner = PruneWhileTraining(
        model, find_units(model, X), ranked("ablation", linear(by=3)), every=1, probe=probe
    ).attach(optimizer)
    train(model, optimizer, 2)
    assert probe.mask != before
    pruner.detach()
    assert probe.mask == before


def test_a_budget_that_is_met_at_the_start_proposes_nothing():
    model = network()
    optimizer, units = SGD(model.parameters()), find_units(model, X)
    pruner = PruneWhileTraining(
        model, units, ranked("magnitude", linear(by=3)), every=1, until=units_at_most(22)
    ).attach(optimizer)
    train(model, optimizer, 3)
    assert (pruner.reached, pruner.events) == (True, 0)


def test_optimizers_that_cannot_be_gone_along_with_are_refused():
    model = network()
    units = find_units(model, X)

    def pruner(delete=False):
        propose = ranked("magnitude", linear("50 %", 2))
        return PruneWhileTraining(model, units, propose, every=1, delete=delete, example=X)

    with pytest.raises(StructureError, match="LBFGS moves weights several times"):
        pruner().attach(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match=r"must be an optimizer or a list.*got None"):
        pruner().attach(None)
    later = SGD(model[2:].parameters())
    pruner().attach(later).detach()  # the first layer's own rows are only cut when deleting
    with pytest.raises(StructureError, match=r"does not own '0\.weight'"):
        pruner(delete=True).attach(later)
    before = copy.deepcopy(model)
    factored = torch.optim.Adafactor(model.parameters())
    held = pruner(delete=True).attach(factored)
    with pytest.raises(StructureError, match="Adafactor keeps 'row_var'"):
        train(model, factored, 1)
    held.detach()
    assert [p.shape for p in model.parameters()] == [p.shape for p in before.parameters()]


def test_replaced_or_cut_parameters_are_said_at_the_next_update():
    model = network()
    optimizer, units = SGD(model.parameters()), find_units(model, X)
    pruner = PruneWhileTraining(model, units, falling()).attach(optimizer)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())  # a producer
    with pytest.raises(StructureError, match=r"'0\.weight' was replaced"):
        train(model, optimizer, 1)
    pruner.detach()

    model = network()
    optimizer, links = SGD(model.parameters()), find_synapses(model)
    cutting = PruneWhileTraining(
        model, find_units(model, X)[:1], ranked("magnitude", linear(by=2)), every=1,
        delete=True, example=X,
    )  # fmt: skip
    held = PruneWhileTraining(model, links[:1], falling(), every=50).attach(optimizer)
    with pytest.raises(StructureError, match=r"another pruner holds '0\.weight'"):
        cutting.attach(optimizer)
    held.detach()
    cutting.attach(optimizer)
    held.attach(optimizer)
    with pytest.raises(StructureError, match=r"'0\.weight' had shape \(12, 6\).*one pruner"):
        train(model, optimizer, 3)


@pytest.mark.parametrize(
    "schedule",
    [linear(300), lambda p: 100 + 10 * p.step, lambda p: p.remaining + 5, lambda p: 300],
    ids=["above", "rising", "growing", "constant"],
)
def test_a_schedule_that_rises_is_refused_at_once(schedule):
    model = network()
    for propose in (ranked("magnitude", schedule), only("synapse", ranked("magnitude", schedule))):
        with pytest.raises(ScheduleError, match=r"cannot rise"):
            PruneWhileTraining(model, find_synapses(model), propose, every=5, total=50)


def test_a_schedule_of_the_run_s_steps_alone_is_enough():
    model = network()
    optimizer = SGD(model.parameters())
    pruner = PruneWhileTraining(
        model, find_synapses(model), ranked("magnitude", lambda p: [200, 150, 90][p.step - 1]),
        every=5, total=15,
    ).attach(optimizer)  # fmt: skip
    train(model, optimizer, 15)
    assert sum(pruner.mask.count(group) for group in pruner.groups) == 90


def test_what_looks_elsewhere_is_refused():
    model, other = network(), network(2)
    links = find_synapses(model)
    with pytest.raises(GroupError, match="probe= belongs to another model"):
        PruneWhileTraining(model, links, falling(), probe=Probe(other, (X, Y)))
    with pytest.raises(GroupError, match="trajectory= belongs to another model"):
        PruneWhileTraining(model, links, falling(), trajectory=Trajectory(other))
    with pytest.raises(GroupError, match="nothing to prune"):
        PruneWhileTraining(model, [], falling())
    with pytest.raises(ScheduleError):
        PruneWhileTraining(model, links, ranked("magnitude", linear("40 %")))
    for until in (loss_at_most(0.1), any_of(loss_at_most(0.1), units_at_most(5))):
        with pytest.raises(BudgetError, match="pass probe="):
            PruneWhileTraining(model, links, falling(), until=until)
    wide = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 10), nn.ReLU(),
                         nn.Linear(10, 2)).double()  # fmt: skip
    state = PruneWhileTraining(model, links, falling()).state_dict()
    held = PruneWhileTraining(wide, find_synapses(wide), falling())
    with pytest.raises(ValueError, match=r"'synapse/0' has 72 members there and 120 here"):
        held.load_state_dict(state)
    assert held.mask == Mask.full(held.groups)
