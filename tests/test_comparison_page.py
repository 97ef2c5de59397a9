"""The page that `sentei compare` writes: curves that are switched, and what criteria get wrong."""

import json
import re

import pytest
import torch

from browser import NEEDED, chromium
from commands import run
from sentei import formats, training
from sentei.experiments.comparing import Choice, Curve, Way, _choice, rows
from sentei.reporting.page.comparison import comparison, write_comparison

ON = "120 validation samples"


def curves():
    """Return curves of three ways: two seeds of the first and one of the others."""
    good, bad, odd = (Way(name, None, 0) for name in ("taylor1", "random", "obs"))
    choice = Choice(10, 5, 2, "unit 3 of fc1", 0.25, 1)
    return [
        Curve(good, 0, (10, 5, 2), (0.9, 0.8, 0.6), 0.75, choice=choice),
        Curve(good, 1, (10, 5, 2), (0.9, 0.7, 0.5), 0.25, choice=choice),
        Curve(bad, 0, (10, 5, 2), (0.9, 0.5, 0.1), -0.125, choice=choice),
        Curve(odd, 0, (10, 6, 2), (0.9, 0.4, 0.05), float("nan")),
    ]


def test_a_choice_is_judged_by_what_ablation_says_of_each_unit():
    exact = torch.tensor([0.1, 0.5, 0.0, 0.9, 0.2, 0.3], dtype=torch.float64)
    units = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("b", 3)]
    given = torch.tensor([1.0, 5.0, 0.0, 2.0, 9.0, 9.0]).double()  # 2, 0 and 3 go first
    assert _choice(given, exact, units) == Choice(6, 3, 2, "unit 1 of b", 0.9, 1)
    assert _choice(exact, exact, units) == Choice(6, 3, 3, "unit 2 of b", 0.2, 4)
    assert _choice(exact[:1], exact[:1], units) is None


def test_the_page_has_the_means_of_the_table():
    found = comparison(curves(), rows(curves()), network="m", samples=ON)
    first, second, third = found["ways"]
    assert [way["name"] for way in found["ways"]] == ["taylor1", "random", "obs"]
    assert first["values"] == pytest.approx([0.9, 0.75, 0.55])
    assert (first["half"], first["agreement"]) == (pytest.approx(0.75), 0.5)
    assert second["choice"]["common"] == 2
    assert (third["agreement"], third["choice"], third["left"]) == (None, None, [10, 6, 2])
    json.dumps(found, allow_nan=False)


@NEEDED
def test_curves_are_switched_and_the_table_is_that_of_the_command(tmp_path):
    path = write_comparison(curves(), rows(curves()), tmp_path / "c.html", network="m", samples=ON)
    with chromium() as page:
        page.open(path)
        lines = "document.querySelectorAll('#curves polyline').length"
        assert page.ask(lines) == 3
        page.click("#ways input")
        assert page.ask(lines) == 2
        assert page.ask("document.querySelector('#curves svg').ariaLabel").count("at half") == 2
        page.click("#ways input")
        assert page.ask(lines) == 3
        row = page.ask("[...document.querySelector('#ways tbody tr').children].map(e=>e.innerText)")
        areas = [(0.85 * 5 + 0.7 * 3) / 8, (0.8 * 5 + 0.6 * 3) / 8]
        mean, apart = sum(areas) / 2, abs(areas[0] - areas[1]) / 2**0.5
        want = [f"{100 * mean:.2f}% ± {100 * apart:.2f}", "75.00%", "+0.50"]
        assert row == ["", "taylor1", *want]
        wrong = page.ask("document.querySelector('#wrong').innerText")
        assert "unit 3 of fc1" in wrong
        assert "the costliest of all" in wrong
        assert ON in page.ask("document.querySelector('#curves').textContent")
        names = "[...document.querySelectorAll('input')].every(e => e.ariaLabel)"
        assert page.ask(names)
        page.open(path, width=390, dark=True, touch=True)
        assert page.ask("document.documentElement.scrollWidth") <= 390
        assert page.errors == []
        assert all(url.startswith(("file:", "data:")) for url in page.requests)


def test_compare_writes_its_page_beside_the_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    formats.save(training.build("16-6-26", seed=0), "m.safetensors")
    line = ["compare", "m.safetensors", "--data", "letter", "--criteria", "magnitude", "--repairs",
            "none", "--keep", 3, "--steps", 2, "--seeds", 1, "--samples", 60]  # fmt: skip
    code, out, _ = run(*line, "--json", capsys=capsys)
    assert code == 0
    (way,) = json.loads(out)["ways"]
    assert json.loads(out)["page"] == "compared.html"
    text = (tmp_path / "compared.html").read_text()
    whole = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert whole["title"] == "1 way to prune m.safetensors"
    assert whole["ways"][0]["area"] == way["area"]
    assert whole["ways"][0]["choice"]["size"] == 6
