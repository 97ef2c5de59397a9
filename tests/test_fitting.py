"""Fitting a budget: synapses dead at the start, paths, stops, and accuracy against bytes."""

import copy
import re

import pytest
import torch
from torch import nn

import sentei
from sentei import BudgetError, Mask, MemoryBudget, Probe, UnreachableError, datasets, training
from sentei.errors import IncompleteError, JournalError
from sentei.experiments.budgets import accuracy_at_budgets
from sentei.jobs import backends
from sentei.network.encoding.size import bytes_in, ram_in
from sentei.pruning import boards
from sentei.pruning.rules.proposals import lowest
from sentei.pruning.searching import paths_for, restricted
from sentei.reporting import figures, tables
from sentei.training import FineTune, Recipe
from some_jobs import through_pickles


@pytest.fixture(scope="module")
def letters():
    """Part of the Letter Recognition samples, and a small network trained on them."""
    whole = datasets.load("letter")
    parts = {name: getattr(whole, name).first(800) for name in ("train", "validation", "test")}
    split = copy.copy(whole)
    for name, part in parts.items():
        object.__setattr__(split, name, part)
    network = training.build("16-14-26:relu", seed=1)
    sentei.train(network, whole.train.first(3000), sentei.Recipe(epochs=4, lr=0.01))
    return network.eval(), split


