"""Plain functions of the user's as retrainer, budget and floor."""

import logging

import pytest
import torch
from torch import nn

from hand import hidden, mlp
from runs import X, Y, trained
from sentei import (
    BudgetError,
    JournalError,
    Probe,
    PruneWhileTraining,
    all_of,
    any_of,
    one_at_a_time,
    prune,
    ranked,
    units_at_most,
)

NARROW = ranked("magnitude", one_at_a_time())


def run(model, **options):
    return prune(model, hidden(model), Probe(model, (X, Y)), NARROW, **options)


def test_plain_functions_retrain_and_stop():
    model, seen = trained(4, 6, 2), []
    *_, step = run(
        model,
        until=lambda now, start: now.units <= start.units - 2,
        retrain=lambda network, mask: seen.append((network is model, mask.count(*mask.groups))),
    )
    assert step.measured.units == 4
    assert seen == [(True, 5), (True, 4)]


def test_a_plain_function_is_a_floor():
    model = trained(4, 6, 2)
    *_, step = run(model, keeping=lambda now, _: now.units >= 3)
    assert step.measured.units == 3
    with pytest.raises(BudgetError, match="does not hold for the untouched network"):
        next(run(trained(4, 6, 2), keeping=lambda now, _: now.units < 3))


def test_plain_functions_combine_with_limits():
    few, never = (lambda now, _: now.units <= 4), (lambda *_: False)
    *_, step = run(trained(4, 6, 2), until=any_of(never, few))
    assert step.measured.units == 4
    *_, step = run(trained(4, 6, 2), until=all_of(few, units_at_most(2)))
    assert step.measured.units == 2
    *_, step = run(trained(4, 6, 2), until=lambda now, _: torch.tensor(now.units < 5))
    assert step.measured.units == 4


@pytest.mark.parametrize("answer", [None, 0.5, 1, torch.ones(1)])
def test_an_answer_that_is_neither_true_nor_false_is_refused(answer):
    with pytest.raises(BudgetError, match=r"returns True or False; .*lambda.* returned"):
        list(run(trained(4, 6, 2), until=lambda now, start: answer))


@pytest.mark.parametrize("name", ["until", "keeping", "retrain"])
def test_a_function_of_other_arguments_is_refused_at_the_call(name):
    with pytest.raises(TypeError, match=f"`{name}` must be .*function"):
        run(trained(4, 6, 2), **{name: lambda one: True})


def test_a_run_is_told_apart_by_what_its_floor_computes(tmp_path):
    def floor(least):
        return lambda now, start: now.units >= least

    *_, step = run(trained(4, 6, 2), keeping=floor(4), journal=tmp_path / "run")
    *_, again = run(trained(4, 6, 2), keeping=floor(4), journal=tmp_path / "run", resume=True)
    assert step.number == again.number == 2
    with pytest.raises(JournalError, match="keeping"):
        run(trained(4, 6, 2), keeping=floor(3), journal=tmp_path / "run", resume=True)


def test_dead_weights_that_a_function_trains_are_zero_again_and_said_once(caplog):
    def plain(model, mask):  # knows nothing of the mask
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()

    model = trained(4, 6, 2)
    with caplog.at_level(logging.WARNING, "sentei"):
        *_, step = run(model, until=units_at_most(3), retrain=plain)
    dead = step.mask.dead(*step.mask.groups)
    assert len(dead) == 3
    assert not model[2].weight[:, dead].any()
    (said,) = caplog.messages
    assert said.startswith("retrain= changed 2 weights of dead")
    found = nn.functional.cross_entropy(model(X), Y).item()
    assert step.measured.loss == pytest.approx(found, abs=1e-6)


def test_a_function_needs_a_probe_inside_a_training_loop():
    model = mlp(4, 6, 2)
    stop = lambda now, start: now.units <= 4  # noqa: E731
    with pytest.raises(BudgetError, match="pass probe="):
        PruneWhileTraining(model, hidden(model), NARROW, every=1, until=stop)
    pruner = PruneWhileTraining(
        model, hidden(model), NARROW, every=1, until=stop, probe=Probe(model, (X, Y))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for _ in range(4):
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    assert pruner.reached
    assert pruner.mask.count(*pruner.groups) == 4
