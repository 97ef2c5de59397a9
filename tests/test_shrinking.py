"""The shrinking paper's experiments, at a small size: curves, surfaces and grown networks."""

import pytest
import torch

from sentei.papers import Order
from sentei.papers.claims import Report
from sentei.papers.shrinking import (
    ORDERS,
    OTHERS,
    SETTINGS,
    cascade,
    drawing,
    handover,
    judging,
    thresholds,
    todo,
)
from sentei.papers.shrinking.networks import samples, setting, trained
from sentei.papers.shrinking.removal import GAINS, emptied, removed
from sentei.training import evaluate


@pytest.fixture(scope="module")
def result():
    """Remove ten units, which separate a diamond from its surroundings, in every way."""
    return removed("diamond", 0, [*ORDERS, *OTHERS], ORDERS, controls=True, quick=True)


def test_every_way_begins_and_ends_alike(result):
    curves = result["curves"]
    assert len(curves) == len(ORDERS) * 2 + len(OTHERS)
    for curve in curves.values():
        assert len(curve["error"]) == len(curve["accuracy"]) == len(curve["held"]) == 11
        assert curve["layers"] == [0] * 10
        assert curve["error"][0] == pytest.approx(curves["single ablation"]["error"][0])
        assert curve["error"][-1] == pytest.approx(curves["single ablation"]["error"][-1], rel=1e-5)
    first = [curves[f"{way} ablation"]["error"][1] for way in ("single", "iterative")]
    assert first[0] == first[1] == min(curve["error"][1] for curve in curves.values())


def test_a_surface_says_what_the_curve_says(result):
    """At gain 1 the loss is that before the removal, at gain 0 that after it."""
    for criterion in ("ablation", "taylor1", "taylor2-diagonal"):
        curve = result["curves"][f"iterative {criterion}"]
        (drawn,) = curve["surfaces"]
        assert drawn["removal"] == 0
        assert drawn["exact"][10] == pytest.approx(curve["error"][0], rel=1e-4)
        assert drawn["exact"][0] == pytest.approx(curve["error"][1], rel=1e-4)
        assert drawn["tangent"][10] == drawn["parabola"][10]
        assert len(drawn["exact"]) == len(GAINS) == 101


def test_ablation_agrees_with_itself(result):
    assert result["spearman"]["ablation"] == [pytest.approx(1.0)]
    assert 0.3 < result["spearman"]["taylor2"][0] <= 1


def test_controls_have_the_size_they_are_compared_at(result):
    rows = result["controls"]
    assert [row["hidden"] for row in rows] == [[5], [3], [1]]
    assert [row["removed"] for row in rows] == [5, 7, 9]
    curve = result["curves"]["iterative ablation"]
    assert rows[0]["pruned"] == [curve["accuracy"][5], curve["held"][5]]


def test_training_stops_at_its_error():
    how = setting("1x100", quick=False)
    learn, _ = samples("crop", 0)
    learn = learn.first(500)
    eager = type(how)(**{**vars(how), "stop": 0.3})
    model, epochs = trained(eager, (20,), learn, 0)
    assert 1 < epochs < how.epochs
    assert evaluate(model, learn, loss=how.loss).loss <= 0.3
    before, _ = trained(eager, (20,), learn, 0, epochs=epochs - 1)
    assert evaluate(before, learn, loss=how.loss).loss > 0.3


@pytest.mark.parametrize("name", SETTINGS)
def test_a_quick_run_does_less_than_the_full_one(name):
    quick, full = setting(name, quick=True), setting(name, quick=False)
    assert full == SETTINGS[name]
    assert quick.units <= full.units / 5
    assert quick.epochs <= full.epochs
    assert quick.ranked < full.ranked
    assert quick.data == full.data


def test_held_out_samples_are_others():
    for name in ("crop", "diamond", "letter"):
        learn, held = samples(name, 1)
        together = torch.cat([learn.inputs[:300], held.inputs[:300]]).unique(dim=0)
        alone = learn.inputs[:300].unique(dim=0), held.inputs[:300].unique(dim=0)
        overlap = sum(map(len, alone)) - len(together)
        assert overlap <= (10 if name == "letter" else 0)  # letters come in equal rows


def test_a_network_grows_while_it_learns():
    found = cascade.grown(0, most=3, updates=40)
    assert len(found["error"]) == 4
    assert found["error"] == sorted(found["error"], reverse=True)
    assert found["accuracy"][-1] > 0.7
    assert found["held"][-1] > 0.6


def test_the_best_candidate_correlates_with_what_is_wrong():
    torch.manual_seed(0)
    heard = torch.randn(400, 6)
    errors = (heard[:, :1] > 0).float() @ torch.ones(1, 3) + 0.1 * torch.randn(400, 3)
    unit = cascade._best_candidate(heard, errors, 200)
    value = (heard @ unit).sigmoid()
    assert torch.corrcoef(torch.stack([value, errors[:, 0]]))[0, 1].abs() > 0.9


