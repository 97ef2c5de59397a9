"""The loop: order of removal, undo, limits, yielded steps and the state of the model."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

import sentei
from hand import hidden, mlp
from runs import Nudge, X, Y, trained
from sentei import (
    BudgetError,
    CriterionError,
    Cut,
    GroupError,
    Mask,
    Probe,
    accuracy_within,
    fixed,
    levels,
    loss_within,
    one_at_a_time,
    one_shot,
    prune,
    ranked,
    units_at_most,
)
from sentei.network.units import find_synapses
from sentei.pruning.rules.proposals import lowest
from sentei.pruning.rules.schedules import linear


def test_a_fixed_ranking_goes_in_its_order_across_layers():
    model = mlp(4, 3, 2, 2)
    first, second = hidden(model)
    order = {first: torch.tensor([0.1, 0.5, 0.3]), second: torch.tensor([0.2, 0.4])}
    steps = list(
        prune(model, [first, second], Probe(model, (X, Y)), ranked(fixed(order), one_at_a_time()))
    )
    removed = [{g.name: p.tolist() for g, p in step.removed.items()} for step in steps]
    # With the second layer empty nobody reads what is left of the first: swept in the same step.
    assert removed == [{}, {"0": [0]}, {"2": [0]}, {"0": [2]}, {"2": [1], "0": [1]}]
    assert [step.measured.units for step in steps] == [5, 4, 3, 2, 0]
    assert [step.number for step in steps] == [0, 1, 2, 3, 4]


def test_ties_go_to_the_earlier_group_and_the_lower_position_exactly_as_many_as_asked():
    model = mlp(4, 3, 2, 2)
    groups = hidden(model)
    same = {g: torch.ones(g.size) for g in groups}
    steps = list(prune(model, groups, Probe(model, (X, Y)), ranked(fixed(same), one_shot(3))))
    assert len(steps) == 2
    assert {g.name: p.tolist() for g, p in steps[1].removed.items()} == {"0": [0, 1]}


def test_within_groups_each_keeps_its_share():
    model = mlp(4, 6, 4, 2)
    groups = hidden(model)
    scores = {g: torch.arange(g.size).float() for g in groups}
    propose = ranked(fixed(scores), linear("50 %", steps=2), within="group")
    steps = list(prune(model, groups, Probe(model, (X, Y)), propose))
    assert [[step.mask.count(g) for g in groups] for step in steps] == [[6, 4], [5, 3], [3, 2]]


def test_iterative_re_ranking_removes_what_hurts_least_now():
    model = trained(4, 6, 2)
    (units,) = hidden(model)
    naive = copy.deepcopy(model)
    order = []
    for _ in range(6):
        losses = {}
        for k in range(6):
            if k not in order:
                masked = copy.deepcopy(naive)
                Mask.full([units]).without({units: [*order, k]}).apply_(masked)
                with torch.no_grad():
                    losses[k] = nn.functional.cross_entropy(masked(X), Y).item()
        order.append(min(losses, key=losses.__getitem__))
    steps = prune(model, [units], Probe(model, (X, Y)), ranked("ablation", one_at_a_time()))
    assert [int(p) for step in steps for p in step.removed.values()] == order


def test_a_floor_undoes_the_step_that_breaches_it():
    model = trained(4, 6, 2)
    groups = hidden(model)
    probe = Probe(model, (X, Y))
    start = probe.loss()
    steps = list(
        prune(model, groups, probe, ranked("ablation", one_at_a_time()), keeping=loss_within(0.05))
    )
    last = steps[-1]
    assert 1 < len(steps) < 7
    assert all(step.measured.loss <= start + 0.05 for step in steps)
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(X), Y).item() == pytest.approx(
            last.measured.loss, abs=1e-6
        )
    masked = trained(4, 6, 2)
    last.mask.apply_(masked)
    assert all(torch.equal(a, b) for a, b in zip(masked.parameters(), model.parameters()))


def test_levels_back_off_to_finer_cuts_after_each_undo():
    model = trained(4, 8, 2)
    seen = []

    def watch(probe, groups, mask, progress):
        seen.append((progress.step, progress.undone, sum(mask.count(g) for g in groups)))
        return ranked("ablation", levels(25, 50, then=one_at_a_time()))(
            probe, groups, mask, progress
        )

    steps = list(
        prune(model, hidden(model), Probe(model, (X, Y)), watch, keeping=accuracy_within(0.0))
    )
    undone = [u for _, u, _ in seen]
    assert undone == sorted(undone)
    assert undone[-1] >= 2  # both levels were tried and taken back, then single units
    assert [number for number, *_ in seen][-1] == steps[-1].number + 1
    assert steps[-1].measured.accuracy >= steps[0].measured.accuracy


def test_a_budget_ends_the_run_when_it_is_reached():
    model = mlp(4, 6, 2)
    propose = ranked("magnitude", one_at_a_time())
    run = prune(model, hidden(model), Probe(model, (X, Y)), propose, until=units_at_most("50 %"))
    assert [step.measured.units for step in run] == [6, 5, 4, 3]


def test_measurements_are_those_of_the_shrunk_network(tmp_path):
    model = trained(4, 6, 2)
    groups = [*hidden(model), *find_synapses(model)]
    propose = ranked("random", linear("50 %", steps=3))
    run = prune(model, groups, Probe(model, (X, Y)), ranked("random", one_shot("60 %")))
    step = list(run)[-1]
    small = sentei.shrink(step.network(), step.mask)
    path = tmp_path / "small.safetensors"
    sentei.save(small, path, mask=step.mask.shrunk())
    assert step.measured.bytes == path.stat().st_size
    assert step.measured.parameters == sum(p.numel() for p in small.parameters())
    alive = [step.mask.shrunk().alive(g) for g in step.mask.shrunk().groups if g.kind == "synapse"]
    assert step.measured.synapses == sum(int(a.sum()) for a in alive)
    del propose


def test_any_step_can_be_brought_back():
    model = trained(4, 6, 2)
    untouched = copy.deepcopy(model)
    steps = list(
        prune(model, hidden(model), Probe(model, (X, Y)), ranked("ablation", one_at_a_time()))
    )
    with torch.no_grad():
        for step in (steps[3], steps[0], steps[5]):
            loss = nn.functional.cross_entropy(step.network()(X), Y).item()
            assert loss == pytest.approx(step.measured.loss, abs=1e-6)
        assert torch.equal(steps[0].network()(X), untouched(X))


@pytest.mark.parametrize("ending", ["break", "exception", "interrupt"])
def test_however_it_ends_the_model_holds_the_last_step_that_was_yielded(ending):
    model = trained(4, 6, 2)
    groups = hidden(model)
    calls = []

    def propose(probe, groups, mask, progress):
        calls.append(progress.step)
        if ending == "exception" and progress.step == 3:
            model[0].weight.data.zero_()  # half-way through something
            raise RuntimeError("a criterion that fails")
        if ending == "interrupt" and progress.step == 3:
            raise KeyboardInterrupt
        return ranked("ablation", one_at_a_time())(probe, groups, mask, progress)

    last = None
    try:
        for step in prune(model, groups, Probe(model, (X, Y)), propose):
            last = step
            if ending == "break" and step.number == 2:
                break
    except (RuntimeError, KeyboardInterrupt):
        pass
    expected = trained(4, 6, 2)
    assert last is not None
    assert last.number == 2
    last.mask.apply_(expected)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters()))


def test_undo_rewinds_retraining_too():
    torch.manual_seed(0)
    model = trained(4, 6, 2)
    retrain = Nudge(model)
    run = prune(
        model,
        hidden(model),
        Probe(model, (X, Y)),
        ranked("ablation", one_at_a_time()),
        keeping=loss_within(0.02),
        retrain=retrain,
    )
    steps = list(run)
    assert 0 < len(steps) - 1 < 6
    assert retrain.calls == len(steps) - 1  # the undone call has been forgotten
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(X), Y).item()
    assert loss == pytest.approx(steps[-1].measured.loss, abs=1e-6)
    dead = steps[-1].mask.dead(hidden(model)[0])
    assert not model[2].weight[:, dead].count_nonzero()


def test_an_unreachable_budget_is_refused_before_anything_changes():
    model = mlp(4, 6, 2)
    before = copy.deepcopy(model.state_dict())
    propose = ranked("magnitude", one_at_a_time())
    with pytest.raises(BudgetError, match="cannot be reached"):
        prune(model, hidden(model), Probe(model, (X, Y)), propose, until=sentei.bytes_at_most(100))
    with pytest.raises(BudgetError, match="untouched network"):
        prune(
            model,
            hidden(model),
            Probe(model, (X, Y)),
            propose,
            keeping=sentei.accuracy_at_least(1.0),
        )
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_a_floor_that_stands_before_the_budget_is_said(caplog):
    model = trained(4, 6, 2)
    run = prune(
        model,
        hidden(model),
        Probe(model, (X, Y)),
        ranked("ablation", one_at_a_time()),
        until=units_at_most(0),
        keeping=loss_within(0.05),
    )
    with caplog.at_level(logging.WARNING, logger="sentei"):
        steps = list(run)
    assert steps[-1].measured.units > 0
    assert "units_at_most(0) was not reached" in caplog.text
    assert f"step {steps[-1].number}" in caplog.text


def test_bad_arguments_are_refused_by_name():
    model, other = mlp(4, 6, 2), mlp(4, 6, 2)
    probe = Probe(model, (X, Y))
    propose = ranked("ablation", one_at_a_time())
    with pytest.raises(GroupError, match="another model"):
        prune(other, hidden(other), probe, propose)
    with pytest.raises(GroupError, match="is not this model's"):
        prune(model, hidden(mlp(4, 9, 2)), probe, propose)
    with pytest.raises(GroupError, match="evaluate= belongs to another model"):
        prune(model, hidden(model), probe, propose, evaluate=Probe(other, (X, Y)))
    with pytest.raises(ValueError, match="'ablation'"):
        ranked("ablatoin", one_at_a_time())
    with pytest.raises(ValueError, match="network"):
        ranked("ablation", one_at_a_time(), within="netwrok")
    with pytest.raises(TypeError, match="`schedule` must be a schedule"):
        ranked("ablation", "linear")


def test_a_criterion_that_returns_nonsense_is_named():
    model = mlp(4, 6, 2)

    def nonsense(probe, group):
        return torch.full((group.size,), torch.nan)

    run = prune(model, hidden(model), Probe(model, (X, Y)), ranked(nonsense, one_at_a_time()))
    with pytest.raises(CriterionError, match="nonsense"):
        list(run)


def test_a_run_is_measured_on_what_is_given():
    model = trained(4, 6, 2)
    held = X[:25] + 1, Y[:25]
    with torch.no_grad():
        outputs = model(held[0])
        loss = nn.functional.cross_entropy(outputs, held[1]).item()
        accuracy = (outputs.argmax(1) == held[1]).float().mean().item()
    probe, propose = Probe(model, (X, Y)), ranked("magnitude", one_at_a_time())
    own = probe.loss()
    for evaluate, expected in ((held, loss), (Probe(model, held), loss), (None, own)):
        step = next(prune(model, hidden(model), probe, propose, evaluate=evaluate))
        assert step.measured.loss == pytest.approx(expected, abs=1e-6)
        if evaluate is not None:
            assert step.measured.accuracy == pytest.approx(accuracy)
    assert abs(loss - own) > 0.01


def test_a_cut_may_give_synapses_back_and_mixes_of_other_groups_are_left_out():
    model = mlp(4, 3, 2)
    (units,), (first, last) = hidden(model), find_synapses(model)
    elsewhere = replace(units.listeners[0], parameter="0.weight")

    def exchange(probe, groups, mask, progress):
        if progress.step == 1:
            return Cut({first: torch.tensor([0, 5])}, {elsewhere: torch.ones(1, 4)})
        if progress.step == 2:
            return Cut({last: torch.tensor([1])}, regrown={first: torch.tensor([5])})
        return None

    before = model[0].weight.detach().clone()
    steps = list(prune(model, [units, first, last], Probe(model, (X, Y)), exchange))
    assert [step.mask.dead(first).tolist() for step in steps] == [[], [0, 5], [0]]
    assert [step.mask.dead(last).tolist() for step in steps] == [[], [], [1]]
    assert [step.measured.synapses for step in steps] == [18, 16, 16]
    before[0, 0] = before[1, 1] = 0  # what comes back begins at zero
    assert torch.equal(model[0].weight, before)


def test_a_cut_may_hand_the_work_over():
    model = mlp(4, 3, 2).double()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    (units,) = hidden(model)

    def merge(probe, groups, mask, progress):
        if progress.step > 1:
            return None
        mix = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
        return Cut({units: torch.tensor([1])}, {units.listeners[0]: mix})

    probe = Probe(model, (X.double(), Y))
    before, after = list(prune(model, [units], probe, merge))
    assert after.measured.loss == pytest.approx(before.measured.loss, abs=1e-12)
    assert after.mask.count(units) == 2
    assert torch.equal(after.network()[2].weight, model[2].weight)  # repaired weights come back


def test_nothing_leaks_from_one_run_to_the_next():
    first = trained(4, 6, 2)
    propose = ranked("ablation", linear("50 %", steps=3))
    one = [step.mask for step in prune(first, hidden(first), Probe(first, (X, Y)), propose)]
    second = trained(4, 6, 2)
    two = [step.mask for step in prune(second, hidden(second), Probe(second, (X, Y)), propose)]
    assert one == two


def test_one_tensor_of_fixed_scores_does_not_rank_two_groups_of_one_size():
    model = mlp(4, 3, 3, 2)
    before = copy.deepcopy(model.state_dict())
    run = prune(
        model, hidden(model), Probe(model, (X, Y)), ranked(fixed(torch.arange(3.0)), one_shot(2))
    )
    assert next(run).number == 0
    with pytest.raises(GroupError, match="one tensor of fixed scores ranks one group; there are 2"):
        next(run)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_below_a_threshold_the_lowest_go_capped_and_never_all():
    model = mlp(4, 10, 6, 2)
    first, second = hidden(model)
    given = {first: torch.arange(10.0), second: torch.zeros(6)}
    probe, mask = Probe(model, (X, Y)), Mask.full([first, second])
    at = sentei.Progress(1, None, 16, 16)

    def doomed(mask=mask, **settings):
        cut = sentei.below(fixed(given), **settings)(probe, [first, second], mask, at)
        return None if cut is None else {g.name: p.tolist() for g, p in cut.doomed.items()}

    assert doomed(threshold=3.0, cap=0.25) == {"0": [0, 1], "2": [0]}
    assert doomed(threshold=3.0, cap=1.0) == {"0": [0, 1, 2], "2": [0, 1, 2, 3, 4]}
    assert doomed(threshold=0.5, cap=1.0, relative=True) == {"0": [0, 1]}  # median 4
    assert doomed(threshold=0.0) is None
    rest = mask.without({second: range(5), first: [0, 1]})
    assert doomed(rest, threshold=3.0) == {"0": [2]}
    with pytest.raises(ValueError, match="cap above 0"):
        sentei.below("magnitude", 0.1, cap=0.0)
    with pytest.raises(ValueError, match="Did you mean"):
        sentei.below("magnitud", 0.1)


@pytest.mark.parametrize("seed", range(40))
def test_who_goes_is_who_comes_first_when_sorted(seed):
    chance = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    scope = [*sentei.find_units(model, torch.rand(20, 5)), *find_synapses(model)[seed % 2 :]]
    judged = {g: torch.randint(-2, 3, (g.size,), generator=chance).double() for g in scope}
    mask = Mask.full(scope).without(
        {g: torch.randperm(g.size, generator=chance)[: g.size // 3] for g in scope}
    )
    members = [
        (float(judged[group][at]), place, at)
        for place, group in enumerate(scope)
        for at in mask.alive(group).nonzero().flatten().tolist()
    ]
    for count in (1, 5, len(members) // 2, len(members), len(members) + 3):
        wanted = [[at for _, which, at in sorted(members)[:count] if which == place]
                  for place in range(len(scope))]  # fmt: skip
        going = lowest(judged, mask, scope, count)
        assert [going.get(group, torch.empty(0)).tolist() for group in scope] == [
            sorted(positions) for positions in wanted
        ]
