"""The page for all readers: colours that every eye tells apart, the keyboard, screen readers."""

import itertools
import re

import numpy as np
import pytest

import sentei
from browser import NEEDED, chromium
from sentei import Probe, datasets, training
from sentei.reporting import figures
from sentei.reporting.page import report
from sentei.reporting.page.bundle import asset

STEPS = 4
# Linear RGB as it is seen without one kind of cone: Machado, Oliveira and Fernandes (2009).
SEEN = {
    "all cones": np.eye(3),
    "without long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                     [-0.003882, -0.048116, 1.051998]],
    "without medium": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                       [-0.011820, 0.042940, 0.968881]],
    "without short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                      [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def linear(colour):
    """Return the linear RGB values of a colour such as "#1d63b5"."""
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    part = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    x, y, z = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(one, other, cones):
    """Return the distance of two colours in CIELAB, as eyes with these cones see them."""
    seen = np.array(SEEN[cones])
    return float(np.linalg.norm(lab(seen @ linear(one)) - lab(seen @ linear(other))))


def contrast(one, other):
    bright, dark = sorted((float(TO_XYZ[1] @ linear(each)) for each in (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def themes():
    """Return the page's colours by name: those of the light theme, and those of the dark one."""
    blocks = re.findall(r":root \{(.*?)\}", asset("page.css"), re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in blocks]


@pytest.mark.parametrize("cones", SEEN)
def test_raises_and_lowers_are_told_apart_by_all_eyes(cones):
    assert apart("#2f7d5b", "#b0562d", "without long") < 20  # green and brown
    pairs = [(theme["blue"], theme["orange"]) for theme in themes()]
    assert len(pairs) == 2
    for one, other in [*pairs, (figures.BLUE, figures.ORANGE)]:
        assert apart(one, other, cones) > 75


def test_colours_stand_out_from_what_they_are_drawn_on():
    for theme in themes():
        for front, back in itertools.product(("ink", "soft", "blue", "orange"), ("paper", "card")):
            assert contrast(theme[front], theme[back]) >= 4.5, (front, back)
    assert (themes()[0]["blue"], themes()[0]["orange"]) == (figures.BLUE, figures.ORANGE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Prune a network for letters for a few steps, and return the path of its page."""
    home, data = tmp_path_factory.mktemp("access"), datasets.load("letter")
    network = training.build("16-8-7-26:relu", seed=0)
    groups = sentei.find_units(network, data.train.inputs[:64])
    probe = Probe(network, data.train.first(100))
    propose = sentei.ranked("ablation", sentei.linear("50 %", steps=STEPS), within="group")
    for step in sentei.prune(network, groups, probe, propose, journal=home / "run",
                             evaluate=data.validation.first(100)):  # fmt: skip
        if step.number == STEPS:
            break
    return report(home / "run", home / "page.html", data=data)


@pytest.fixture(scope="module")
def page():
    with chromium() as found:
        yield found


NAME = (
    "(e => e.innerText || e.ariaLabel || e.labels?.[0]?.innerText ||"
    " e.getAttribute('aria-label') || e.querySelector('title')?.textContent)"
)


@NEEDED
def test_all_that_answers_to_a_click_has_a_name_a_role_and_the_keyboard(page, path):
    page.open(path)
    page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    wanted = "[...document.querySelectorAll('button, input, select, canvas[tabindex], .pick')]"
    assert page.ask(f"{wanted}.length") > 40
    assert page.ask(f"{wanted}.filter(e => !{NAME}(e)).map(e => e.outerHTML)") == []
    # Each is a tab stop, or lies in a group that has one.
    alone = page.ask(
        f"{wanted}.filter(e => e.tabIndex < 0 && "
        "!e.closest('[role=group], #graph')?.querySelector('[tabindex=\"0\"]'))"
        ".map(e => e.outerHTML)"
    )
    assert alone == []
    dots = "[...document.querySelectorAll('circle.dot')]"
    assert page.ask(f"{dots}.length") > 100
    assert page.ask(f"{dots}.every(e => e.closest('svg').getAttribute('role') === 'slider')")
    sliders = "[...document.querySelectorAll('[role=slider]')]"
    for name in ("aria-label", "aria-valuenow", "aria-valuetext", "aria-valuemax"):
        assert page.ask(f"{sliders}.every(e => e.getAttribute('{name}'))"), name
    heads = "[...document.querySelectorAll('th')].filter(e => !e.textContent).length"
    assert page.ask(heads) == 0
    assert page.ask("document.documentElement.lang") == "en"


@NEEDED
def test_arrow_keys_go_through_the_dots_of_a_plot_by_their_cost(page, path):
    page.open(path)
    plot = "document.querySelector('#agreement [role=slider]')"
    seen = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        page.ask(f"{plot}.focus()")
        page.key(key)
        words = page.ask(f"{plot}.getAttribute('aria-valuetext')")
        unit = int(re.match(r"unit (\d+): ", words)[1])
        chosen = page.ask("[...document.querySelectorAll('circle.chosen')].map(e=>e.dataset.unit)")
        assert set(chosen) == {str(unit)}
        assert f"Unit {unit} of " in page.ask("document.querySelector('#unit').innerText")
        places = page.ask(
            f"[...{plot}.querySelectorAll('circle')].map(e => Number(e.getAttribute('cx')))"
        )
        order = np.argsort(places, kind="stable").tolist()
        seen.append(order.index(unit))
    assert seen == [0, 1, 2, 1, len(places) - 1]


@NEEDED
def test_arrow_keys_move_through_the_steps_in_a_chart(page, path):
    page.open(path)
    chart = "document.querySelector('#tradeoff [role=slider]')"
    page.ask(f"{chart}.focus()")
    page.key("ArrowLeft")
    page.key("ArrowLeft")  # the chart was drawn anew, and still has the focus
    assert page.ask("document.querySelector('#step').value") == str(STEPS - 2)
    assert page.ask(f"{chart}.getAttribute('aria-valuenow')") == str(STEPS - 2)
    page.key("End")
    page.key("ArrowRight")  # behind the last there is none
    assert (
        page.ask("document.querySelector('#stepper label').innerText") == f"Step {STEPS} of {STEPS}"
    )
    assert page.errors == []


def column(page, name):
    """Return the texts of a column of the table of removed units."""
    return page.ask(
        "(() => { const heads = [...document.querySelectorAll('#removed th')];"
        f"const at = heads.findIndex(e => e.innerText.split(' ')[0] === '{name}');"
        "return [...document.querySelectorAll('#removed tbody tr')]"
        ".map(e => e.children[at].innerText); })()"
    )


def press(page, name):
    page.ask(
        "[...document.querySelectorAll('#removed th button')]"
        f".find(e => e.innerText === '{name}').click()"
    )


@NEEDED
def test_removed_units_are_sorted_and_found(page, path):
    page.open(path)
    steps = [int(step) for step in column(page, "step")]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, STEPS + 1))
    scores = [float(text.replace("−", "-")) for text in column(page, "score")]
    for down in (False, True):
        press(page, "score")
        found = [float(text.replace("−", "-")) for text in column(page, "score")]
        assert found == sorted(scores, reverse=down)
        state = page.ask("document.querySelector('#removed [aria-sort]').getAttribute('aria-sort')")
        assert state == ("descending" if down else "ascending")
    bars = page.ask("[...document.querySelectorAll('#removed td i')].map(e => e.style.width)")
    sizes = [float(bar.rstrip("%")) for bar in bars]
    assert max(sizes) == 100
    assert sizes == pytest.approx([100 * abs(s) / max(map(abs, found)) for s in found], abs=1)
    press(page, "step")
    units, layers = column(page, "unit"), column(page, "of")
    page.set("#find", units[0])
    assert set(column(page, "unit")) == {unit for unit in units if unit.startswith(units[0])}
    assert f"of {len(steps)} removed units" in page.ask(
        "document.querySelector('#removed').innerText"
    )
    page.set("#find", layers[0].upper())
    assert set(column(page, "of")) == {layers[0]}
    page.set("#find", "")
    assert column(page, "unit") == units


@NEEDED
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(page, path, width):
    page.open(path, width=width, touch=width < 500)
    page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.ask("document.documentElement.scrollWidth") <= width
    # What scrolls is a table, a named region that the keyboard reaches.
    cut = page.ask(
        "[...document.querySelectorAll('main *')].filter(e => e.tagName !== 'INPUT' &&"
        " ['auto', 'scroll'].includes(getComputedStyle(e).overflowY) &&"
        " (e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1) &&"
        " !(e.tabIndex === 0 && e.ariaLabel)).map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []
