"""Every loop of docs/guides/loops.md: masked, deleted and resumed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from own_loops import LOOPS, X, network
from sentei import (
    GroupError,
    PruneWhileTraining,
    StructureError,
    find_synapses,
    find_units,
    linear,
    ranked,
)
from sentei.network.optimizer_state import states_of

# What the guide calls each loop; the first row is tested in tests/test_during.py.
ROWS_OF_THE_GUIDE = {
    "SGD, Adam": (),
    "two optimizers": ("two optimizers",),
    "Muon": ("Muon beside AdamW",),
    "SAM": ("SAM, two steps", "SAM, the inner optimizer attached", "SAM, closure"),
    "Lookahead": ("Lookahead", "Lookahead, its state in the inner optimizer"),
    "EMA": ("EMA by hand", "EMA"),
    "SWA": ("SWA",),
    "accumulated": ("accumulated and clipped",),
    "`GradScaler`": ("scaled, autocast",),
    "cautious": ("cautious",),
    "schedule-free": ("schedule-free",),
    "accelerate": ("accelerate",),
    "`torch.compile`": ("compiled",),
    "Hugging Face": (),  # tested in tests/test_trainer.py
}

UNITS = find_units(network(), X)
LOOP = pytest.mark.parametrize("row", LOOPS.values(), ids=LOOPS.keys())


def half(model, loop, groups=(), **settings):
    """Remove half of everything in two proposals, after four and eight updates."""
    return PruneWhileTraining(
        model,
        groups or UNITS,
        ranked("magnitude", linear("50 %", 2), within="group"),
        every=4,
        total=8,
        companions=loop.companions,
        **settings,
    )


@LOOP
def test_masked_training_is_the_training_of_the_smaller_network(row):
    trained = []
    for delete in (False, True):
        model = network()
        loop = row.make(model)
        pruner = half(model, loop, delete=delete, example=X).attach(loop.attached)
        loop.run(0, 13)
        pruner.detach()
        loop.finish()
        assert pruner.updates == 13
        trained.append([model, *pruner.companions])
    assert [trained[1][0][i].out_features for i in (0, 2)] == [5, 4]
    for masked, small in zip(*trained):
        assert torch.allclose(masked(X), small(X), rtol=0, atol=1e-12) is row.equal


@LOOP
def test_dead_weights_and_their_state_stay_zero(row):
    model = network()
    loop, links = row.make(model), find_synapses(model)
    pruner = half(model, loop, links).attach(loop.attached)
    seen = []

    def check():
        for link in links:
            weight, dead = model.get_parameter(link.parameter), pruner.mask.dead(link)
            seen.append(len(dead))
            copies = [weight, *(c.get_parameter(link.parameter) for c in pruner.companions)]
            kept = [v for s in states_of(loop.attached, weight) for v in s.values()]
            copies += [v for v in kept if isinstance(v, torch.Tensor) and v.shape == weight.shape]
            assert len(copies) > 1
            assert all(not tensor.flatten()[dead].any() for tensor in copies)

    for number in range(11):
        loop.update(number)
        check()
    loop.finish()
    check()
    assert max(seen) == 60


@LOOP
@pytest.mark.parametrize("delete", [False, True], ids=["masked", "deleted"])
def test_a_resumed_loop_goes_on_to_the_same_bits(row, delete):
    whole = network()
    loop = row.make(whole)
    pruner = half(whole, loop, delete=delete, example=X).attach(loop.attached)
    loop.run(0, 6)
    again = copy.deepcopy(whole)  # with the sizes of the checkpoint
    kept = copy.deepcopy([p.state_dict() for p in (*loop.parts(), pruner)])
    loop.run(6, 10)

    loop = row.make(again)
    pruner = half(again, loop, find_units(again, X), delete=delete, example=X)
    for part, state in zip((*loop.parts(), pruner), kept):
        part.load_state_dict(state)
    pruner.attach(loop.attached)
    loop.run(6, 10)
    assert (pruner.updates, pruner.events) == (10, 2)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_round_is_over_once_every_optimizer_has_stepped():
    model = network()
    loop = LOOPS["two optimizers"].make(model)
    often, seldom = loop.attached
    pruner = half(model, loop).attach([often, seldom])
    for number in range(6):
        loop.update(number)
        often.step()  # a second step of one of them ends no round
    assert pruner.updates == 6
    often.step()
    assert pruner.updates == 6
    pruner.detach()
    with pytest.raises(StructureError, match=r"does not own '2\.weight'.*attach every optimizer"):
        half(model, loop).attach(often)
    with pytest.raises(StructureError, match="LBFGS"):
        half(model, loop).attach([often, torch.optim.LBFGS(model.parameters())])
    assert not any(o._optimizer_step_post_hooks for o in (often, seldom))


def test_a_step_that_calls_its_parent_s_step_is_one_step():
    model = network()
    torch.optim.Adam(model.parameters())  # torch now runs the hooks in Adam.step, too
    loop = LOOPS["cautious"].make(model)
    pruner = half(model, loop).attach(loop.attached)
    loop.run(0, 3)
    assert pruner.updates == 3


def test_gradients_without_an_update_are_reported(caplog, monkeypatch):
    monkeypatch.setattr("sentei.pruning.while_training.during.LONG", 4)
    model = network()
    loop = LOOPS["EMA by hand"].make(model)
    pruner = half(model, loop).attach(loop.attached)
    for _ in range(3):
        model(X).sum().backward()
    assert not caplog.records
    model(X).sum().backward()
    assert "seen 4 backward passes" in caplog.text
    assert "Adam made no step" in caplog.text
    loop.update(0)  # the fifth pass
    caplog.clear()
    pruner.detach()
    assert not caplog.records

    pruner.attach(loop.attached)
    model(X).sum().backward()
    pruner.detach()
    assert "seen 1 backward passes" in caplog.text


def test_a_loop_without_an_optimizer_counts_its_updates():
    left = []
    for by_hand in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loop = LOOPS["two optimizers"].make(model)
        pruner = half(model, loop)
        with pytest.raises(ValueError, match="attach the pruner first"):
            pruner.update()
        pruner.attach([] if by_hand else optimizer)
        for _ in range(9):
            model.zero_grad()
            nn.functional.cross_entropy(model(X), X[:, 0].sign().clamp(min=0).long()).backward()
            if by_hand:
                with torch.no_grad():
                    for p in model.parameters():
                        p.sub_(p.grad, alpha=0.1)
                pruner.update()
            else:
                optimizer.step()
        assert pruner.updates == 9
        left.append(model(X))
    assert torch.allclose(*left, rtol=0, atol=1e-14)


class Outside(torch.optim.Optimizer):
    """An optimizer around another that keeps slow weights as an attribute, and runs no hooks."""

    def __init__(self, inner, *, known=True):
        self.param_groups, self.state, self.defaults = inner.param_groups, {}, {}
        self.move = inner.step
        if known:
            self.inner = inner
        self.slow = [p.detach().clone() for p in inner.param_groups[0]["params"]]

    def step(self, closure=None) -> Any:
        self.move()
        with torch.no_grad():
            for p, slow in zip(self.param_groups[0]["params"], self.slow):
                p.lerp_(slow, 0.5)
        return 0.0


def test_dead_weights_that_something_sets_are_reported_and_zeroed(caplog):
    model = network()
    outer = Outside(torch.optim.SGD(model.parameters(), lr=0.1))
    links = find_synapses(model)
    pruner = half(model, LOOPS["SWA"].make(network()), links)
    pruner.companions.clear()
    pruner.attach(outer)

    def update():
        model.zero_grad()
        model(X).square().sum().backward()
        outer.step()

    for _ in range(7):
        update()
    assert not caplog.records  # a search after every update would take too long
    update()
    assert "dead weights of '0.weight' were set between two updates" in caplog.text
    caplog.clear()
    pruner.detach()
    assert "dead weights of '0.weight' were set" in caplog.text
    assert not any(model.get_parameter(g.parameter).flatten()[pruner.mask.dead(g)].any()
                   for g in links)  # fmt: skip


def test_an_optimizer_that_runs_no_hooks_is_refused():
    model = network()
    outer = Outside(torch.optim.SGD(model.parameters(), lr=0.1), known=False)
    with pytest.raises(StructureError, match=r"step\(\) of Outside runs no hooks.*attach\(\[\]\)"):
        half(model, LOOPS["cautious"].make(model)).attach(outer)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_companions_are_copies_of_the_model():
    model = network()
    links = find_synapses(model)
    propose = ranked("magnitude", linear(by=20))
    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(GroupError, match="no part with the same parameter names and shapes"):
        PruneWhileTraining(model, links, propose, companions=[nn.Linear(3, 2)])
    with pytest.raises(GroupError, match="has the model's own weights"):
        PruneWhileTraining(model, links, propose, companions=[nn.Sequential(model)])
    with pytest.raises(GroupError, match=r"'0\.weight' is pruned and has.*no entry"):
        PruneWhileTraining(model, links, propose, companions=[{}])
    with pytest.raises(StructureError, match="a dict of tensors cannot follow"):
        PruneWhileTraining(model, links, propose, delete=True, example=X, companions=[shadow])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = PruneWhileTraining(model, links, propose, every=1, companions=[shadow])
    pruner.attach(optimizer)
    model(X).sum().backward()
    optimizer.step()
    for link in links:
        assert (shadow[link.parameter] == 0).sum() == len(pruner.mask.dead(link))


def test_deletion_under_a_parallel_wrapper_is_refused_or_wraps_again(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        trained = []
        for parallel in (False, True):
            model = network()
            optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
            wrapped = [nn.parallel.DistributedDataParallel(model) if parallel else model]

            def rewrap(smaller, wrapped=wrapped):
                wrapped[0] = nn.parallel.DistributedDataParallel(smaller)

            loop = LOOPS["SWA"].make(model)
            loop.companions.clear()
            pruner = half(model, loop, delete=True, example=X)
            pruner.attach(optimizer, rewrap=rewrap if parallel else None)
            for _ in range(10):
                optimizer.zero_grad()
                wrapped[0](X).square().sum().backward()
                optimizer.step()
            trained.append(model)
        assert trained[1][0].out_features == 5
        assert torch.allclose(trained[0](X), trained[1](X), rtol=0, atol=1e-12)
        outer = nn.parallel.DistributedDataParallel(network())
        pruner = half(outer, loop, find_units(outer, X), delete=True, example=X)
        with pytest.raises(StructureError, match=r"model\.module.*rewrap=function"):
            pruner.attach(torch.optim.Adam(outer.parameters()), rewrap=rewrap)
    finally:
        distributed.destroy_process_group()


def test_deletion_in_one_of_several_processes_needs_rewrap(monkeypatch):
    monkeypatch.setattr("sentei.pruning.while_training.optimizer_guard.world", lambda: 2)
    model = network()
    loop = LOOPS["two optimizers"].make(model)
    with pytest.raises(StructureError, match="rewrap=function"):
        half(model, loop, delete=True, example=X).attach(loop.attached)
    half(model, loop).attach(loop.attached).detach()
    half(model, loop, delete=True, example=X).attach(loop.attached, rewrap=lambda model: None)


def test_the_guide_has_a_row_for_every_loop():
    guide = (Path(__file__).parent.parent / "docs" / "guides" / "loops.md").read_text()
    table = [line for line in guide.splitlines() if line.startswith("| ") and "yes" in line]
    assert [line.split(" | ")[3] for line in table].count("no") == 2
    assert len(table) == len(ROWS_OF_THE_GUIDE)
    assert LOOPS.keys() <= {loop for loops in ROWS_OF_THE_GUIDE.values() for loop in loops}
    for row, (words, loops) in zip(table, ROWS_OF_THE_GUIDE.items()):
        assert words in row
        assert all(LOOPS[loop].equal is ("| no |" not in row) for loop in loops if loop in LOOPS)


def test_detach_works_after_something_else_has_cut_a_parameter():
    model = network()
    loop = LOOPS["schedule-free"].make(model)
    links = find_synapses(model)
    pruner = half(model, loop, links).attach(loop.attached)
    loop.run(0, 5)
    model[0].weight.data = torch.randn(3, 12).double()
    pruner.detach()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert not loop.attached._optimizer_step_post_hooks
