"""Comparing ways to prune: areas, rows, and criteria that are left out."""

import pytest
import torch
from torch import nn

import hand
from sentei import Mask, Recipe, Trajectory, find_synapses, prune, train
from sentei.errors import IncompleteError, JournalError
from sentei.experiments import comparing
from sentei.experiments.comparing import Curve, Way, compare, rows, ways
from sentei.jobs import backends
from sentei.jobs.workers import Workers
from sentei.samples import Samples
from some_jobs import through_pickles


def curve(way, accuracy, left=(10, 5, 0), seed=0):
    return Curve(way, seed, left, accuracy, 0.5)


def test_area_is_the_mean_accuracy_over_the_removal():
    way = Way("ablation", None, 0)
    assert curve(way, (1.0, 1.0, 1.0)).area == 1
    assert curve(way, (1.0, 0.5, 0.0)).area == 0.5
    assert curve(way, (1.0, 1.0, 0.0), (10, 2, 0)).area == pytest.approx(0.9)
    assert curve(way, (0.75,), (10,)).area == 0.75


def test_rows_are_means_best_first():
    bad, good = Way("random", None, 0), Way("ablation", "least_squares", 1)
    curves = [curve(bad, (1.0, 0.4, 0.1)), curve(good, (1.0, 0.8, 0.3)),
              curve(good, (1.0, 0.9, 0.5), seed=1)]  # fmt: skip
    first, second = rows(curves)
    assert (first.way, first.seeds) == (good, 2)
    assert first.area == pytest.approx((0.725 + 0.825) / 2)
    assert first.half == pytest.approx(0.85)
    assert second.way == bad
    assert str(good) == "ablation + least squares, retrained"


@pytest.mark.slow
def test_every_criterion_is_tried_and_repair_helps(caplog):
    torch.manual_seed(0)
    x = torch.randn(600, 6)
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()
    model = hand.mlp(6, 16, 4, act=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    before = [p.clone() for p in model.parameters()]
    data = Samples(x, y)
    curves = compare(model, data, data, ways(), keep="4", steps=3, samples=400, seeds=2)
    by_way = {row.way: row for row in rows(curves)}
    assert by_way[Way("ablation", None, 0)].agreement == pytest.approx(1)
    assert by_way[Way("obs", "least_squares", 0)].area > by_way[Way("obs", None, 0)].area
    assert all(c.left == (16, 12, 8, 4) for c in curves)
    assert "wsf is left out" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    retrained = compare(model, data, data, ways(["magnitude"], [None], [1]), steps=2, seeds=1)
    assert len(retrained) == 1


def test_names_are_checked_at_once():
    with pytest.raises(ValueError, match="Did you mean 'ablation'"):
        ways(["ablatoin"])
    with pytest.raises(ValueError, match="Did you mean 'affine'"):
        ways(["ablation"], ["afine"])
    for epochs in (-1, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="whole number of epochs"):
            ways(["ablation"], [None], [epochs])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"keep": "nan %"}, {"seeds": 0}, {"seeds": []}, {"samples": -1}]
)
def test_a_comparison_of_nothing_is_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=r"got|a count"):
        compare(None, None, None, ways(["obd"]), **wrong)


def test_a_trajectory_lets_criteria_of_training_take_part():
    torch.manual_seed(1)
    x, y = torch.randn(200, 5), torch.randint(0, 3, (200,))
    model = hand.mlp(5, 8, 3, act=nn.Tanh)
    past = Trajectory(model)
    train(model, (x, y), Recipe(epochs=2, batch_size=20), after_update=[past])
    data, todo = Samples(x, y), ways(["karnin", "weight_change"], ["least_squares"])
    curves = compare(model, data, data, todo, keep="2", steps=2, seeds=(3, 4), trajectory=past)
    assert [(c.way.criterion, c.seed) for c in curves] == [
        ("karnin", 3), ("weight_change", 3), ("karnin", 4), ("weight_change", 4),
    ]  # fmt: skip
    assert past.model is model
    assert compare(model, data, data, todo, steps=2, seeds=1) == []


def test_runs_elsewhere_and_shares_give_the_curves_of_one_process(tmp_path, monkeypatch, caplog):
    torch.manual_seed(1)
    x, y = torch.randn(200, 5), torch.randint(0, 3, (200,))
    model = hand.mlp(5, 8, 3, act=nn.Tanh)
    past = Trajectory(model)
    train(model, (x, y), Recipe(epochs=2, batch_size=20), after_update=[past])
    data = Samples(x, y)
    todo = [*ways(["karnin", "taylor1", "random", "wanda"], [None], [1]), Way("karnin", "mean", 0)]
    given = {"keep": "2", "steps": 2, "seeds": (3, 4), "trajectory": past}
    plain = compare(model, data, data, todo, **given)
    assert [(c.way, c.seed) for c in plain] == [
        (w, s) for s in (3, 4) for w in todo if w != todo[3]
    ]
    assert caplog.text.count("wanda is left out") == 1  # the criterion, not each way and seed
    monkeypatch.setitem(backends.RUNNERS, "loky", through_pickles)
    assert compare(model, data, data, todo, **given, workers=Workers(2)) == plain
    for shard in ("2/3", "3/3"):
        with pytest.raises(IncompleteError, match="Once every share has run"):
            compare(model, data, data, todo, **given, workers=Workers(shard=shard), folder=tmp_path)
    seen = []
    stored = compare(
        model, data, data, todo, **given, workers=Workers(shard="1/3"), folder=tmp_path,
        on_progress=lambda *words: seen.append(words),
    )  # fmt: skip
    assert stored == plain
    assert len(seen) == 2 * (1 + len(todo))
    # Results of another network, other samples or other settings are no results of this one.
    with torch.no_grad():
        model[0].bias[0] += 1
    for other in ({}, {"keep": "3"}, {"samples": 100}, {"loss": "half_squared_error"}):
        with pytest.raises(JournalError, match="other settings"):
            compare(model, data, data, todo, **given | other, folder=tmp_path)


def test_what_is_dead_stays_dead_through_retraining(monkeypatch):
    torch.manual_seed(2)
    x, y = torch.randn(200, 5), torch.randint(0, 3, (200,))
    model = hand.mlp(5, 8, 3, act=nn.Tanh)
    synapses, _ = find_synapses(model)
    mask = Mask.full([synapses]).without({synapses: torch.arange(0, synapses.size, 2)})
    mask.apply_(model)
    pruned = []
    monkeypatch.setattr(
        comparing, "prune", lambda *given, **named: pruned.extend(prune(*given, **named)) or pruned
    )
    compare(
        model, Samples(x, y), Samples(x, y), ways(["magnitude"], ["least_squares"], [1]),
        keep="4", steps=2, seeds=1, mask=mask,
    )  # fmt: skip
    assert [step.measured.units for step in pruned] == [8, 6, 4]
    for step in pruned:
        weight = step.network().get_parameter(synapses.parameter).flatten()
        assert not weight[::2].any()
        assert weight[1::2].any()