def half_dead(network):
    """Return a copy whose smaller half of each layer's weights is dead, and its mask."""
    network = copy.deepcopy(network)
    links = sentei.find_synapses(network)
    scores = {g: network.get_parameter(g.parameter).detach().abs().flatten() for g in links}
    mask = Mask.full(links)
    for group in links:
        mask = mask.without(lowest(scores, mask, [group], group.size // 2))
    mask.apply_(network)
    return network, mask


# What is dead to begin with.


@pytest.mark.parametrize("offered", ["units", "synapses", "both"])
def test_what_is_dead_to_begin_with_stays_dead_and_counts_as_dead(letters, offered):
    network, data = letters
    network, mask = half_dead(network)
    units, links = sentei.find_units(network, data.train.inputs[:64]), sentei.find_synapses(network)
    groups = {"units": units, "synapses": links, "both": [*units, *links]}[offered]
    propose = sentei.ranked("magnitude", sentei.linear("50 %", 2))
    *_, step = steps = list(
        sentei.prune(
            network,
            groups,
            Probe(network, data.train),
            propose,
            retrain=sentei.FineTune(data.train),
            mask=mask,
        )
    )
    alive = sum(mask.count(group) for group in links)
    assert steps[0].measured.synapses == alive == (16 * 14 + 14 * 26) // 2
    trained = step.network()
    for group in links:
        weight = trained.get_parameter(group.parameter).detach().flatten()
        assert not weight[mask.dead(group)].count_nonzero()
        assert set(mask.dead(group).tolist()) <= set(step.mask.dead(group).tolist())
    if offered == "units":
        assert step.measured.units == 7  # half of them, though no synapse was offered
    if offered == "synapses":
        assert step.measured.synapses <= alive // 2  # half of those that were alive
    small = sentei.shrink(trained, step.mask, data.train.inputs[:64])
    left = step.mask.shrunk()
    assert sum(left.count(g) for g in sentei.find_synapses(small)) == step.measured.synapses


def test_a_run_from_a_mask_is_resumed_with_it(letters, tmp_path):
    network, data = letters
    network, mask = half_dead(network)
    start = copy.deepcopy(network.state_dict())

    def pruned(resume, keep):
        network.load_state_dict(start)
        units = sentei.find_units(network, data.train.inputs[:64])
        propose = sentei.ranked("magnitude", sentei.one_at_a_time())
        *_, step = sentei.prune(
            network,
            units,
            Probe(network, data.train),
            propose,
            until=sentei.units_at_most(keep),
            journal=tmp_path / "run",
            resume=resume,
            mask=mask,
        )
        return step

    pruned(resume=False, keep=10)
    resumed = pruned(resume=True, keep=8)
    again = tmp_path / "run"
    again.rename(tmp_path / "other")
    whole = pruned(resume=False, keep=8)
    assert resumed.mask == whole.mask
    assert resumed.measured == whole.measured
    page = sentei.report(tmp_path / "run", tmp_path / "page.html")
    assert page.stat().st_size > 10_000


def test_a_refused_run_leaves_the_weights_of_the_dead(letters):
    network, data = letters
    network = copy.deepcopy(network)
    links = sentei.find_synapses(network)
    mask = Mask.full(links).without({links[0]: [0, 1]})
    before = network[0].weight.detach().clone()
    with pytest.raises(UnreachableError):
        sentei.prune(
            network,
            links,
            Probe(network, data.train),
            sentei.per_byte("c"),
            until=sentei.bytes_at_most(10, format="c"),
            mask=mask,
        )
    assert torch.equal(network[0].weight, before)


def test_the_smallest_network_is_found_whatever_is_dead(letters):
    """A kept unit need have no living synapse for the check of a budget to work."""
    network, data = letters
    network, mask = copy.deepcopy(network), Mask.full(sentei.find_synapses(letters[0]))
    first, second = mask.groups
    mask = mask.without({first: range(16), second: torch.arange(26) * 14})  # unit 0 has nothing
    groups = [*sentei.find_units(network, data.train.inputs[:64]), first, second]
    with pytest.raises(UnreachableError, match=r"with \d+ of RAM"):
        sentei.prune(
            network,
            groups,
            Probe(network, data.train),
            sentei.per_byte("c"),
            until=sentei.bytes_at_most(20, format="c"),
            mask=mask,
        )


# Paths and stops.


def test_stops_are_come_down_to_and_not_jumped_over(letters):
    network, data = letters
    network = copy.deepcopy(network)
    groups = [
        *sentei.find_units(network, data.train.inputs[:64]),
        *sentei.find_synapses(network),
    ]
    stops = (700, 600, 450)
    run = sentei.prune(
        network,
        groups,
        Probe(network, data.train),
        sentei.per_byte("c-int8", share=0.3, stops=stops),
        until=sentei.bytes_at_most(450, format="c-int8"),
    )
    sizes = [step.measured.bytes_in("c-int8") for step in run]
    for stop in stops:
        best = max(size for size in sizes if size <= stop)
        assert stop - best < 0.08 * stop  # a unit of 40 bytes at the most, mostly a synapse
    assert sizes == sorted(sizes, reverse=True)


def test_a_criterion_that_compensates_does_so_for_every_byte(letters):
    """The remaining synapses of the layer change, and its cost is measured with them."""
    network, data = letters
    losses = {}
    for name in ("magnitude", "obs"):
        worker = copy.deepcopy(network)
        room = MemoryBudget("c-int8", 500)
        learn = data.train.first(500)
        (found,) = sentei.search(worker, learn, room, paths=["synapses"], synapses=name)
        losses[name] = found.step.measured.loss
        after = found.step.network()
        for group in sentei.find_synapses(network):
            kept = found.step.mask.alive(group).reshape(group.shape)
            before, now = (each.get_parameter(group.parameter) for each in (network, after))
            changed = (before != now)[kept].any()
            assert bool(changed) == (name == "obs")
            assert not now[~kept].any()
    assert losses["obs"] < 0.9 * losses["magnitude"], losses


@pytest.mark.parametrize("path", ["units", "synapses", "both", "units:50"])
def test_each_path_removes_what_it_says(letters, path):
    network, data = letters
    (found,) = sentei.search(network, data.train, MemoryBudget("c-int8", 500), paths=[path])
    assert found.fits
    assert found.bytes <= 500
    mask = found.step.mask
    small = sentei.shrink(found.step.network(), mask, data.train.inputs[:64])
    left = mask.shrunk()
    dense = all(left.count(group) == group.size for group in sentei.find_synapses(small))
    units = found.step.measured.units
    assert dense == (path == "units")
    if path == "units:50":
        assert units <= 7
    assert found.bytes == bytes_in(small, left, "c-int8", data.train.inputs)
    assert found.ram == ram_in(small, left, "c-int8", data.train.inputs)


def test_the_most_accurate_that_fits_comes_first_and_nothing_is_changed(letters):
    network, data = letters
    before = copy.deepcopy(network.state_dict())
    said = []
    found = sentei.search(
        network,
        data.train,
        MemoryBudget("c-int8", 420),
        evaluate=data.validation,
        on_step=lambda path, step: said.append((path, step.number)),
    )
    assert [each.fits for each in found] == [True] * 4
    accuracies = [each.accuracy for each in found]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]
    assert {path for path, _ in said} == set(paths_for("c-int8"))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    for each in found:
        measured = Probe(each.step.network(), data.validation).accuracy()
        assert each.accuracy == pytest.approx(measured)
    judged = sentei.search(
        network,
        data.train,
        MemoryBudget("c-int8", 420),
        judge=lambda step: -float(step.measured.bytes_in("c-int8")),
    )
    assert judged[0].bytes == min(each.bytes for each in judged)


def test_ram_is_kept_to_as_well(letters):
    network, data = letters
    room = MemoryBudget("c", "2 KiB", ram=24)
    found = sentei.search(network, data.train, room)
    ways = {each.path: each for each in found}
    assert ways["both"].fits
    assert 0 < (ways["both"].ram or 0) <= 24
    assert ways["units"].fits
    assert not ways["synapses"].fits  # only units save RAM
    assert found[-1] is ways["synapses"]


def plain(found):
    """What a search found, without the objects of its steps."""
    return [
        (
            *(each.path, each.steps, each.fits, each.bytes, each.ram, each.accuracy),
            str(each.step.measured),
            [each.step.mask.dead(group).tolist() for group in each.step.mask.groups],
        )
        for each in found
    ]


def test_paths_elsewhere_and_shares_end_where_those_of_one_process_do(
    letters, tmp_path, monkeypatch
):
    network, data = letters
    room, paths = MemoryBudget("c-int8", 420), ["units", "units:50"]
    recipe = Recipe(epochs=1)
    given = {
        "evaluate": data.validation,
        "paths": paths,
        "keeping": sentei.accuracy_at_least(0.1),
        "retrain": lambda: FineTune(data.train.first(300), recipe),
    }
    alone = plain(sentei.search(network, data.train.first(300), room, **given))
    monkeypatch.setitem(backends.RUNNERS, "loky", through_pickles)
    elsewhere = {"journal": tmp_path / "two", "workers": sentei.Workers(2)}
    found = sentei.search(network, data.train.first(300), room, **given, **elsewhere)
    assert plain(found) == alone
    assert all(each.step.network() is not None for each in found)
    with pytest.raises(JournalError, match="already holds a search"):
        sentei.search(network, data.train.first(300), room, **given, **elsewhere)
    with pytest.raises(ValueError, match="journal="):
        sentei.search(network, data.train, room, workers=sentei.Workers(2))
    shares = [
        {"journal": tmp_path / "shares", "workers": sentei.Workers(shard=shard)}
        for shard in ("2/2", "1/2")
    ]
    with pytest.raises(IncompleteError, match="holds 1 of 2 results"):
        sentei.search(network, data.train.first(300), room, **given, **shares[0])
    assert plain(sentei.search(network, data.train.first(300), room, **given, **shares[1])) == alone


def test_paths_and_rooms_that_cannot_be_are_refused(letters):
    network, data = letters
    with pytest.raises(ValueError, match="Did you mean 'units'"):
        sentei.search(network, data.train, MemoryBudget("c", 400), paths=["unit"])
    with pytest.raises(ValueError, match="stays a zero"):
        paths_for("safetensors", ["both"])
    assert paths_for("onnx") == ["units"]
    with pytest.raises(ValueError, match="unknown path"):
        restricted("units:100", sentei.per_byte("c"))
    for bad in (0, -3, "7 parsecs"):
        with pytest.raises(BudgetError):
            MemoryBudget("c", bad)
        with pytest.raises(BudgetError):
            MemoryBudget("c", 10, ram=bad)
    with pytest.raises(ValueError, match="C format"):
        MemoryBudget("onnx", 10, ram=10)
    with pytest.raises(UnreachableError, match="c-int8-int8"):
        boards.board("arduino-uno").memory_budget("c-int8", 784)
    assert boards.board("arduino-uno").memory_budget("c-int8-int8", 784).ram == 2048 - 512 - 784


# Accuracy against bytes.


@pytest.fixture(scope="module")
def curves(letters):
    network, data = letters
    budgets = ["40 B", "300 B", "600 B", "2 KiB"]
    return accuracy_at_budgets(network, data, budgets, paths=["units", "both"], samples=400)


def test_a_curve_knows_what_fits_and_what_does_not(curves):
    assert len(curves) == 4
    for curve in curves:
        assert [point.budget for point in curve.points] == [2048, 600, 300, 40]
        assert not curve.points[-1].fits
        assert curve.points[-1].bytes > 40
        for point in curve.points:
            assert point.fits == (point.bytes <= point.budget)
        accuracies = [point.validation for point in curve.points if point.fits]
        # Whatever fits a small budget fits a large one.
        assert accuracies == sorted(accuracies, reverse=True)
    int8 = {curve.path: curve for curve in curves if curve.format == "c-int8"}
    assert int8["both"].points[1].validation >= int8["units"].points[1].validation
    assert int8["units"].untouched.bytes < 2048
    assert int8["units"].points[0].test == int8["units"].untouched.test


def test_a_curve_is_drawn_and_listed(curves, tmp_path):
    figure, axes = figures.canvas()
    figures.budget_curves(axes, curves)
    assert len(figure.legends[0].get_texts()) == 5
    assert "cannot meet the budget" in axes.get_title(loc="left")
    drawn = figures.write(figure, tmp_path / "curve")
    assert drawn[0].stat().st_size > 10_000
    table = tables.budgets(curves)
    cells = list(table.columns[3].cells)
    assert sum("not met" in cell for cell in cells) == 4
    assert len(cells) == 2 + 4 * 4


def test_curves_need_budgets_and_classes(letters):
    network, data = letters
    with pytest.raises(BudgetError, match="8KiB"):
        accuracy_at_budgets(network, data, [])
    with pytest.raises(ValueError, match="Did you mean 'c-int8'"):
        accuracy_at_budgets(network, data, [500], formats=["c-int9"])
    with pytest.raises(ValueError, match="unknown path"):
        accuracy_at_budgets(network, data, [500], paths=["unites"])


# The precision of the emitted code.


def test_long_rows_behind_convolutions_are_added_in_parts(tmp_path):
    from sentei.formats.c.compiled import Compiled, compiler

    if compiler() is None:
        pytest.skip("no C compiler on this machine")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Flatten(), nn.Linear(8 * 256, 4)).eval()
    x = torch.rand(200, 1, 16, 16)
    sentei.export(network, tmp_path / "net.c", example=x)
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(x.double())
    whole = (tmp_path / "net.c").read_text()
    off = (Compiled(tmp_path / "net.c")(x) - exact).square().mean().sqrt()
    plain, count = re.subn(r" if \(!\(\+\+n & 31\)\) \{[^}]*\}", " (void)n;", whole)
    assert count == 1
    (tmp_path / "net.c").write_text(plain)
    one_sum = (Compiled(tmp_path / "net.c")(x) - exact).square().mean().sqrt()
    assert off < 0.6 * one_sum
