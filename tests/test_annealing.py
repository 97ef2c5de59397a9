"""The annealing paper's experiments, at a small size: what is kept and deleted, rows of claims."""

import math

import pytest
import torch

from sentei.datasets import load
from sentei.papers import distortion
from sentei.papers.annealing import best, judging, networks, selection
from sentei.papers.annealing.networks import VARIANTS, trained
from sentei.papers.claims import Report
from sentei.samples import Samples

TINY = {"epochs": 2, "images": 384}  # six updates; at 50 from one proposal to the next, none


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(networks, "EVERY", 1)


def test_the_poster_s_schedule_removes_half_a_percent_of_the_start_each_time(often):
    told = trained("annealed", 0, **TINY)
    dense = judging.DENSE_SYNAPSES
    for epoch, kept in enumerate(told["kept"], 1):
        assert kept == {name: size - 3 * epoch * math.floor(size * 0.005 + 0.5)
                        for name, size in dense.items()}  # fmt: skip
    assert told["parameters"] == 600_810
    assert set(told["died"]) == {"conv1", "conv2", "fc1"}


@pytest.mark.parametrize(("name", "share"), [("sparse-44", 0.44), ("sparse-10", 0.1)])
def test_a_network_that_is_sparse_from_the_start_exchanges_connections_and_loses_none(
    often, name, share
):
    chosen, samples = VARIANTS[name], load("mnist:full", flat=False).train.first(640)
    network = networks._network(chosen, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    pruner = networks.attached(network, chosen, optimizer, 5, samples, 0)
    alive = {group.name: pruner.mask.alive(group).clone() for group in pruner.groups}
    assert {name: int(of.sum()) for name, of in alive.items()} == {
        name: round(share * size) for name, size in judging.DENSE_SYNAPSES.items()
    }
    moved = []
    for start in range(0, 640, 128):
        inputs, targets = (part[start : start + 128] for part in samples)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        now = {group.name: pruner.mask.alive(group).clone() for group in pruner.groups}
        moved.append(sum(int((now[name] & ~was).sum()) for name, was in alive.items()))
        assert sum(int(of.sum()) for of in now.values()) == round(
            share * sum(judging.DENSE_SYNAPSES.values())
        )
        for group in pruner.groups:
            weight = network.get_parameter(group.parameter).flatten()
            assert not weight[pruner.mask.dead(group)].any()
        alive = now
    kept = round(share * sum(judging.DENSE_SYNAPSES.values()))
    assert moved == [round(0.225 * kept), round(0.075 * kept), 0, 0, 0]  # a cosine of 3 exchanges


def test_what_is_alive_from_the_start_is_drawn_by_seed():
    groups = [g for g in networks.find_synapses(networks._network(VARIANTS["sparse-10"], 0))
              if g.name == "fc2"]  # fmt: skip
    first, again, other = (networks._drawn(groups, 0.1, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first.count(groups[0]) == 128


def test_units_are_deleted_in_mid_training(often):
    told = trained("units", 0, **TINY)
    assert told["parameters"] < 600_810 * 0.5
    assert told["kept"][0]["conv2"] == told["kept"][1]["conv2"] == 24  # FSA ends halfway


def test_dropout_and_neither_prune_nothing_and_differ():
    dropout, neither = (trained(name, 0, **TINY) for name in ("dropout", "neither"))
    assert dropout["kept"] == neither["kept"] == []
    assert dropout["test"] != neither["test"]


def test_distorted_digits_stay_digits():
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 28, 28)
    images[:, :, 12:16, 12:16] = 1  # in the middle, where turning and stretching do little
    moved = distortion.distorted(images)
    assert moved.shape == images.shape
    assert moved.sum((1, 2, 3)).sub(16).abs().max() < 8
    rows = torch.arange(28.0) - 13.5
    centre = (moved.sum(3)[:, 0] @ rows) / moved.sum((1, 2, 3))
    assert 1.5 < centre.abs().max() <= distortion.SHIFT * (1 + distortion.SCALE) + 0.2
    assert centre.mean().abs() < 0.5
    centre = (distortion.distorted(images, 0.1).sum(3)[:, 0] @ rows) / 16
    assert centre.abs().max() < 0.5
    assert distortion.distorted(images, 0).sub(images).abs().max() < 1e-4


def test_every_epoch_sees_other_digits_and_a_seed_the_same_ones():
    samples = Samples(torch.rand(8, 1, 28, 28), torch.arange(8))
    first, again, second, other = (
        distortion.epoch_of(samples, *at).inputs for at in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_network_of_today_ends_with_a_quarter_of_its_synapses(monkeypatch):
    monkeypatch.setattr(best, "EVERY", 1)
    told = best.serious(0, 2, 640)
    assert told["kept"] == pytest.approx(told["synapses"] / 4, abs=3)
    assert len(told["test"]) == 2


def test_rows_come_of_results():
    plain = trained("neither", 0, **TINY)
    pruned = {**plain, "kept": [{"fc1": 259_536, "fc2": 608}], "died": {"fc1": 1}}
    runs = {name: [pruned if variant.propose else plain] * 2 for name, variant in VARIANTS.items()}
    timed = {"dropout": [2.0, 2.0], "annealed": [1.9, 1.95], "units": [1.5, 0.7], "hook": [0.077]}
    selected = {mu: [{"area": 1.0, "found": 9, "accuracy": 0.9}] * 2 for mu in selection.MUS}
    today = {"test": [[0.9961, 0.02]], "kept": 5, "synapses": 20}
    rows = judging.claims(runs, selected, timed, [today])
    table = Report("annealing", "title", "command", True, rows).markdown()
    assert len({row.claim for row in rows}) == len(rows) > 15
    assert rows[-1].verdict == "holds"
    assert "99.61 % (1 seed) with 5 of 20 synapses" in table
    slower = next(row for row in rows if "longer than dropout" in row.claim)
    assert slower.measured.startswith("-3.8 %")
    assert "2.0 %" in slower.remark
    deleted = next(row for row in rows if "instead of masking" in row.claim)
    assert deleted.measured.startswith("whole units, deleted: 0.55 of dropout's time, 0.57 of")
    shares = {row.claim: row for row in rows}
    start = next(row for row in rows if row.claim.startswith("44 % of the dense connections,"))
    assert start.verdict == "holds"  # equal
    assert "linear: +0.00 ± 0.00 points (2 pairs)" in start.measured
    assert shares["connections kept, annealing (ANN_A), linear"].measured.startswith("44.0 %")


def test_fewer_connections_are_as_good_unless_they_are_surely_worse():
    worse, better = (0.98, 0.981, 0.982), (0.99, 0.9911, 0.9922)
    runs = {
        name: [{"test": [[right, 0.1]]} for right in found]
        for name, found in {"worse": worse, "better": better}.items()
    }
    told = judging._difference(runs, "worse", "better")
    assert told.mean == pytest.approx(-0.0101)
    assert judging._no_worse(told) == "does not hold"
    assert judging._no_worse(judging._difference(runs, "better", "worse")) == "holds"
    one = {name: found[:1] for name, found in runs.items()}
    assert judging._no_worse(judging._difference(one, "worse", "better")) == "cannot be judged"
