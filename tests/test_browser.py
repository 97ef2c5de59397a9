"""The page in a real browser: opening, drawing, choosing, and outputs equal to PyTorch's."""

import json
import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

import sentei
from browser import NEEDED, chromium
from sentei import Probe, Recipe, datasets, formats, training
from sentei.reporting.page import explain, of_network, report, write
from sentei.reporting.page.base64_arrays import packed
from sentei.reporting.page.bundle import asset, joined
from sentei.samples import Samples

pytestmark = NEEDED

CLOSE = 1e-4


@pytest.fixture(scope="module")
def page():
    with chromium() as found:
        yield found


@pytest.fixture(autouse=True)
def quiet(page):
    """Check after every test that no error was logged and no request left the file."""
    page.errors.clear()
    page.requests.clear()
    yield
    assert page.errors == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)


def digits(rows=400):
    split = datasets.load("mnist", flat=True)
    small = {part: getattr(split, part).first(rows) for part in ("train", "validation", "test")}
    return sentei.Split("mnist", **small, features=split.features, classes=split.classes)


def pruned(network, data, folder, steps, retrain=None, synapses=False):
    """Prune for a few steps into a journal, and return the steps."""
    groups = sentei.find_units(network, data.train.inputs[:64])
    propose = sentei.ranked("ablation", sentei.one_at_a_time())
    if synapses:
        groups = sentei.find_synapses(network)
        propose = sentei.ranked("magnitude", sentei.geometric(100, steps))
    found = []
    probe = Probe(network, data.train)
    held = {"evaluate": data.validation, "journal": folder, "retrain": retrain}
    for step in sentei.prune(network, groups, probe, propose, **held):
        found.append(step)
        if step.number == steps:
            break
    return found


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """Prune a digit network; return its steps, its data and the path of its page."""
    home, data = tmp_path_factory.mktemp("mnist"), digits()
    network = training.build("784-16-10", seed=1)
    training.train(network, data.train, Recipe(epochs=4, optimizer="adam", lr=0.01))
    steps = pruned(network, data, home / "run", 5)
    return steps, data, report(home / "run", home / "page.html", data=data)


def outputs(page, which="outputs"):
    return torch.tensor(json.loads(page.ask(f"document.querySelector('#answer').dataset.{which}")))


def shown(page):
    """Count the samples that the page offers."""
    return page.ask("document.querySelectorAll('#strip button, #sample option').length")


def offered(data, count):
    """Return the rows of the samples that the page offers: one of each class in turn."""
    rows, turn = [], 0
    targets = data.targets.tolist()
    places = {c: [i for i, t in enumerate(targets) if t == c] for c in sorted(set(targets))}
    while len(rows) < count:
        rows += [places[c][turn] for c in places if turn < len(places[c])]
        turn += 1
    return rows[:count]


def test_outputs_are_pytorchs_at_every_step_and_beside_the_untouched_network(page, mnist):
    steps, data, path = mnist
    page.open(path)
    rows = offered(data.validation, shown(page))
    for step in steps:
        page.set("#step", step.number)
        for place in (0, 7, 23):
            page.click(f"#strip button:nth-child({place + 1})")
            image = data.validation.inputs[[rows[place]]]
            with torch.no_grad():
                want, first = step.network()(image)[0], steps[0].network()(image)[0]
            assert (outputs(page) - want).abs().max() < CLOSE
            assert (outputs(page, "before") - first).abs().max() < CLOSE


def test_the_slider_moves_everything(page, mnist):
    steps, _, path = mnist
    page.open(path)
    for number in (5, 2, 0):
        page.set("#step", number)
        measured = steps[number].measured
        assert f"Step {number} of 5" in page.ask("document.querySelector('#stepper').innerText")
        assert f"{measured.units}" in page.ask("document.querySelector('#step-said').innerText")
        assert f"{measured.synapses:,}" in page.ask("document.querySelector('#sizes').innerText")
        dead = page.ask("document.querySelectorAll('#graph .node.dead').length")
        assert dead == 16 - measured.units
        later = page.ask("document.querySelectorAll('#removed tr.later').length")
        assert later == 5 - number
    right = page.ask("document.querySelector('#classes .value').innerText")
    assert right.startswith(f"{100 * accuracy_of_class(steps[0], 0):.1f}%")


def accuracy_of_class(step, number):
    right, total = step.measured.by_class[number].tolist()
    return right / total


