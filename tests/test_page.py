"""The page as a file: self-contained, built from journals and networks."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import sentei
from commands import run
from page_arrays import unpacked
from sentei import JournalError, Probe, datasets, formats, training
from sentei.reporting.figures import write as write_figure
from sentei.reporting.gallery import gallery
from sentei.reporting.page import explain, of_journal, of_network, report
from sentei.reporting.page.base64_arrays import packed
from sentei.reporting.page.bundle import as_json, asset, policy, program
from sentei.reporting.page.document import document
from sentei.reporting.page.frames import frames
from sentei.reporting.page.story import words_for
from sentei.reporting.page.wording import criterion, measured_on, shortened

DATA = datasets.load("letter")


def pruned(folder, network=None, steps=3, inputs=False, **options):
    network = training.build("16-10-26:relu", seed=0) if network is None else network
    groups = sentei.find_units(network, DATA.train.inputs[:64], inputs=inputs)
    probe = Probe(network, DATA.train.first(300))
    propose = sentei.ranked("ablation", sentei.one_at_a_time())
    found = []
    for step in sentei.prune(network, groups, probe, propose, journal=folder,
                             evaluate=DATA.validation.first(500), **options):  # fmt: skip
        found.append(step)
        if step.number == steps:
            break
    return found


class Own(nn.Module):
    """A network with a forward() of its own, which cannot be stored as plain data."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 9), nn.Linear(9, 26)

    def forward(self, x):
        return self.two(self.one(x).relu() + 1)


def test_the_public_name_is_the_function():
    assert sentei.report is report
    assert sentei.report.__doc__.startswith("Write one HTML file")


def test_the_page_lets_nothing_else_in(tmp_path):
    pruned(tmp_path / "run")
    page = report(tmp_path / "run", tmp_path / "page.html", data=DATA).read_text()
    rules = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)[1]
    assert policy(style, script) == rules
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in rules
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", style + script)


def test_scripts_are_joined_after_what_they_need_and_names_do_not_collide():
    whole = program()
    assert not re.search(r"^(import|export) ", whole, re.MULTILINE)
    assert whole.index("const SVG") < whole.index("export function startGraph"[7:])
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", whole, re.MULTILINE)
    assert sorted(names) == sorted(set(names))
    # Markup never becomes elements but by name.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", whole)


