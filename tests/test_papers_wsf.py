"""The wsf reproduction: its arithmetic against values by hand, and its experiments, small."""

import pytest
import torch
from torch import nn

from sentei import Mask, Probe, find_synapses
from sentei.papers import Order
from sentei.papers.wsf import (
    claims,
    few,
    figures,
    jobs,
    ladder,
    parts,
    paths,
    procedure,
    sentences,
    small,
    together,
)
from sentei.training.models import mlp


def test_path_strengths_and_colours_by_hand():
    edges = [
        [[0, 3, 2.0], [0, 5, -1.0], [1, 3, 4.0], [2, 8, 9.0]],  # unit 2 is read by nobody
        [[7, 0, 0.5], [9, 0, -3.0], [7, 1, 1.0], [4, 6, 1.0]],  # unit 6 hears nothing
    ]
    first, second = paths.network_of(edges)
    assert sorted(first) == [(0, 3), (0, 5), (1, 3)]
    assert sorted(second) == [(7, 0), (7, 1), (9, 0)]
    assert paths.strengths(first, second) == {
        (7, 3): 2 * 0.5 + 4 * 1,
        (7, 5): -0.5,
        (9, 3): -6,
        (9, 5): 3,
    }
    assert paths.speaks_for(first, second) == {(0, 3): 9, (0, 5): 9, (1, 3): 7}


def test_structure_counts_what_lies_on_a_path():
    network = mlp("5-4-3", "relu")
    first, second = find_synapses(network)
    # Input 0 to unit 0 to output 2; unit 1 hears but is not read; unit 2 is read but deaf.
    alive = {first: [0, 1 * 5 + 3], second: [2 * 4 + 0, 1 * 4 + 2]}
    doomed = {g: [i for i in range(g.size) if i not in kept] for g, kept in alive.items()}
    assert parts.structure(Mask.full([first, second]).without(doomed)) == [1, 1, 1]
    assert parts.structure(Mask.full([first, second])) == [5, 4, 3]


def test_flow_gives_both_layers_the_same_whole_and_dead_paths_nothing():
    network = mlp("5-4-3", "relu")
    inputs = torch.randn(50, 5)
    network.get_parameter("fc1.weight").data[1] = 0  # unit 1 is deaf, so constant
    network.get_parameter("fc2.weight").data[:, 3] = 0  # unit 3 is unread
    probe = Probe(network, (inputs, torch.randint(0, 3, (50,))))
    one, two = (ladder.Flow(inputs)(probe, group) for group in find_synapses(network))
    assert one.sum() == pytest.approx(two.sum().item())
    assert (one.view(4, 5)[[1, 3]] == 0).all()
    assert (two.view(3, 4)[:, [1, 3]] == 0).all()
    assert (one.view(4, 5)[[0, 2]] > 0).all()


def test_contribution_is_weight_times_what_it_reads():
    network = mlp("2-1-2", "relu")
    network.get_parameter("fc1.weight").data = torch.tensor([[3.0, -2.0]])
    nn.init.zeros_(network.get_parameter("fc1.bias"))
    inputs = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    probe = Probe(network, (inputs, torch.tensor([0, 1])))
    found = parts.Contribution(inputs)(probe, find_synapses(network)[0])
    assert found.tolist() == pytest.approx([3.0, 2 * 2**0.5])


def test_images_are_moved_by_one_pixel():
    split = parts.data(rows=8)
    inputs, targets = parts.shifted(8)
    assert inputs.shape == (16, 784)
    assert torch.equal(inputs[:8], split.train.inputs)
    down = split.train.inputs[0].view(28, 28)
    assert torch.equal(inputs[8].view(28, 28)[1:], down[:-1])
    assert torch.equal(targets[8:], split.train.targets)


def test_jobs_have_names_of_their_own_and_quick_ones_see_less():
    names = [job.name for job in jobs(5, quick=False)]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("compared") for name in names) == 20
    assert all(job.settings["rows"] <= 4000 for job in jobs(2, quick=True))
    with pytest.raises(ValueError, match="cannot rise"):
        small.attempt(0, 20_000, rows=400, epochs=1, teacher=None)


def test_rules_in_words():
    rule = {"inputs": [29, 0, 57], "strengths": [2.0, -1.0, 0.5]}
    found = {**rule, "all": 9, "whole": 0.9, "alone": 0.85}
    assert sentences.in_words({"rules-0": {"classes": [found]}}, most=1) == (
        "- **0**: ink at (1, 1) and none at (0, 0), and 1 more: 3 of 9 inputs, balanced accuracy "
        "85.0% (all inputs 90.0%).\n"
    )


def test_small_experiments_end_in_claims_and_figures(tmp_path):
    results = {
        "hypothesis-0": procedure.hypothesis(0, rows=400),
        "process-close-0": procedure.process(0, 0.2, True, steps=3, rows=400),
        **{
            f"compared-{name}-0": procedure.compared(0, name, keep=100, steps=5, rows=400)
            for name in ("wsf", "magnitude", "karnin", "random")
        },
        "ladder-0": ladder.descended(0, [500, 38], 1, rows=400),
        "rules-0": ladder.rules(0, 500, 2, rows=400),
        "attempt-00-0": small.attempt(0, rows=400, epochs=2, teacher=None),
        "together": together.sought([0, 1], 1259, 4, copies=1, taught=1, rows=600),
        "activation-tanh": together.sought([0], 1259, 4, "tanh", copies=1, taught=1, rows=600),
        "lists": few.without(rows=600),
        "few-0": few.few(0, [110, 38], 6, 2, rows=600),
    }
    assert results["attempt-00-0"]["synapses"] == 1259
    assert results["hypothesis-0"]["still"] >= results["hypothesis-0"]["unlit"] > 0.08
    assert [rung["synapses"] for rung in results["ladder-0"]["rungs"]] == [500, 38]
    assert [run["layers"] for run in results["together"]["runs"]] == [{"fc1": 1059, "fc2": 200}] * 2
    assert [rung["synapses"] for rung in results["few-0"]["rungs"]] == [110, 38]
    assert all(found["inputs"] for found in results["rules-0"]["classes"])
    assert sentences.in_words(results).count("balanced accuracy") == 10
    rows = claims.judged(results, quick=False)
    by_name = {row.claim: row for row in rows}
    assert by_name["a fully connected [784,20,10] has 15,880 synapses"].verdict == "holds"
    assert "fewest synapses at 97% of validation" in by_name
    assert "1,259 synapses, trained briefly, with tanh" in by_name
    assert sentences.tables(results)["lists"].splitlines()[-1].count("otherwise: **") == 1
    assert all(row.measured for row in rows)
    figures.draw(Order(tmp_path), results)
    drawn = sorted(path.stem for path in (tmp_path / "figures").glob("*.png"))
    assert drawn == ["compared", "graph", "histogram", "ladder", "process", "rules"]