def test_the_arrow_keys_move_the_slider_too(page, mnist):
    page.open(mnist[2])
    page.ask("document.querySelector('#step').focus()")
    page.key("ArrowLeft")
    assert page.ask("document.querySelector('#stepper label').innerText") == "Step 4 of 5"


def test_a_class_lights_the_paths_that_reach_it(page, mnist):
    steps, _, path = mnist
    page.open(path)
    page.click('#graph [data-node="2:3"]')
    words = page.ask("document.querySelector('#paths').innerText")
    assert f"3 is reached from 784 of 784 inputs and {steps[-1].measured.units} of 16" in words
    network = steps[-1].network()
    spoken = network[2].weight.detach()[3]  # the network is fc1, act1, fc2
    loudest = int(spoken.abs().argmax())
    assert f"unit {loudest} ({'+' if spoken[loudest] > 0 else '−'}" in words
    assert page.ask("document.querySelector('#class').value") == "3"
    lit = page.ask("[...document.querySelectorAll('.output[aria-pressed=true]')].length")
    assert lit == 1
    page.click('#graph [data-node="2:3"]')
    assert page.ask("document.querySelector('#class').value") == ""


def test_the_number_of_synapses_drawn_is_said_and_adjustable(page, mnist):
    page.open(mnist[2])
    total = mnist[0][-1].measured.synapses
    for place in (10, 100):
        page.set("#cap", place)
        drawn = page.ask("Number(document.querySelector('#graph').dataset.drawn)")
        said = page.ask("document.querySelector('#cap-said').value")
        wanted = min(round(10 ** (1 + place / 25)), total)
        assert drawn == wanted
        assert said == (f"{drawn} strongest of {total:,}" if drawn < total else f"all {total:,}")


def test_a_unit_shows_its_history_and_its_error_surface(page, mnist):
    steps, _, path = mnist
    page.open(path)
    (gone,) = next(iter(steps[2].removed.values())).tolist()
    page.click(f'#graph [data-node="1:{gone}"]')
    page.until("document.querySelector('#surface svg') !== null")
    words = page.ask("document.querySelector('#unit').innerText")
    assert f"Unit {gone} of fc1" in words
    assert "It was removed in step 2." in words
    assert "Removing it alone changes the loss by" in words
    assert page.ask("document.querySelectorAll('#removed tr.chosen').length") == 1
    assert page.ask("document.querySelectorAll('#surface polyline').length") == 3


def test_units_are_reached_by_keyboard(page, mnist):
    page.open(mnist[2])
    assert page.ask("document.querySelectorAll('#graph .node[tabindex=\"0\"]').length") == 1
    page.ask("document.querySelector('#graph .node[tabindex=\"0\"]').focus()")
    before = page.ask("document.activeElement.dataset.node")
    page.key("ArrowDown")
    after = page.ask("document.activeElement.dataset.node")
    page.key("ArrowUp")
    assert before != after or page.ask("document.activeElement.dataset.node") != after


def stroke(box, points):
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]


def test_a_drawn_digit_is_answered_live_and_cleared_by_keyboard(page, mnist):
    page.open(mnist[2])
    box = page.box("#board")
    before = outputs(page)
    page.drag(stroke(box, [(0.5, 0.15), (0.52, 0.3), (0.5, 0.5), (0.49, 0.7), (0.5, 0.85)]))
    assert not torch.equal(outputs(page), before)
    chosen = "document.querySelectorAll('#strip [aria-pressed=true]').length"
    assert page.ask(chosen) == 0
    assert page.ask("document.querySelector('[data-mode=sent]').ariaPressed") == "true"
    page.ask("document.querySelector('#board').focus()")
    page.key("Delete")
    assert page.ask("document.querySelector('#answer').innerText").startswith("Draw something")
    page.click("#strip button:nth-child(4)")
    assert page.ask(chosen) == 1


def centred(page, ink, size):
    source = asset("centring.js").replace("export function", "function")
    side = ink.shape[0]
    call = f"centred(Float32Array.from({ink.flatten().tolist()}), {side}, {size})"
    return page.ask(f"(() => {{ {source}; const r = {call}; return r && [...r]; }})()")


