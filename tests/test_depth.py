"""Residual branches and widths from the command line; branches in races and lazy rankings."""

import copy
import itertools
import json
import runpy

import pytest
import torch
from torch import nn

import sentei
from commands import run
from sentei.criteria import ablation
from sentei.errors import CriterionError
from sentei.network.units import Branches
from sentei.network.zeros import stand_ins
from sentei.pruning.rules.racing import race

SOURCE = """
import torch
from torch import nn


class Part(nn.Module):
    def __init__(self, ends):
        super().__init__()
        self.up, self.down, self.ends = nn.Linear(6, 5), nn.Linear(5, 6), ends

    def forward(self, x):
        return x + self.ends(self.down(self.up(x).relu()))


def network():
    torch.manual_seed(0)
    parts = [Part(nn.Identity()) for _ in range(3)]
    return nn.Sequential(nn.Linear(4, 6), *parts, Part(nn.Sigmoid()), nn.Linear(6, 3)).eval()
"""
GOES = ["--schedule", "one_shot", "--keep", "20 %"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A residual network of one's own in a file, and a table of data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(SOURCE)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 4, generator=generator), torch.arange(200) % 3
    rows = [f"{','.join(map(str, row.tolist()))},{'uvw'[c]}" for row, c in zip(x, y, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,d,y", *rows]))
    return "own.py:network"


BRANCHES = ["1.down", "2.down", "3.down"]
EACH = 6 * 5 + 5 + 5 * 6 + 6


def test_units_lists_branches_and_additions_that_are_refused(own, capsys):
    code, said, err = run("units", own, "--shape", 4, "--depth", capsys=capsys)
    assert (code, err) == (0, "")
    assert "Branches, each removed whole" in said
    assert all(name in said for name in BRANCHES)
    assert "what it adds to the stream is not zero" in " ".join(said.split())
    _, said, _ = run("units", own, "--shape", 4, "--depth", "--json", capsys=capsys)
    found = json.loads(said)
    group = found["groups"][-1]
    assert group.pop("share") == pytest.approx(3 * EACH / found["parameters"])
    assert group == {
        "name": "branches",
        "kind": "branch",
        "units": 3,
        "least": 0,
        "branches": [{"name": name, "parameters": EACH} for name in BRANCHES],
        "parameters": 3 * EACH,
    }
    assert found["not_offered"][-1]["parameter"] == "4.down.weight"
    _, said, _ = run("units", own, "--shape", 4, "--json", capsys=capsys)
    assert json.loads(said)["groups"] == found["groups"][:-1]


def test_rank_scores_branches_by_name(own, capsys):
    words = ["rank", own, "--data", "data.csv", "--depth", "--criterion", "magnitude"]
    code, said, _ = run(*words, capsys=capsys)
    assert code == 0
    assert "branches: 3 branches by magnitude" in said
    assert all(name in said for name in BRANCHES)
    _, said, _ = run(*words, "--json", capsys=capsys)
    found = json.loads(said)
    assert found["branches"] == {"branches": BRANCHES}
    assert len(found["scores"]["branches"]) == 3


def test_prune_removes_units_and_branches_together(own, tmp_path, capsys):
    words = ["prune", own, "--data", "data.csv", *GOES, "--depth", "--report", "page.html"]
    code, said, err = run(*words, "--out", "small.safetensors", "--json", capsys=capsys)
    assert code == 0, err
    found = json.loads(said)
    assert found["after"]["parameters"] < found["before"]["parameters"]
    assert (tmp_path / "page.html").stat().st_size > 1000
    into = runpy.run_path("own.py")["network"]()
    small = sentei.load(tmp_path / "small.safetensors", into=into)
    gone = stand_ins(small)
    assert gone
    assert small(torch.zeros(1, 4)).isfinite().all()
    code, said, _ = run("info", "small.safetensors", capsys=capsys)
    assert code == 0


@pytest.mark.parametrize(
    "options", ["--synapses --depth", "--twins 3 --depth", "--budget 1KiB --depth"]
)
def test_depth_is_refused_beside_what_ignores_it(own, options, capsys):
    code, said, err = run("prune", own, *options.split(), capsys=capsys)
    assert (code, said) == (2, "")
    assert "--depth" in err


# Races.


class Residual(nn.Module):
    """Many branches, of which three are small."""

    def __init__(self, count=12):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 8)) for _ in range(count)
        )
        self.head = nn.Linear(8, 3)
        for at, part in enumerate(self.parts):
            part[2].weight.data *= 0.01 if at in (2, 5, 9) else 1.0 + at / 20

    def forward(self, x):
        x = self.stem(x)
        for part in self.parts:
            x = x + part(x)
        return self.head(x)