def test_json_cannot_leave_its_element():
    text = as_json({"name": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--\u2028&"}


@pytest.mark.parametrize("dtype", ["f4", "f2", "i4", "i2", "u1"])
@pytest.mark.parametrize("sparse", [False, True])
def test_numbers_survive_packing(dtype, sparse):
    values = np.arange(1, 601).reshape(20, 30) % 200
    if sparse:
        values[values % 7 != 0] = 0
    form = packed(values, dtype)
    assert ("m" in form) is sparse
    assert (unpacked(form) == values).all()


def test_mnist_pages_stay_under_two_megabytes():
    network = training.build("784-300-100-10", seed=0)
    data = datasets.load("mnist")
    whole = document(of_network(network, data))
    assert len(as_json(whole)) + len(program()) + len(asset("page.css")) < 2_000_000
    assert whole["network"]["exact"] == [True]


def test_steps_share_weights_that_only_masks_changed(tmp_path):
    steps = pruned(tmp_path / "run", steps=4)
    held = frames(of_journal(tmp_path / "run"))
    assert len(held.packed) == 1
    assert held.exact == [True] * 5
    assert held.frame_of == [0] * 5
    first = unpacked(held.packed[0][0]["w"])
    assert (first == steps[0].network()[0].weight.detach().numpy()).all()


def test_what_does_not_fit_is_left_out_and_said(tmp_path, monkeypatch):
    pruned(tmp_path / "run", steps=2)
    story = of_journal(tmp_path / "run")
    monkeypatch.setattr("sentei.reporting.page.frames.ROOM", 1500)
    held = frames(story)
    assert held.dtypes == ["f2"]
    assert "half precision" in held.notes[0]
    assert not any(held.exact)
    monkeypatch.setattr("sentei.reporting.page.frames.ROOM", 100)
    whole = document(story)
    assert whole["network"] is None
    assert any("too large for the page" in note for note in whole["notes"])


def test_the_table_of_what_went_is_the_runs(tmp_path):
    steps = pruned(tmp_path / "run", steps=4)
    rows = document(of_journal(tmp_path / "run"))["removed"]
    (group,) = steps[1].removed
    went = [(s.number, int(u)) for s in steps[1:] for u in s.removed[group]]
    assert [(row["step"], row["unit"]) for row in rows] == went
    assert all(row["score"] is not None for row in rows)


def test_who_took_over_is_told(tmp_path):
    def half_each(probe, group, units, mask, alone=False):
        mix = torch.zeros(len(units), group.size + 1, dtype=torch.float64)
        alive = mask.alive(group).nonzero().flatten()
        mix[:, alive[0]], mix[:, alive[1]], mix[:, -1] = 0.75, -0.5, 0.25
        return dict.fromkeys(group.listeners, mix)

    network = training.build("16-6-26:relu", seed=0)
    groups = sentei.find_units(network, DATA.train.inputs[:64])
    propose = sentei.ranked("ablation", sentei.one_at_a_time(), repair=half_each)
    run_ = sentei.prune(network, groups, Probe(network, DATA.train.first(200)), propose,
                        journal=tmp_path / "run")  # fmt: skip
    _, step = next(run_), next(run_)
    (row,) = document(of_journal(tmp_path / "run"))["removed"]
    alive = step.mask.alive(groups[0]).nonzero().flatten().tolist()
    assert row["heirs"] == [[alive[0], 0.75], [alive[1], -0.5], [-1, 0.25]]
    held = frames(of_journal(tmp_path / "run"))
    assert len(held.packed) == 2  # weights moved into the survivors' columns
    assert held.exact == [True, True]


def test_giving_a_unit_back_is_measured(tmp_path):
    steps = pruned(tmp_path / "run", steps=1)
    story = of_journal(tmp_path / "run")
    gains = document(story)["gains"]
    (group,) = steps[1].removed
    (unit,) = steps[1].removed[group].tolist()
    assert story.samples is not None
    x, y = story.samples
    for row in gains:
        own = y == row["class"]
        with torch.no_grad():
            outputs = [step.network()(x[own]) for step in steps]
        lost = [nn.functional.cross_entropy(each, y[own]).item() for each in outputs]
        assert row["unit"] == unit
        assert row["fall"] == pytest.approx(lost[1] - lost[0], abs=1e-5)
        assert row["fall"] > 0


def test_an_interrupted_run_shows_what_there_is(tmp_path):
    pruned(tmp_path / "run", steps=4)
    step = tmp_path / "run" / "steps" / "00003.safetensors"
    step.write_bytes(step.read_bytes()[:40])
    whole = document(of_journal(tmp_path / "run"))
    assert len(whole["steps"]["loss"]) == 3
    assert any("Steps from 3 on" in note for note in whole["notes"])
    assert "Not all steps" in whole["lead"][-1]


def test_folders_without_a_run_are_refused(tmp_path):
    with pytest.raises(JournalError, match=r"run\.json cannot be read"):
        report(tmp_path, tmp_path / "page.html")
    pruned(tmp_path / "run", steps=1)
    for path in (tmp_path / "run" / "steps").iterdir():
        path.unlink()
    with pytest.raises(JournalError, match="no step yet"):
        report(tmp_path / "run", tmp_path / "page.html")
    (tmp_path / "run" / "start.safetensors").write_bytes(b"no")
    with pytest.raises(JournalError, match="untouched network cannot be read"):
        report(tmp_path / "run", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_class_of_ones_own_needs_a_model_of_it(tmp_path):
    torch.manual_seed(0)
    pruned(tmp_path / "run", Own(), steps=2)
    with pytest.raises(JournalError, match="model="):
        report(tmp_path / "run", tmp_path / "p.html")
    with pytest.raises(JournalError, match="does not fit"):
        report(tmp_path / "run", tmp_path / "p.html", model=nn.Linear(2, 2))
    whole = document(of_journal(tmp_path / "run", Own(), DATA))
    assert whole["network"] is None
    assert "Own" in whole["unrunnable"]
    assert len(whole["removed"]) == 2
    assert whole["title"] == "2 of 9 units removed from a network for letter"
    assert ["network", "Own"] in whole["run"]


def test_data_is_a_split_or_a_pair(tmp_path):
    pruned(tmp_path / "run", steps=1)
    with pytest.raises(TypeError, match="`data` must be a Split or"):
        report(tmp_path / "run", tmp_path / "p.html", data=7)
    pair = (DATA.test.inputs[:50], DATA.test.targets[:50])
    story = of_journal(tmp_path / "run", data=pair)
    assert torch.equal(story.samples.inputs, pair[0])
    assert of_journal(tmp_path / "run", data=DATA).samples.rows == 500


def test_a_journal_notes_names_once(tmp_path):
    pruned(tmp_path / "run", steps=1)
    from sentei.pruning.journal import note

    note(tmp_path / "run", words_for(DATA, "sentei prune 'a b'", 3))
    note(tmp_path / "run", {"command": "another"})
    whole = document(of_journal(tmp_path / "run"))
    assert whole["classes"][:2] == ["A", "B"]
    assert whole["input"]["features"][0] == "x-box"
    assert ["command", "sentei prune 'a b'"] in whole["run"]
    assert ["seed", "3"] in whole["run"]
    assert whole["title"].endswith(" for letter")


def test_no_time_is_said_to_be_won_where_none_is(tmp_path, monkeypatch):
    pruned(tmp_path / "run", steps=1)
    monkeypatch.setattr("sentei.reporting.page.network_facts.latency", lambda *_: 1e-5)
    said = " ".join(document(of_journal(tmp_path / "run"))["sentences"])
    assert "takes 10 µs after pruning and 10 µs before: hardly faster, although 10% of the" in said
    assert "A mask alone" in said


def test_regression_is_told_without_classes(tmp_path):
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    x = torch.rand(80, 4)
    path = explain(network, tmp_path / "p.html", (x, x.sum(1, keepdim=True)), "half_squared_error")
    data = re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    whole = json.loads(data)
    assert whole["classes"] == []
    assert whole["byClass"] is None
    assert whole["steps"]["accuracy"] == [None]


def test_figures_are_drawn_from_a_journal(tmp_path):
    pruned(tmp_path / "run", steps=4)
    found = gallery(of_journal(tmp_path / "run", data=DATA))
    assert set(found) == {"tradeoff", "sizes", "classes", "order", "agreement", "surfaces"}
    one, two = write_figure(found["tradeoff"], tmp_path / "t")
    assert one.read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in two.read_bytes()
    (line, *_) = found["tradeoff"].axes[0].get_lines()
    assert list(line.get_xdata()) == [10, 9, 8, 7, 6]


def test_commands_write_pages_and_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    formats.save(training.build("16-8-26", seed=0), "m.safetensors")
    code, out, _ = run("prune", "m.safetensors", "--data", "letter", "--units-at-most", 6,
                       "--samples", 200, "--report", "r.html", capsys=capsys)  # fmt: skip
    assert code == 0
    assert "Page: r.html" in out
    page = (tmp_path / "r.html").read_text()
    assert "sentei prune m.safetensors --data letter" in page
    assert '"x-box"' in page
    code, _, _ = run("explain", "small.safetensors", "--data", "letter", "--out", "e.html",
                     capsys=capsys)  # fmt: skip
    assert code == 0
    assert "A network for letter: 6 units" in (tmp_path / "e.html").read_text()
    run("prune", "m.safetensors", "--data", "letter", "--units-at-most", 6, "--samples", 200,
        "--journal", "j", capsys=capsys)  # fmt: skip
    code, _, _ = run("figures", "j", "--into", "f", capsys=capsys)
    assert code == 0
    assert (tmp_path / "f" / "tradeoff.svg").exists()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ((), "rises without it, once the unit most like it takes over (ablation-affine);"),
        (("--criterion", "ablation"), "rises without it (exact ablation);"),
        (("--criterion", "random"), "scored by random;"),
    ],
)
def test_the_page_has_the_numbers_that_the_command_prints(
    form, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    formats.save(training.build("16-8-26", seed=0), "m.safetensors")
    line = ["prune", "m.safetensors", "--data", "letter", "--units-at-most", 6, "--samples", 200]
    code, out, _ = run(*line, *form, "--report", "r.html", "--json", capsys=capsys)
    assert code == 0
    printed = json.loads(out)
    text = re.search(r'id="data">(.*?)</script>', (tmp_path / "r.html").read_text(), re.DOTALL)[1]
    whole = json.loads(text)
    assert whole["measuredOn"] == f"{DATA.validation.rows:,} validation samples"
    shown = {name: values for name, *values, _ in whole["sizes"]}
    on = f"on {DATA.test.rows:,} test samples"
    for name, key, times in (("units", "units", 1), ("synapses", "synapses", 1),
                             ("bytes on disk", "bytes", 1), (f"accuracy {on}", "accuracy", 1),
                             (f"loss {on}", "loss", 1), ("time for one input (µs)", "latency", 1e6),
                             ("time for 256 inputs (µs)", "batch_latency", 1e6)):  # fmt: skip
        want = [times * printed[end][key] for end in ("before", "after")]
        assert shown[name] == pytest.approx(want, rel=1e-12), name
    assert dict(whole["run"])["certificate"] == printed["certificate"]
    assert whole["criterion"] == (form[1] if form else "ablation-affine")
    assert words in " ".join(whole["lead"])


def test_accuracy_without_a_note_says_what_it_was_measured_on(tmp_path):
    pruned(tmp_path / "run", steps=1)
    assert measured_on(of_journal(tmp_path / "run")) == "500 samples"
    network = training.build("16-10-26:relu", seed=0)
    groups = sentei.find_units(network, DATA.train.inputs[:64])
    propose = sentei.ranked("ablation", sentei.one_at_a_time())
    probe = Probe(network, DATA.train.first(300))
    next(iter(sentei.prune(network, groups, probe, propose, journal=tmp_path / "same")))
    same = measured_on(of_journal(tmp_path / "same"))
    assert same == "300 samples, those that scores were measured on"


@pytest.mark.parametrize(
    ("propose", "short", "named"),
    [
        (
            sentei.ranked("ablation", sentei.one_at_a_time()),
            "ranked(criterion='ablation', schedule=one_at_a_time())",
            "ablation",
        ),
        (
            sentei.ranked("taylor1", sentei.linear("50 %", steps=4), at_least=2, lazy=False),
            "ranked(criterion='taylor1', schedule=linear('50 %', steps=4), at_least=2)",
            "taylor1",
        ),
        ("my_rule", "my_rule", None),
        ("<function <lambda>>", "<function <lambda>>", None),
        (None, "", None),
    ],
)
def test_proposals_are_told_without_what_is_so_by_default(propose, short, named):
    text = None if propose is None else str(propose)
    assert (shortened(text), criterion(text)) == (short, named)


def test_notebooks_show_steps_and_masks_as_text(tmp_path):
    step = pruned(tmp_path / "run", steps=1)[1]
    shown = step._repr_html_()
    assert "step 1" in shown
    assert "removed from fc1" in shown
    assert f"{step.measured.bytes:,}" in shown
    evil = sentei.Neurons("<b>", "neuron", 3)
    assert "&lt;b&gt;" in sentei.Mask.full([evil])._repr_html_()
    assert "3 of 3" in sentei.Mask.full([evil])._repr_html_()