def test_drawings_are_centred_as_mnists_digits_were(page, mnist):
    page.open(mnist[2])
    ink = torch.zeros(196, 196)
    ink[20:120, 30:80] = 1  # 100 high, 50 wide, far from the middle
    found = torch.tensor(centred(page, ink, 28)).view(28, 28)
    rows, columns = found.sum(1).nonzero().flatten(), found.sum(0).nonzero().flatten()
    assert (len(rows), len(columns)) == (20, 10)  # fitted into 20 by 20, in proportion
    assert (int(rows[0]), int(columns[0])) == (4, 9)  # and its middle is the picture's
    assert found.max() == 1
    assert found.sum() == 200
    ink[20:120, 70:80] = 0.25  # the centre of mass moves left, so the ink moves right
    found = torch.tensor(centred(page, ink, 28)).view(28, 28)
    mass = (found.sum(0) * (torch.arange(28) + 0.5)).sum() / found.sum()
    assert abs(float(mass) - 14) <= 0.5
    assert centred(page, torch.zeros(196, 196), 28) is None
    cropped = torch.tensor(centred(page, ink, 20)).view(20, 20)
    assert torch.equal(cropped, found[4:24, 4:24])


class Nudge:
    """A retrainer that moves every weight a little."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, mask):
        self.calls += 1
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.01 * self.calls)
        mask.apply_(model)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize("synapses", [False, True])
def test_retrained_steps_have_their_own_weights(page, tmp_path, synapses):
    data = datasets.load("letter")
    parts = {part: getattr(data, part).first(300) for part in ("train", "validation", "test")}
    data = replace(data, **parts)
    network = training.build("16-12-26:tanh", seed=0)
    steps = pruned(network, data, tmp_path / "run", 4, Nudge(), synapses)
    page.open(report(tmp_path / "run", tmp_path / "p.html", data=data))
    rows = offered(data.validation, shown(page))
    for step in steps:
        page.set("#step", step.number)
        page.set("#sample", "5")
        with torch.no_grad():
            want = step.network()(data.validation.inputs[[rows[5]]])[0]
        assert (outputs(page) - want).abs().max() < CLOSE


def test_features_have_sliders_in_their_own_units(page, tmp_path):
    data = datasets.load("letter")
    network = training.build("16-12-26:relu", seed=0)
    page.open(explain(network, tmp_path / "p.html", data))
    assert page.ask("document.querySelectorAll('#features label').length") == 16
    assert page.ask("document.querySelector('#features span').innerText") == "x-box"
    page.set("#sample", "0")
    page.set("#features input", 11)
    rows = offered(sentei.reporting.page.story.evenly(data.test), 1)
    image = sentei.reporting.page.story.evenly(data.test).inputs[rows[0]].clone()
    image[0] = (11 - data.scaling.mean[0]) / data.scaling.std[0]
    with torch.no_grad():
        want = network.eval()(image[None])[0]
    assert (outputs(page) - want).abs().max() < CLOSE


@pytest.mark.parametrize("network", ["16-12-26:relu", "images"])
def test_raw_inputs_are_standardised_on_the_page(page, network, tmp_path):
    if network == "images":
        torch.manual_seed(0)
        inputs = torch.rand(40, 1, 8, 8) * 50 + 100
        samples = Samples(inputs, torch.arange(40) % 5)
        first = sentei.Standardise.of(datasets.Scaling.of(inputs))
        behind = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5))
        whole = first.before(behind).eval()
        page.open(explain(whole, tmp_path / "p.html", samples))
        page.click("#strip button:nth-child(8)")
        row = inputs[[offered(samples, 40)[7]]]
    else:
        data = datasets.load("letter", standardise=False)
        whole = sentei.Standardise.of(data.scaling).before(training.build(network, seed=0)).eval()
        page.open(explain(whole, tmp_path / "p.html", data))
        page.set("#sample", "3")
        page.set("#features input", 11)
        assert page.ask("document.querySelector('#features input').step") == "1"
        test = sentei.reporting.page.story.evenly(data.test)
        row = test.inputs[[offered(test, 4)[3]]].clone()
        row[0, 0] = 11
    with torch.no_grad():
        assert (outputs(page) - whole(row)[0]).abs().max() < CLOSE


def test_every_operation_computes_what_torch_computes(page, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(1, 6, 3, padding=1, stride=2),
            norm=nn.BatchNorm2d(6),
            act=nn.GELU(),
            deep=nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
            silu=nn.SiLU(),
            mean=nn.AvgPool2d(2, padding=1),
            mix=nn.Sequential(nn.Conv2d(6, 8, (3, 2), bias=False), nn.ELU(0.7)),
            most=nn.MaxPool2d(3, stride=1, padding=1),
            leaky=nn.LeakyReLU(0.2),
            flat=nn.Flatten(),
            wide=nn.Linear(8 * 6 * 7, 20),
            normal=nn.BatchNorm1d(20),
            gelu=nn.GELU("tanh"),
            drop=nn.Dropout(0.5),
            last=nn.Linear(20, 5),
            parts=nn.LogSoftmax(1),
        )
    )
    inputs = torch.rand(40, 1, 28, 28)
    network.train()(inputs * 3 - 1)  # so that norms have something to say
    samples = Samples(inputs, torch.arange(40) % 5)
    page.open(explain(network, tmp_path / "p.html", samples))
    for place in (0, 11, 39):
        page.click(f"#strip button:nth-child({place + 1})")
        with torch.no_grad():
            want = network.eval()(inputs[[offered(samples, 40)[place]]])[0]
        assert (outputs(page) - want).abs().max() < CLOSE


def test_a_shrunk_network_without_some_inputs_is_explained(page, tmp_path):
    data = datasets.load("letter")
    network = training.build("16-12-26", seed=0)
    groups = sentei.find_units(network, data.train.inputs[:64], inputs=True)
    inputs = next(group for group in groups if group.kind == "input")
    mask = sentei.Mask.full(groups).without({inputs: [1, 4, 9]})
    small = sentei.shrink(network, mask, data.train.inputs[:64])
    formats.save(small, tmp_path / "s.safetensors")
    page.open(explain(formats.load(tmp_path / "s.safetensors"), tmp_path / "p.html", data))
    unread = "[...document.querySelectorAll('#features .unread span')].map(e => e.innerText)"
    assert page.ask(unread) == ["y-box", "onpix", "xybar"]
    rows = offered(sentei.reporting.page.story.evenly(data.test), 4)
    page.set("#sample", "3")
    with torch.no_grad():
        want = small(sentei.reporting.page.story.evenly(data.test).inputs[[rows[3]]])[0]
    assert (outputs(page) - want).abs().max() < CLOSE


def test_markup_in_names_is_text(page, tmp_path):
    evil = "</script><img src=x onerror=\"document.title='had'\"><b>{{data}}"
    data = datasets.load("letter")
    names = (evil, *data.classes[1:])
    features = (evil, *data.features[1:])
    data = replace(data, name=evil, features=features, classes=names)
    page.open(explain(training.build("16-5-26"), tmp_path / "p.html", data))
    assert page.ask("document.querySelectorAll('img, b b, main script').length") == 0
    assert page.ask("document.title") == f"A network for {evil}: 5 units · sentei"
    assert evil in page.ask("document.querySelector('#title').innerText")
    assert page.ask("document.querySelector('#graph .output .name').textContent") == evil


@pytest.mark.slow
def test_ten_thousand_units_and_a_thousand_classes_still_open(page, tmp_path):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(30, 10_000), nn.ReLU(), nn.Linear(10_000, 3))
    x = torch.rand(60, 30)
    page.open(explain(wide, tmp_path / "w.html", (x, torch.arange(60) % 3)))
    words = page.ask("document.body.innerText")
    assert "10,000 units: criteria are compared up to 512" in words
    assert "fc" not in page.ask("document.querySelector('#title').innerText")
    assert "256 drawn" in words
    many = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 1000))
    page.open(explain(many, tmp_path / "m.html", (x, torch.arange(60) * 16)))
    assert page.ask("document.querySelectorAll('#graph .output').length") == 26
    assert page.ask("document.querySelectorAll('#class option').length") == 1001
    assert "26 drawn" in page.ask("document.body.innerText")


def test_what_cannot_be_run_in_the_page_is_said(page, tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 9), nn.Linear(9, 26)

        def forward(self, x):
            return self.two(self.one(x).relu() ** 2)

    data = datasets.load("letter")
    page.open(explain(Odd(), tmp_path / "p.html", data))
    words = page.ask("document.querySelector('#unrunnable').innerText")
    assert "cannot draw or run the network" in words
    assert "Odd" in words
    assert page.ask("document.querySelectorAll('#agreement svg').length") > 3


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_at_any_width(page, mnist, width, dark):
    page.open(mnist[2], width=width, dark=dark)
    assert page.ask("document.documentElement.scrollWidth") <= width
    ground = page.ask("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(20, 26, 23)") is dark


def test_what_is_interactive_has_a_name_and_figures_are_described(page, mnist):
    page.open(mnist[2])
    nameless = page.ask(
        "[...document.querySelectorAll('button, input, select')].filter(e => "
        "!(e.innerText || e.ariaLabel || e.labels?.[0]?.innerText)).map(e => e.outerHTML)"
    )
    assert nameless == []
    undescribed = "document.querySelectorAll('[role=img]:not([aria-label])').length"
    assert page.ask(undescribed) == 0


def test_a_story_of_one_network_has_no_slider(page, tmp_path):
    network = training.build("16-5-26", seed=0)
    story = of_network(network, datasets.load("letter"))
    page.open(write(story, tmp_path / "p.html"))
    assert page.ask("document.querySelector('#stepper').hidden")
    assert page.ask("document.querySelector('#cost').hidden")
    assert not page.ask("document.querySelector('#graph').hidden")


def test_a_page_about_a_network_speaks_of_no_run(page, tmp_path):
    data = datasets.load("letter")
    network = training.build("16-6-26:relu", seed=0)
    with torch.no_grad():
        network[2].weight[:, 2] = 0  # no output reads this unit
    page.open(explain(network, tmp_path / "p.html", data))
    said = [page.ask("document.body.innerText")]
    for node in ("1:0", "1:2", "0:3"):
        page.click(f'#graph [data-node="{node}"]')
        said.append(page.ask("document.querySelector('#unit').innerText"))
    page.click('#graph [data-node="2:3"]')
    said.append(page.ask("document.querySelector('#network').innerText"))
    words = "\n".join(said)
    run = r"removes\b|(was|were|been|not) removed|never|untouched|the run\b|steps?\b|stay|pruned"
    assert re.findall(run, words, re.IGNORECASE) == []
    assert "No unit reads it." in words


def test_numbers_of_a_column_have_one_format(page, mnist):
    page.open(mnist[2])
    source = asset("words.js").replace("export function", "function")
    call = "[[-0.000204, 9.02e-5, 0.0137, 0], [1e-12, 3.4e-11], [1200, 3.5, -71]]"
    found = page.ask(f"(() => {{ {source}; return {call}.map(v => v.map(column(v))); }})()")
    assert found == [
        ["−0.0002040", "0.0000902", "0.0137000", "0.0000000"],
        ["1.00e-12", "3.40e-11"],
        ["1200.00", "3.50", "−71.00"],
    ]
    scores = page.ask(
        "[...document.querySelectorAll('#removed td:nth-child(3)')].map(e => e.innerText)"
    )
    assert len({len(score.partition(".")[2]) for score in scores}) == 1


def test_the_scale_of_the_classes_starts_where_their_numbers_do(page, mnist, tmp_path):
    text = re.search(r'id="data">(.*?)</script>', mnist[2].read_text(), re.DOTALL)[1]
    right = torch.arange(60).view(6, 10) + 38  # of 100 samples: from 38 to 97 of them
    whole = json.loads(text)
    whole["byClass"] = {"right": packed(right, "i4"), "total": [100] * 10}
    (tmp_path / "p.html").write_text(joined(whole), "utf-8")
    page.open(tmp_path / "p.html")
    words = page.ask("document.querySelector('#classes').innerText")
    assert "The scale goes from 30% to 100%." in words
    assert "91.0% (+50.0)" in words  # the class 3
    places = page.ask(
        "(() => { const t = document.querySelectorAll('#classes .track')[3];"
        "const at = e => e.getBoundingClientRect(); const w = at(t);"
        "return ['b', 's'].map(n => { const b = at(t.querySelector(n));"
        "return 100 * (b.x + b.width / 2 - w.x) / w.width; }); })()"
    )
    assert places == pytest.approx([100 * (41 - 30) / 70, 100 * (91 - 30) / 70], abs=1)


def test_a_page_of_values_shows_r2_and_outputs_but_no_classes(page, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(90, 4)
    y = torch.stack([x.sum(1), x[:, 0] - x[:, 1]], 1)
    recipe = Recipe(20, lr=0.02, batch_size=15, loss="half_squared_error")
    training.train(network, (x, y), recipe)
    probe = Probe(network, (x, y), "half_squared_error")
    run = sentei.prune(
        network,
        sentei.find_units(network, x),
        probe,
        sentei.ranked("ablation", sentei.one_at_a_time()),
        sentei.units_at_most(6),
        journal=tmp_path / "run",
    )
    steps = list(run)
    page.open(report(tmp_path / "run", tmp_path / "page.html"))
    page.set("#step", 1)
    said = page.ask("document.querySelector('#step-said').innerText")
    assert "R²" in said
    assert "correct" not in said
    assert f"{steps[1].measured.metrics['r2']:.3g}" in said
    charts = page.ask("document.querySelector('#tradeoff').innerHTML")
    assert "R²" in charts
    assert "ccuracy" not in charts
    answer = page.ask("document.querySelector('#answer').innerText")
    assert answer.startswith("The network outputs ")
    assert "predicts" not in answer