@pytest.fixture
def racing():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2000, 6)
    probe = sentei.Probe(model, (x, model(x).argmax(1)))
    groups = sentei.find_units(model, x[:2], depth=True)
    return model, groups, probe


@pytest.mark.parametrize("how", ["racing", "lazy"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_race_removes_the_branches_that_exact_ablation_removes(racing, how, alone):
    model, groups, probe = racing
    groups = groups[-1:] if alone else groups
    schedule = sentei.one_shot("75 %") if how == "racing" else sentei.one_at_a_time()
    masks = []
    for options in ({}, {how: True}):
        own = copy.deepcopy(model)
        probe = sentei.Probe(own, (probe.samples.inputs, probe.samples.targets))
        propose = sentei.ranked("ablation", schedule, **options)
        steps = sentei.prune(own, groups, probe, propose)
        masks.append([step.mask for step in itertools.islice(steps, 4)])
    assert masks[0] == masks[1]
    gone = sum(len(masks[1][-1].dead(group)) for group in groups)
    assert gone >= {"racing": sum(g.size for g in groups) // 4, "lazy": 3}[how]


def test_a_race_measures_exactly_what_goes_and_fewer_than_all(racing):
    _, groups, probe = racing
    branches = groups[-1]
    assert isinstance(branches, Branches)
    exact = ablation(probe, branches)
    lowest = exact.argsort()[:3]
    full = sentei.Mask.full([branches])
    found = race(probe, [([branches], 3)], full, {branches: 0}, seed=1)
    assert torch.equal(found.scores[branches].argsort()[:3], lowest)
    assert torch.allclose(found.scores[branches][lowest], exact[lowest], atol=1e-9)
    assert 0 < found.evaluations < branches.size * 2000
    dead = full.without({branches: [5]})
    found = race(probe, [([branches], 2)], dead, {branches: 0}, seed=1)
    assert found.scores[branches][5] == 0


def test_a_race_still_refuses_synapses(racing):
    model, _, probe = racing
    propose = sentei.ranked("ablation", sentei.one_shot("50 %"), racing=True)
    with pytest.raises((CriterionError, sentei.GroupError), match="synapses"):
        list(sentei.prune(model, sentei.find_synapses(model), probe, propose))


# What each group keeps, from the command line.


def sizes(tmp_path, own, capsys, *options):
    """Return how many units each of the four inner layers keeps after half of all went."""
    words = ["prune", own, "--data", "data.csv", "--schedule", "one_shot", "--keep", "50 %"]
    words += ["--criterion", "magnitude", "--out", "small.safetensors", "--quiet", *options]
    code, _, err = run(*words, capsys=capsys)
    assert code == 0, err
    into = runpy.run_path("own.py")["network"]()
    small = sentei.load(tmp_path / "small.safetensors", into=into)
    return [part.up.out_features for part in small[1:5]]


def test_groups_stay_alike_and_keep_their_share(own, tmp_path, capsys):
    plain = sizes(tmp_path, own, capsys)
    assert len(set(plain)) > 1
    alike = sizes(tmp_path, own, capsys, "--alike", "*.up")
    assert len(set(alike)) == 1
    assert sum(alike) <= 12
    pairs = sizes(tmp_path, own, capsys, "--alike", "[12].up", "--alike", "[34].up")
    assert (pairs[0], pairs[2]) == (pairs[1], pairs[3])
    held = sizes(tmp_path, own, capsys, "--keep-of", "2.up=100 %", "--keep-of", "3.up=4")
    assert (held[1], held[2] >= 4) == (5, True)
    even = sizes(tmp_path, own, capsys, "--multiples-of", 2)
    assert all(size in (2, 4, 5) for size in even)  # a group that loses nothing has five
    assert min(sizes(tmp_path, own, capsys, "--at-least", 2)) >= 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep-of", "2.up"], "--keep-of takes a pattern"),
        (["--keep-of", "=3"], "--keep-of takes a pattern"),
        (["--keep-of", "2.up=lots"], "lots"),
        (["--keep-of", "nothing.*=3"], "nothing.*"),
        (["--alike", "nothing.*"], "nothing.*"),
        (["--at-least", "-1"], "--at-least"),
        (["--multiples-of", "0"], "--multiples-of"),
    ],
)
def test_widths_that_cannot_be_are_refused(own, options, said, capsys):
    words = ["prune", own, "--data", "data.csv", *GOES, *options]
    code, out, err = run(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert said in err
