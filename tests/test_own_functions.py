"""Functions of the user's as retrainer, budget, floor and metric."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hand import hidden, mlp
from runs import X, Y, trained
from sentei import (
    BudgetError,
    JournalError,
    MetricError,
    Probe,
    PruneWhileTraining,
    all_of,
    any_of,
    metric_at_least,
    metric_at_most,
    metric_within,
    one_at_a_time,
    prune,
    ranked,
    units_at_most,
)
from sentei.pruning.run_reader import read_run

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


# Metrics of the user's.


def f1(model):
    """A metric as users write them: it looks at the mode and the gradients, and draws numbers."""
    assert not model.training
    assert not torch.is_grad_enabled()
    torch.rand(3)
    found = model(X).argmax(1)
    right = int((found & Y).sum())
    return {"f1": 2 * right / int(found.sum() + Y.sum()), "share": torch.tensor(0.25)}


def test_a_function_measures_other_metrics_of_the_masked_network(tmp_path):
    model = trained(4, 6, 2).train()
    before = torch.get_rng_state()
    seen = []
    for step in run(model, evaluate=f1, journal=tmp_path / "run", until=units_at_most(2)):
        assert model.training
        seen.append(step)
        with torch.no_grad():
            model.eval()
            assert step.measured.metrics == {"f1": f1(model)["f1"], "share": 0.25}
            model.train()
        loss = nn.functional.cross_entropy(model(X), Y).item()
        assert step.measured.loss == pytest.approx(loss, abs=1e-6)  # of the Probe
        assert step.measured.accuracy is not None
        torch.set_rng_state(before)
    assert [step.number for step in seen] == [0, 1, 2, 3, 4]
    stored = [record.measured.metrics for record in read_run(tmp_path / "run").records]
    assert stored == [step.measured.metrics for step in seen]
    again = list(run(trained(4, 6, 2), evaluate=f1, journal=tmp_path / "run", resume=True))
    assert [step.measured for step in again[:5]] == [step.measured for step in seen]
    assert "f1 " in str(again[0].measured)
    with pytest.raises(JournalError, match="evaluate"):
        run(trained(4, 6, 2), journal=tmp_path / "run", resume=True)


def test_one_number_is_called_metric_and_limits_hold_it():
    def units(model):
        return np.float64(model[2].weight.detach().abs().sum(0).count_nonzero())

    *_, step = run(trained(4, 6, 2), evaluate=units, keeping=metric_at_least("metric", 4))
    assert step.measured.metrics == {"metric": 4.0}
    *_, step = run(trained(4, 6, 2), evaluate=partial(units), keeping=metric_within("metric", 1))
    assert step.measured.metrics == {"metric": 5.0}
    *_, step = run(trained(4, 6, 2), evaluate=units, until=metric_at_most("metric", 3))
    assert step.measured.metrics == {"metric": 3.0}


@pytest.mark.parametrize("limit", ["until", "keeping"])
def test_a_metric_that_is_not_measured_is_refused_before_anything_changes(limit, tmp_path):
    model = trained(4, 6, 2)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(BudgetError, match=r"no metric 'f2' is measured\. Known: 'f1', 'share'"):
        run(model, evaluate=f1, journal=tmp_path / "run", **{limit: metric_at_least("f2", 0.1)})
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "a number or a dict of numbers, finite .* returned None"),
        ("0.5", "returned '0.5'"),
        (True, "returned True"),
        (float("nan"), "finite at every step; it returned nan"),
        (torch.ones(2), r"returned a Tensor of shape \(2,\)"),
        ({"f1": None}, "a number as 'f1'"),
        ({"": 1.0}, "metrics have names"),
        ({3: 1.0}, "metrics have names"),
        ({"loss": 1.0}, "'loss' is measured by the Probe"),
        ({"r2": 1.0}, "'r2' is measured by the Probe"),
    ],
)
def test_what_is_no_metric_is_refused_before_the_first_step(returned, message, tmp_path):
    with pytest.raises(MetricError, match=message) as error:
        list(run(trained(4, 6, 2), evaluate=lambda model: returned))
    assert "lambda" in str(error.value) or "names" in message


def test_every_step_has_the_same_metrics_also_after_resuming(tmp_path):
    later = iter(({"a": 1.0}, {"a": 1.0}, {"b": 1.0}))
    got = []
    model = trained(4, 6, 2)
    with pytest.raises(MetricError, match="lambda> were 'b' at one step and 'a' at another"):
        got.extend(run(model, evaluate=lambda _: next(later), journal=tmp_path / "run"))
    assert [step.measured.metrics for step in got] == [{"a": 1.0}] * 2
    assert model[2].weight.any(0).sum() == 5  # the last step that was yielded

    more = {"journal": tmp_path / "run", "resume": True, "until": units_at_most(4)}
    other = lambda _: {"a": 1.0, "b": 2.0}  # noqa: E731
    other.__qualname__ = test_every_step_has_the_same_metrics_also_after_resuming.__qualname__
    other.__qualname__ += ".<locals>.<lambda>"
    with pytest.raises(MetricError, match="were 'a' at one step and 'a', 'b' at another"):
        list(run(trained(4, 6, 2), evaluate=other, **more))


def test_a_function_is_called_once_a_step():
    calls = []
    list(run(trained(4, 6, 2), evaluate=lambda _: calls.append(1) or 1.0,
             keeping=metric_at_least("metric", 1), until=units_at_most(4)))  # fmt: skip
    assert len(calls) == 3


@pytest.mark.parametrize("evaluate", [lambda outputs, targets: 1.0, nn.Linear(4, 2), Probe])
def test_what_is_no_function_of_the_network_is_refused(evaluate):
    with pytest.raises(TypeError, match="`evaluate` must be samples, a Probe, or a function"):
        run(trained(4, 6, 2), evaluate=evaluate)


def test_metrics_of_regressions_stand_beside_those_of_the_user():
    model = mlp(4, 6, 1)
    probe = Probe(model, (X, X.sum(1, keepdim=True)), "half_squared_error")
    keeping = metric_within("mean_absolute_error", 9, lower_is_better=True)
    steps = prune(model, hidden(model), probe, NARROW, keeping=keeping, evaluate=lambda _: 3)
    first = next(steps)
    assert list(first.measured.metrics) == ["r2", "mean_absolute_error", "metric"]
