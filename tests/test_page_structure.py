"""The page of networks that it cannot run: layers that are tied, what is left, where heads look."""

import json
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei
from browser import NEEDED, chromium
from page_arrays import unpacked
from sentei import Probe
from sentei.reporting.page import evidence, of_journal, of_network, report
from sentei.reporting.page.document import document
from sentei.reporting.page.structure import SIDE, attention, structure


class Residual(nn.Module):
    """A stream of 6 channels that two convolutions write, one block inside, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.norm(self.inner(x)).relu())
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Two heads over 5 positions, by torch's module or by scaled_dot_product_attention."""

    def __init__(self, packed):
        super().__init__()
        self.count = 2
        self.read = nn.Linear(3, 8)
        self.packed = nn.MultiheadAttention(8, 2, batch_first=True) if packed else None
        if not packed:
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def heads(self, x):
        """Return the query and the key of each head, (samples, heads, positions, width)."""
        if self.packed is not None:
            q, k, _ = F.linear(x, self.packed.in_proj_weight, self.packed.in_proj_bias).chunk(3, -1)
        else:
            q, k = self.q(x), self.k(x)
        return (each.unflatten(-1, (self.count, 4)).transpose(1, 2) for each in (q, k))

    def forward(self, x):
        x = self.read(x)
        if self.packed is not None:
            mixed = self.packed(x, x, x, need_weights=False)[0]
        else:
            q, k = self.heads(x)
            v = self.v(x).unflatten(-1, (self.count, 4)).transpose(1, 2)
            mixed = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + mixed).mean(1))


def pruned(folder, network, inputs, steps=2):
    """Prune a network in two steps, group by group, into a folder."""
    torch.manual_seed(0)
    data = inputs, torch.arange(len(inputs)) % 3
    groups = sentei.find_units(network, inputs[:4])
    propose = sentei.ranked("magnitude", sentei.linear("50 %", steps=steps), within="group")
    for _ in sentei.prune(network, groups, Probe(network, data), propose, journal=folder):
        pass
    return groups


@pytest.fixture
def residual(tmp_path):
    torch.manual_seed(0)
    groups = pruned(tmp_path / "run", Residual(), torch.rand(40, 1, 6, 6))
    return tmp_path / "run", groups


def test_layers_of_a_group_are_those_that_compute_pass_on_and_read_its_units(residual):
    folder, groups = residual
    found = structure(of_journal(folder, Residual()))
    assert found["layers"] == ["stem", "inner", "norm", "outer", "head"]
    named = {
        groups[row["group"]].name: [[found["layers"][at] for at in row[role]]
                                    for role in ("computed", "passed", "read")]
        for row in found["rows"]
    }  # fmt: skip
    assert named == {
        "stem": [["stem", "outer"], [], ["inner", "head"]],
        "inner": [["inner"], ["norm"], ["outer"]],
    }
    assert found["parameters"] == sum(p.numel() for p in Residual().parameters())
    # All but one of the 4 inner units: a row of `inner`, its bias, two of the norm, a column.
    (inner,) = [row for row in found["rows"] if groups[row["group"]].name == "inner"]
    assert inner["parameters"] == 3 * (6 * 9 + 1 + 2 + 6 * 9)
    network = of_journal(folder, Residual()).start
    weight = network.inner.weight.detach()
    want = sentei.criteria.scores("magnitude", Probe(network, (torch.rand(4, 1, 6, 6),
                                  torch.arange(4) % 3)), groups[inner["group"]])  # fmt: skip
    assert unpacked(inner["scores"]) == pytest.approx(want.numpy(), rel=1e-5)
    assert len(weight) == 4


@pytest.mark.parametrize("packed", [True, False])
def test_attention_maps_are_the_softmax_of_queries_and_keys(packed):
    torch.manual_seed(0)
    network, x = Attention(packed).eval(), torch.rand(12, 5, 3)
    story = of_network(network, (x, torch.arange(12) % 3))
    (maps,) = attention(story).values()
    q, k = network.heads(network.read(x))
    want = (q @ k.transpose(-2, -1) / 2).softmax(-1).mean(0)
    want = 255 * want / want.amax((1, 2), keepdim=True)
    assert maps["n"] == [2, 5, 5]
    assert abs(unpacked(maps) - want.detach().numpy()).max() <= 0.51


