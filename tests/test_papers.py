"""Reproductions of papers: jobs run once, rows of claims, published pages equal to the results."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from commands import run
from sentei import papers
from sentei.papers.claims import Claim, Report, paired, spread
from sentei.papers.pages import publish

ROOT = Path(__file__).parent.parent


def test_a_spread_is_a_mean_a_deviation_and_a_count():
    assert spread([0.96, 0.97, 0.98], 1, 100, "%") == "97.0 ± 1.0 % (3 seeds)"
    assert spread([1234.0], 0) == "1,234 (1 seed)"
    assert spread([1.0, float("nan")]) == "nan ± nan (2 seeds)"
    with pytest.raises(ValueError, match="at least one"):
        spread([])


def test_pairs_are_compared_by_students_t():
    # t = 2.0 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom: p = 1 - t / sqrt(t² + 2).
    told = paired([3.0, 4.0, 5.0], [2.0, 2.0, 2.0])
    assert (told.mean, told.deviation, told.pairs) == (2.0, 1.0, 3)
    assert told.p == pytest.approx(1 - 12**0.5 / 14**0.5, abs=1e-9)
    # The 97.5 % point of Student's distribution with 4 degrees of freedom is 2.776445.
    apart = [2.776445 / 5**0.5 + d for d in (-1.0, -1.0, 0.0, 1.0, 1.0)]
    assert paired(apart, [0.0] * 5).p == pytest.approx(0.05, abs=1e-6)
    assert told.words(1, 10, "points") == "+20.0 ± 10.0 points (3 pairs, p = 0.074)"
    assert paired([1.0, 2.0, 3.001], [0.0, 1.0, 2.0]).words() == "+1.00 ± 0.00 (3 pairs, p < 0.001)"
    assert paired([1.0], [0.5]).words() == "+0.50 (1 pair)"
    with pytest.raises(ValueError, match="as many"):
        paired([1.0], [])


def test_a_table_of_claims_survives_the_bars_in_it():
    rows = [Claim("|w| is best", "97 %", "96.4 %", "does not hold")]
    report = Report("p", "P", "sentei reproduce p", False, rows)
    assert "| \\|w\\| is best | 97 % | 96.4 % | does not hold |  |" in report.markdown()
    assert json.loads(report.json())["claims"][0]["verdict"] == "does not hold"
    assert "not for publication" in Report("p", "P", "c", True, rows).markdown()


def test_an_unknown_paper_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="unknown paper 'shrinkin'"):
        papers.reproduce("shrinkin", papers.Order(tmp_path))


def ran(folder, **files):
    (folder / "figures").mkdir(parents=True)
    (folder / "claims.md").write_text("| a new table |\n")
    for name, text in files.items():
        (folder / f"{name}.md").write_text(text)
    for name in ("seen", "unseen"):
        (folder / "figures" / f"{name}.png").write_bytes(name.encode())
    return folder


WHOLE = Report("p", "P", "sentei reproduce p", False, [Claim("c", "1", "2", "holds")])


def test_a_page_keeps_its_words_and_gets_the_run_s_tables_and_figures(tmp_path):
    page = tmp_path / "p.md"
    page.write_text(
        "Words.\n<!-- claims -->\nold\n<!-- /claims -->\n![s](p/seen.png)\n"
        "<!-- rules --><!-- /rules -->\nEnd.\n"
    )
    left = publish(WHOLE, ran(tmp_path / "run", rules="- \\1 if it rains"), page)
    assert page.read_text() == (
        "Words.\n<!-- claims -->\n\n| a new table |\n\n<!-- /claims -->\n![s](p/seen.png)\n"
        "<!-- rules -->\n\n- \\1 if it rains\n\n<!-- /rules -->\nEnd.\n"
    )
    assert [file.name for file in left] == ["unseen.png"]
    assert (tmp_path / "p" / "seen.png").read_bytes() == b"seen"
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == ["claims.json", "seen.png"]


@pytest.mark.parametrize(
    ("quick", "words", "said"),
    [
        (True, "<!-- claims --><!-- /claims -->", "--quick"),
        (False, "no marks", "<!-- claims -->"),
        (False, "<!-- claims --><!-- /claims --> ![x](p/gone.png)", "gone.png"),
    ],
)
def test_what_must_not_be_published_leaves_the_page_as_it_was(tmp_path, quick, words, said):
    page = tmp_path / "p.md"
    page.write_text(words)
    with pytest.raises(ValueError, match=said):
        publish(replace(WHOLE, quick=quick), ran(tmp_path / "run"), page)
    assert page.read_text() == words
    assert not (tmp_path / "p").exists()


def test_a_page_of_several_papers_or_of_a_quick_run_is_refused_before_any_work(tmp_path):
    from sentei.cli.reproduce import reproduce

    for asked in ({"paper": "all"}, {"paper": "wsf", "quick": True}):
        with pytest.raises(ValueError, match="--page"):
            reproduce(**asked, into=tmp_path / "into", page=tmp_path / "p.md")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("asked", [{"seeds": 0}, {"processes": 0}, {"seeds": -1, "quick": True}])
def test_a_reproduction_of_nothing_is_refused_before_any_work(tmp_path, asked):
    from sentei.cli.reproduce import reproduce

    with pytest.raises(ValueError, match=r"is how .* at least 1; got"):
        reproduce("annealing", into=tmp_path / "into", **asked)
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("quick", [True, False])
def test_a_quick_run_says_so_on_the_screen(tmp_path, monkeypatch, capsys, quick):
    from sentei import papers

    monkeypatch.setattr(papers, "reproduce", lambda name, order: replace(WHOLE, quick=order.quick))
    words = ["reproduce", "wsf", "--into", tmp_path, *["--quick"] * quick]
    code, out, err = run(*words, "--quiet", capsys=capsys)
    assert (code, err) == (0, "")
    assert ("not for publication" in out) is quick
    _, out, _ = run(*words, "--json", capsys=capsys)
    (report,) = json.loads(out)["papers"]
    assert report["quick"] is quick
    assert report["claims"][0]["verdict"] == WHOLE.claims[0].verdict


PUBLISHED = sorted((ROOT / "docs").glob("**/claims.json"))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.name)
def test_published_claims_are_the_pages_and_were_measured_in_full(file):
    folder = file.parent.parent
    page = (folder / f"{file.parent.name}.md").read_text()
    kept = json.loads(file.read_text())
    claims = [Claim(**row) for row in kept.pop("claims")]
    assert not kept["quick"]
    assert claims
    table = Report(claims=claims, **kept).markdown()
    assert table.split("\n\n", 1)[1].strip() in page
    for linked in re.findall(r"\]\((\S+\.(?:png|svg|csv))\)", page):
        assert (folder / linked).exists(), linked
