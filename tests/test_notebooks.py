"""The notebooks: they run in the order of their cells, and what is stored is what they show."""

import json
from pathlib import Path

import pytest

import documents

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PAPERS = {path.stem for path in (FOLDER.parent / "papers").glob("*.md")}


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def shown(cell):
    """Return whether a cell prints something, and whether it draws a figure, as stored."""
    kinds = {output["output_type"] for output in cell["outputs"]}
    assert kinds <= {"stream", "display_data", "execute_result"}
    pictures = [o for o in cell["outputs"] if "image/png" in o.get("data", {})]
    return "stream" in kinds, bool(pictures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"__name__": path.stem}
    cells = code_cells(path)
    assert len(cells) > 2
    for cell in cells:
        lines = [line for line in cell["source"] if not line.startswith("%")]
        printed, drawn = shown(cell)
        said = documents.printed("".join(lines), path.name, names)
        assert bool(said) == printed, lines
        assert (lines[-1].strip() == "figure") == drawn, lines


def test_there_is_a_notebook_for_each_paper_and_all_are_listed():
    assert {path.stem for path in NOTEBOOKS} == PAPERS | {
        *("first-prune", "why-it-works", "own-model")
    }
    page = (FOLDER / "index.md").read_text()
    assert all(f"({path.name})" in page for path in NOTEBOOKS)


def test_notebooks_stay_small():
    assert all(path.stat().st_size < 300_000 for path in NOTEBOOKS)
