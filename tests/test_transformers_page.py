"""docs/transformers.md says what benchmarks/transformers_by_axis.jsonl holds, and no more."""

import math
import re
from statistics import mean, stdev

import pytest
from matplotlib.figure import Figure
from PIL import Image

import axes_page
from axes_results import AS_CUT, DISTILLED, EIGHTHS, NOT_DONE, UNTOUCHED, WAYS, key, results

PAGE = (axes_page.DOCS / "transformers.md").read_text(encoding="utf-8")
ROWS = results()
NETWORKS = [*axes_page.QUALITY]


def row(axis, way, eighths, seed, **numbers):
    base = {"network": "ViT", "axis": axis, "way": way, "eighths": eighths, "seed": seed}
    return base | {"parameters": 100, "multiply_adds": 50, "latency": 1.0, "loss": 1.0} | numbers


def test_the_pages_tables_are_those_of_the_results():
    tables = axes_page.tables(ROWS)
    found = {
        mark: re.search(f"<!-- {mark} -->\n\n(.*?)\n\n<!-- /{mark} -->", PAGE, re.DOTALL)
        for mark in tables
    }
    assert {mark: match and match[1] for mark, match in found.items()} == tables


@pytest.mark.parametrize("network", NETWORKS)
def test_the_pages_figures_are_drawn_from_the_results(network):
    path = axes_page.pictures()[network]
    with Image.open(path) as picture:
        assert picture.info["Description"] == axes_page.digest(ROWS, network)
    assert f"(pictures/{path.name})" in PAGE


def test_each_result_is_there_once():
    keys = [key(each) for each in ROWS]
    assert len(keys) == len(set(keys))


def test_what_is_compared_keeps_equally_many_parameters():
    allowed = {}
    for each in ROWS:
        if each["axis"] == axes_page.PATTERN:
            where = each["network"], each["eighths"]
            assert allowed.setdefault(where, each["parameters"]) == each["parameters"]
    assert len(allowed) == len(NETWORKS) * len(EIGHTHS)
    for each in ROWS:
        if each["axis"] != UNTOUCHED and each["parameters"] is not None:
            most = allowed[each["network"], each["eighths"]]
            # A file's header shrinks too: the budget in bytes leaves room for some entries more.
            assert each["parameters"] <= 1.002 * most
            if each["axis"] in (axes_page.UNITS, axes_page.WIDTH):  # fine steps
                assert each["parameters"] >= 0.97 * most


def test_each_cut_is_one_that_the_study_makes():
    wanted = {(axis, way) for axis in axes_page.AXES for way in WAYS} - NOT_DONE
    found = {(each["axis"], each["way"]) for each in ROWS} - {("untouched", "untouched")}
    assert found <= wanted
    for network in NETWORKS:
        whole = {each["seed"] for each in axes_page.untouched(ROWS) if each["network"] == network}
        assert whole == {each["seed"] for each in ROWS if each["network"] == network}


def test_a_cell_of_fewer_seeds_says_how_many():
    assert axes_page.spread([1.0, 3.0], 1, 3) == "2.0 ± 1.4 (2)"
    assert axes_page.spread([1.0], 1, 3) == "1.0 (1)"


def test_a_cell_is_mean_and_deviation_of_the_seeds_that_reached_the_budget():
    rows = [row("untouched", "untouched", 8, seed, accuracy=0.9) for seed in range(3)]
    for seed, (cut, after) in enumerate([(0.5, 0.7), (0.6, 0.8), (0.7, 0.9)]):
        numbers = {"accuracy": cut, "distilled_accuracy": after, "distilled_loss": 1.0}
        rows.append(row("heads", "chosen", 6, seed, **numbers))
        rows.append(row("heads", "chosen", 4, seed, parameters=None))
    table = axes_page.quality_table(rows, "ViT").splitlines()
    assert table[0] == "Test accuracy (%), 3 seeds; whole network: 90.0 ± 0.0."
    cells = "- | 60.0 ± 10.0 | - | - | 80.0 ± 10.0 | -"
    assert table[4:] == [f"| heads | by its criterion | {cells} |"]
    sizes = axes_page.size_table(rows, "ViT").splitlines()
    assert "| heads | - / - / - | 100 / 100 / 100 | - / - / - |" in sizes


@pytest.mark.parametrize("stage", [AS_CUT, DISTILLED])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_figures_points_are_means_with_bars_of_the_deviation(network, stage):
    axes = Figure().add_subplot()
    own = [each for each in ROWS if each["network"] == network]
    axes_page.curves(axes, own, network, stage, "parameters", ["chosen"])
    line = axes.containers[0].lines[0]
    named = axes.containers[0].get_label()
    reached = [
        [r for r in own if (r["axis"], r["way"], r["eighths"]) == (named, "chosen", eighths)]
        for eighths in EIGHTHS
    ]
    if network == "ViT":
        values = [[100 - 100 * r[f"{stage}accuracy"] for r in each] for each in reached]
    else:
        values = [[math.exp(r[f"{stage}loss"]) for r in each] for each in reached]
    assert line.get_ydata() == pytest.approx([mean(each) for each in values])
    bars = axes.containers[0].lines[2][0].get_segments()
    lengths = [segment[1][1] - segment[0][1] for segment in bars]
    spreads = [stdev(each) if len(each) > 1 else 0.0 for each in values]
    assert lengths == pytest.approx([2 * each for each in spreads], abs=1e-9)
