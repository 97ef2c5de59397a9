"""Undo and resume restore the state of proposals and retrainers, plain functions included."""

import copy

import pytest
import torch

import hand
import sentei
from sentei import Cut, Mask, Probe, PruneWhileTraining, one_at_a_time, ranked
from sentei.pruning.rules.conditions import Limit
from sentei.pruning.rules.states import restore_state_, state_of


def problem():
    torch.manual_seed(0)
    model = hand.mlp(4, 9, 3)
    data = torch.rand(64, 4), torch.randint(0, 3, (64,))
    (group,) = hand.hidden(model)
    return model, data, group


class Growing:
    """Removes one unit more than it did last time: what it proposes depends on its state."""

    words = "growing"

    def __init__(self):
        self.count = 0
        self.seen = []

    def __call__(self, probe, groups, mask, progress):
        self.count += 1
        self.seen.append(mask.count(groups[0]))
        left = mask.alive(groups[0]).nonzero().flatten()
        return Cut({groups[0]: left[: self.count]}) if len(left) > self.count else None

    def state_dict(self):
        return {"count": self.count, "seen": self.seen}

    def load_state_dict(self, state):
        self.count, self.seen = state["count"], state["seen"]


def run(model, data, group, propose, **settings):
    return sentei.prune(model, [group], Probe(model, data), propose, **settings)


WRAPPED = {
    "alone": Growing,
    "only": lambda: sentei.only("neuron", Growing()),
    "only twice": lambda: sentei.only("neuron", sentei.only("neuron", Growing())),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_resumed_run_goes_on_with_the_state_of_its_proposal(how, tmp_path):
    model, data, group = problem()
    whole = [step.mask for step in run(model, data, group, WRAPPED[how]())]
    assert [mask.count(group) for mask in whole] == [9, 8, 6, 3]
    for stop in range(1, 4):
        model, data, group = problem()
        first = run(model, data, group, WRAPPED[how](), journal=tmp_path / f"{stop}")
        for _ in range(stop):
            next(first)
        first.close()
        model, data, group = problem()
        resumed = run(model, data, group, WRAPPED[how](), journal=tmp_path / f"{stop}", resume=True)
        assert [step.mask for step in resumed] == whole


def test_an_undone_step_restores_the_state_of_the_proposal():
    model, data, group = problem()
    propose = Growing()
    steps = list(
        run(
            *(model, data, group, propose),
            keeping=Limit("at least six", lambda now, _: now.units >= 6),
        )
    )
    assert [step.mask.count(group) for step in steps] == [9, 8, 6]
    # The cut to three was undone; proposed again, it is the same cut, and the run ends.
    assert propose.seen == [9, 8, 6]
    assert propose.count == 3


def test_a_failing_retrainer_restores_the_state_of_the_proposal():
    model, data, group = problem()
    propose = Growing()

    def retrain(model, mask):
        if mask.count(group) < 6:
            raise RuntimeError("no more")

    steps = run(model, data, group, propose, retrain=retrain)
    with pytest.raises(RuntimeError, match="no more"):
        list(steps)
    assert propose.count == 2


def test_a_plain_function_retrains():
    model, data, group = problem()
    calls = []
    steps = run(
        *(model, data, group, ranked("magnitude", one_at_a_time())),
        until=sentei.units_at_most(6),
        retrain=lambda model, mask: calls.append(mask.count(group)),
    )
    assert [step.measured.units for step in steps] == [9, 8, 7, 6]
    assert calls == [8, 7, 6]


def test_a_state_is_copied_out_and_in():
    growing = Growing()
    growing.seen = [1]
    state = state_of(growing)
    assert state is not None
    growing.seen.append(2)
    assert state["seen"] == [1]
    restore_state_(growing, state)
    growing.seen.append(3)
    assert state["seen"] == [1]
    assert state_of(len) is None
    restore_state_(len, None)


def test_a_pruner_that_waited_goes_on_waiting(tmp_path):
    """The loss at the last check of `when_stalled` survives a resume of the training."""
    outcomes = []
    for stop in (None, 3):
        model, data, group = problem()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)  # the loss never falls

        def pruner(model, group, data, optimizer):
            propose = sentei.when_stalled(ranked("magnitude", sentei.linear(by=1)), 0.5)
            return PruneWhileTraining(
                model, [group], propose, every=1, probe=Probe(model, data)
            ).attach(optimizer)

        prune, counts = pruner(model, group, data, optimizer), []
        for update in range(6):
            if update == stop:
                state, weights = copy.deepcopy(prune.state_dict()), model.state_dict()
                prune.detach()
                model, data, group = problem()
                model.load_state_dict(weights)
                optimizer = torch.optim.SGD(model.parameters(), 0.0)
                prune = pruner(model, group, data, optimizer)
                prune.load_state_dict(state)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
            counts.append(prune.mask.count(group))
        outcomes.append(counts)
    assert outcomes[0] == [9, 8, 8, 7, 7, 6]
    assert outcomes[1] == outcomes[0]


@pytest.mark.parametrize("limit", [2, 3])  # one unit is computed without vmap
def test_memory_that_runs_out_halves_the_batch_and_nothing_else(limit, monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 10, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(160, 3)
    )
    data = torch.rand(8, 1, 6, 6), torch.randint(0, 3, (8,))
    group = sentei.find_units(model, data[0])[0]
    exact = Probe(model, data).rises_without(group)
    vmap, sizes = torch.func.vmap, []

    def limited(function, *args, **kwargs):
        batched = vmap(function, *args, **kwargs)

        def run(units, gains):
            if len(units) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(units))
            return batched(units, gains)

        return run

    monkeypatch.setattr(torch.func, "vmap", limited)
    monkeypatch.setattr("sentei.probe.choosing.find_chain", lambda *_: None)
    probe = Probe(model, data)
    assert torch.allclose(probe.rises_without(group), exact, atol=1e-6)
    assert probe.one_at_a_time == 0
    assert max(sizes) <= limit
    assert sum(sizes) >= 8


def test_memory_that_does_not_hold_one_unit_is_an_error(monkeypatch):
    model, data, group = problem()

    def output(tape, overrides):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")

    monkeypatch.setattr("sentei.probe.engines.tape.Tape.output", output)
    monkeypatch.setattr("sentei.probe.choosing.find_chain", lambda *_: None)
    probe = Probe(model, data)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        probe.rises_without(group)
    assert probe.one_at_a_time == 0


def test_a_network_that_fails_by_itself_says_so(monkeypatch):
    """Only what vmap alone cannot do turns batches off; a network's own error is raised."""
    model, data, group = problem()
    monkeypatch.setattr("sentei.probe.choosing.find_chain", lambda *_: None)
    probe = Probe(model, data)
    probe.rises_without(group)
    fails = True
    forward = model[1].forward
    model[1].forward = lambda x: (_ for _ in ()).throw(RuntimeError("own")) if fails else forward(x)
    with pytest.raises(RuntimeError, match="own"):
        probe.rises_without(group)
    fails = False
    probe.rises_without(group)
    assert probe.one_at_a_time == 0


def test_a_mask_given_to_a_probe_says_who_died_and_who_is_back():
    model, _, group = problem()
    full = Mask.full([group])
    before, after = full.without({group: [1, 2]}), full.without({group: [2, 5]})
    assert after.died_since(before)[group].tolist() == [5]
    assert before.died_since(after)[group].tolist() == [1]
    assert after.died_since(Mask.full([]))[group].tolist() == [2, 5]
    assert Mask.full([]).died_since(after) == {}
    assert after.died_since(after) == {}
    assert model is not None