def test_the_same_settings_are_the_same_jobs():
    names = [job.name for job in todo(quick=False, seeds=2)]
    assert len(set(names)) == len(names) == 2 * (len(SETTINGS) + 2 + len(handover.AIMS))
    assert [job.name for job in todo(quick=False, seeds=1)] == names[: len(names) // 2]


@pytest.mark.slow
def test_thresholds_read_literally_change_no_removal_of_one_layer():
    found = thresholds.replaced("1x100", 0, quick=True)
    assert list(found) == list(thresholds.READINGS)
    plain, mean, median, *_ = found.values()
    assert plain == mean == median
    assert len(plain["accuracy"]) == 21


def invented(held):
    """Make up a run: n of a hundred units go for a hundredth point each, in every way another n."""
    gone = dict(zip(handover.WAYS, (60, 70, 71, 72, 80, 73), strict=True))
    return {
        words: {
            "accuracy": [0.99] * (n + 1) + [0.5] * (100 - n),
            "held": [held] * (n + 1) + [0.4] * (100 - n),
            "scratch": held - 0.01,
        }
        for words, n in gone.items()
    }


def test_work_is_handed_over_when_a_unit_goes():
    """Of two units with the same output either goes for nothing, if the other takes over."""
    how = setting("diamond", quick=True)
    learn, held = samples("diamond", 0)
    model, _ = trained(how, (4,), learn, 0)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model[0], name)[1] = getattr(model[0], name)[0]
    seen = learn.first(200)
    alone, least_squares = (
        emptied(model, seen, held, how, "ablation-least-squares", repair=repair)
        for repair in (None, "least_squares")
    )
    assert least_squares["error"][1] <= (1 + 1e-5) * least_squares["error"][0]
    assert alone["error"][1] > 1.01 * alone["error"][0]


def test_the_way_that_removes_most_is_judged_by_the_aim():
    runs = {f"handover-{name}": [invented(0.9), invented(0.92)] for name in handover.AIMS}
    one, two, control = handover.claims(runs)
    assert one.verdict == two.verdict == control.verdict == "holds"
    assert one.measured.startswith("brute force 60.0 ± 0.0 (2 seeds), 60.0")
    assert "brute force after least squares 0.910 ± 0.014 (2 seeds), 0.910" in one.remark
    assert "+1.0 ± 0.0 points (2 pairs)" in control.measured
    assert "33 units left" in control.measured
    few = {name: [{**run, **dict.fromkeys(handover.REPAIRED, run[handover.ALONE])}
                  for run in found] for name, found in runs.items()}  # fmt: skip
    assert [row.verdict for row in handover.claims(few)[:2]] == ["does not hold", "holds"]


def test_networks_that_begin_anew_have_the_widths_that_are_left():
    found = handover.handed_over("diamond", 0, quick=True)
    assert list(found) == list(handover.WAYS)
    assert all(len(found[way]["accuracy"]) == len(found[way]["held"]) == 11 for way in found)
    assert sum(found[handover.COMPARED]["hidden"]) == 10 // handover.LEFT
    assert found[handover.ALONE]["accuracy"] != found[handover.REPAIRED[0]]["accuracy"]


@pytest.fixture(scope="module")
def runs(result):
    """Results of every setting, made of the small one."""
    grown = cascade.grown(0, most=2, updates=10)
    runs = {name: [result, result] for name in SETTINGS} | {"cascade": [grown, grown]}
    bounded = thresholds.replaced("1x100", 0, quick=True)
    runs["thresholds"] = [bounded, bounded]
    runs |= {f"handover-{name}": [invented(0.9), invented(0.92)] for name in handover.AIMS}
    two = {**result, "curves": {k: dict(v) for k, v in result["curves"].items()}}
    for curve in two["curves"].values():
        curve["layers"] = [1, 0] * 5
    return runs | {name: [two, two] for name in ("2x50", "2x50-large", "three-layers")}


FIGURES = {
    *(f"figure-{number}" for number in range(2, 13)),
    *("others", "controls", "handover"),
}


def test_rows_come_of_results(runs):
    rows = judging.claims(runs)
    table = Report("shrinking", "title", "command", True, rows).markdown()
    assert len(rows) > 20
    assert "nan" not in table
    assert len({row.claim for row in rows}) == len(rows)


def test_every_figure_is_drawn(runs):
    """Drawn, and not written, which takes longest."""
    drawn = {}

    class Held:
        def figure(self, name, figure):
            drawn[name] = figure

    drawing.draw(Held(), runs)
    assert drawn.keys() == FIGURES
    lines = {name: sum(len(axes.lines) for axes in figure.axes) for name, figure in drawn.items()}
    assert all(lines.values())


@pytest.mark.slow
def test_every_figure_is_written(runs, tmp_path):
    drawing.draw(Order(tmp_path), runs)
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert drawn == sorted(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))