def test_attention_over_many_positions_is_reduced():
    torch.manual_seed(0)
    story = of_network(Attention(packed=False), (torch.rand(6, 90, 3), torch.arange(6) % 3))
    (maps,) = attention(story).values()
    assert maps["n"] == [2, SIDE, SIDE]


def test_a_page_measures_no_more_than_a_reader_would_wait_for(monkeypatch):
    torch.manual_seed(0)
    data = torch.rand(60, 1, 6, 6), torch.arange(60) % 3
    story = of_network(Residual(), data)
    network, units = story.start, 10
    each = units * sentei.network.encoding.size.multiply_adds(network, data[0][:1])
    found = partial(evidence.extent, story, is_chain=False)
    assert (found().rows, found().curves, found().notes) == (60, True, ())
    monkeypatch.setattr(evidence, "CURVES", 59 * each)
    assert (found().rows, found().curves) == (60, False)
    assert "second derivatives are left out" in found().notes[0]
    monkeypatch.setattr(evidence, "WORK", 40 * each)
    assert found().rows == 40
    monkeypatch.setattr(evidence, "WORK", 20 * each)
    assert found().rows == 0
    whole = document(story)
    assert (whole["agreements"], whole["surfaces"], whole["gains"]) == ({}, {}, [])
    assert any("ablation of 10 units takes too long" in note for note in whole["notes"])
    assert evidence.extent(story, is_chain=True).rows == 60


def test_a_group_without_gains_leaves_the_others_theirs(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
            self.up, self.down, self.head = nn.Linear(6, 5), nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.one(x)
            return self.head(self.norm(x + self.down(self.up(self.norm(x)).relu())))

    torch.manual_seed(0)
    story = of_network(Normed(), (torch.rand(40, 4), torch.arange(40) % 3))
    kinds = [group.kind for group in story.groups]
    assert sorted(kinds) == ["neuron", "stream"]
    whole = document(story)
    assert list(whole["agreements"]) == [0, 1]
    assert list(whole["surfaces"]) == [kinds.index("neuron")]
    assert not any("not compared" in note for note in whole["notes"])


@NEEDED
def test_bars_follow_the_steps_and_a_layer_says_what_it_ties(residual, tmp_path):
    folder, groups = residual
    story = of_journal(folder, Residual())
    with chromium() as page:
        page.open(report(folder, tmp_path / "page.html", model=Residual()))
        assert page.errors == []
        names = page.ask("[...document.querySelectorAll('.layers th button')].map(e=>e.innerText)")
        assert names == ["stem", "inner"]
        for step in (2, 1, 0):
            page.set("#step", step)
            mask = story.records[step].mask
            want = [
                f"{int(mask.alive(g).sum())} of {g.size}"
                for name in names for g in groups if g.name == name
            ]  # fmt: skip
            told = "[...document.querySelectorAll('.layers td:nth-child(2)')].map(e=>e.innerText)"
            assert page.ask(told) == want
        page.click(".layers tbody tr button")
        words = page.ask("document.querySelector('#tied').innerText")
        assert words == "stem, 6 channels: computed by stem, outer; read by inner, head."
        marks = [page.ask(f"document.querySelectorAll('.layers tr:first-child {mark}').length")
                 for mark in ("circle.fill-blue", "circle.reads")]  # fmt: skip
        assert marks == [2, 2]
        # A unit of a network that is not drawn is chosen from the table, and its history told.
        page.click("#removed td button")
        assert "It was removed in step 1." in page.ask("document.querySelector('#unit').innerText")


@NEEDED
def test_heads_are_drawn_and_faint_once_removed(tmp_path):
    torch.manual_seed(0)
    pruned(tmp_path / "run", Attention(packed=True), torch.rand(40, 5, 3), steps=1)
    path = report(tmp_path / "run", tmp_path / "page.html", model=Attention(packed=True))
    text = re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    assert len(json.loads(text)["structure"]["attention"]) == 1
    with chromium() as page:
        page.open(path)
        faint = "document.querySelectorAll('.heads canvas.dead').length"
        assert page.ask("document.querySelectorAll('.heads canvas').length") == 2
        assert page.ask(faint) == 1
        page.set("#step", 0)
        assert page.ask(faint) == 0
        assert page.errors == []


def test_a_page_that_cannot_run_the_network_holds_no_samples(residual):
    whole = document(of_journal(residual[0], Residual()))
    assert (whole["network"], whole["samples"]) == (None, None)
    assert whole["input"] == {"features": []}
    assert "it is a Residual" in whole["unrunnable"]
